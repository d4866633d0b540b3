"""Images and masks in pairs: in two folders, or in one where the mask's name has a suffix.

Among them are ADE20K / MIT SceneParsing (images, annotations; 0 is no class), MMSegmentation
(img_dir, ann_dir), Roboflow's semantic masks (x_mask.png, _classes.csv) and GeoTIFF pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import AnnotatedImage, Source
from fullconv.datasets.formats.files import Place, images_below, split_of
from fullconv.datasets.formats.masks import (
    Table,
    find_table,
    found_values,
    is_coloured,
    named,
    read_values,
    require_named,
    unpacked,
)

_IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "leftimg8bit")
_MASKS = (
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "ann_dir",
    "gt",
    "segmentation",
    "segmentations",
    "ground_truth",
)
_ENDINGS = re.compile(
    r"[-_. ](mask|masks|label|labels|labelids|labeltrainids|seg|segmentation|gt|annotation|l)$",
    re.I,
)
_IMAGE_ENDINGS = re.compile(r"[-_. ](image|img|leftimg8bit|rgb|sat)$", re.I)


class _Pair(NamedTuple):
    name: str
    split: str
    image: Path
    mask: Path


def recognise(place: Place, reporter: Reporter) -> Source | None:
    """Recognise images beside masks; values are named by a list of classes, if there is one."""
    if place.only is not None:
        return None
    pairs = _in_two_folders(place.root) or _in_one_folder(place.root)
    if not pairs:
        return None
    folders = {place.root, *(pair.mask.parent for pair in pairs)}
    table = find_table(sorted(folders), place.table)
    masks = [pair.mask for pair in pairs]
    coloured = is_coloured(masks[0])
    if table is None or table.coloured != coloured:
        values = named(found_values(masks, reporter), coloured=coloured)
        require_named(values, place.root)
    else:
        values = _named(table)
    names = tuple(dict.fromkeys(name for name in values.values() if name is not None))
    kind = "colours" if coloured else "label ids"
    palette = {name: unpacked(value) for value, name in values.items() if name and coloured}
    return Source(
        f"pairs of images and masks ({kind})",
        place.root,
        names,
        len(pairs),
        partial(_read, pairs),
        values=values,
        palette=palette,
        notes=() if table else (_advice(names, coloured=coloured),),
    )


def _named(table: Table) -> dict[int, str | None]:
    """Return a list's names; where it begins at 1, 0 means no class, as in ADE20K."""
    values: dict[int, str | None] = dict(table.names)
    if not table.coloured:
        for void in {0, 255} - set(values):
            values[void] = None
    return values


def _advice(names: Sequence[str], *, coloured: bool) -> str:
    what = "colours" if coloured else "values"
    return (
        f"classes are called by the {what} found ({', '.join(names[:4])}, …): name them by "
        f"--map {names[0]}=NAME or a list, --table FILE"
        if names
        else "no classes were found"
    )


def _in_two_folders(root: Path) -> list[_Pair]:
    """Pair images below a folder of images with masks of the same name below one of masks."""
    images: dict[tuple[str, ...], Path] = {}
    masks: dict[tuple[str, ...], Path] = {}
    for path in images_below(root):
        parts = path.relative_to(root).parts[:-1]
        words = [part.lower() for part in parts]
        at_mask = next((at for at, word in enumerate(words) if word in _MASKS), None)
        at_image = next((at for at, word in enumerate(words) if word in _IMAGES), None)
        if at_mask is not None:
            rest = (*parts[:at_mask], *parts[at_mask + 1 :])
            if path.suffix.lower() in (".png", ".tif", ".tiff", ".bmp"):
                masks[(*rest, _ENDINGS.sub("", path.stem))] = path
        elif at_image is not None:
            rest = (*parts[:at_image], *parts[at_image + 1 :])
            images[(*rest, _IMAGE_ENDINGS.sub("", path.stem))] = path
    if not masks:
        return []
    lacking = [path for key, path in masks.items() if key not in images]
    if images and len(lacking) == len(masks):
        raise FullconvError(
            f"{root}: has images such as {next(iter(images.values())).name} and masks such as "
            f"{lacking[0].name}, none of which are called alike; call each mask as its image"
        )
    return [
        _Pair("/".join(_without_split(key)), split_of(key[:-1]), images.get(key, path), path)
        for key, path in sorted(masks.items())
        if key in images
    ]


def _without_split(key: Sequence[str]) -> list[str]:
    return [part for part in key[:-1] if not split_of([part])] + [key[-1]]


def _in_one_folder(root: Path) -> list[_Pair]:
    """Pair x.jpg with x_mask.png, or what else its ending is."""
    images, masks = {}, {}
    for path in images_below(root):
        plain = _ENDINGS.sub("", path.stem)
        if plain != path.stem:
            masks[path.parent / plain] = path
        else:
            images[path.parent / _IMAGE_ENDINGS.sub("", path.stem)] = path
    pairs = []
    for key, path in sorted(masks.items()):
        if key in images:
            inside = key.relative_to(root).parts
            name = "/".join(_without_split(inside))
            pairs.append(_Pair(name, split_of(inside[:-1]), images[key], path))
    return pairs


def _read(pairs: Sequence[_Pair]) -> Iterator[AnnotatedImage]:
    for name, split, image, mask in pairs:
        values = partial(read_values, mask)
        yield AnnotatedImage(name, image, mask, values=values, split=split)
