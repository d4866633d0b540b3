"""Images and masks in pairs: in two folders, or in one where the mask's name has a suffix.

Among them are ADE20K / MIT SceneParsing (images, annotations; 0 is no class), MMSegmentation
(img_dir, ann_dir), Roboflow's semantic masks (x_mask.png, _classes.csv) and GeoTIFF pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import AnnotatedImage, Source
from fullconv.datasets.formats.files import Place, images_below, split_of
from fullconv.datasets.formats.masks import (
    Table,
    find_table,
    found_values,
    is_coloured,
    named,
    read_table,
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


_Key = tuple[str, ...]  # what an image and its mask have in common: folders, and the name


class _Pair(NamedTuple):
    key: _Key
    image: Path
    mask: Path


class _Found(NamedTuple):
    pairs: list[_Pair]
    images: list[Path]  # without a mask
    masks: list[Path]  # without an image


def recognise(place: Place, reporter: Reporter) -> Source | None:
    """Recognise images beside masks; values are named by a list of classes, if there is one."""
    if place.only is not None:
        return None
    found = _in_two_folders(place.root)
    if not found.pairs:
        found = _in_one_folder(place.root)
    if not found.pairs:
        return None
    masks = [pair.mask for pair in found.pairs]
    coloured = is_coloured(masks[0], place.reader)
    table, notes = _table(place, masks, coloured=coloured)
    if table is None:
        values = named(found_values(masks, place.reader, reporter), coloured=coloured)
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
        len(found.pairs),
        partial(_read, found.pairs, place.reader),
        values=values,
        palette=palette,
        left_over={
            "images without a mask": _below(place.root, found.images),
            "masks without an image": _below(place.root, found.masks),
        },
        notes=notes if table else (*notes, _advice(names, coloured=coloured)),
    )


def _table(
    place: Place, masks: Sequence[Path], *, coloured: bool
) -> tuple[Table | None, tuple[str, ...]]:
    """Return the list of classes that tells of the masks, and notes on one that doesn't.

    Raises:
        FullconvError: the one that was given doesn't.
    """
    path = place.table or find_table(sorted({place.root, *(mask.parent for mask in masks)}))
    if path is None:
        return None, ()
    table = read_table(path)
    if table.coloured == coloured:
        return table, ()
    lists, hold = ("label ids", "colours") if coloured else ("colours", "label ids")
    told = f"{path}: lists {lists}, but the masks hold {hold}"
    if place.table is not None:
        raise FullconvError(f"{told}, such as {masks[0]}; list those, or leave --table out")
    return None, (f"{told}; it was not used",)


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


def _in_two_folders(root: Path) -> _Found:
    """Pair images below a folder of images with masks of the same name below one of masks."""
    images: dict[Path, _Key] = {}
    masks: dict[Path, _Key] = {}
    for path in images_below(root):
        *folders, _ = path.relative_to(root).parts
        words = [folder.lower() for folder in folders]
        at_mask = next((at for at, word in enumerate(words) if word in _MASKS), None)
        at_image = next((at for at, word in enumerate(words) if word in _IMAGES), None)
        if at_mask is not None:
            if path.suffix.lower() in (".png", ".tif", ".tiff", ".bmp"):
                masks[path] = (*folders[:at_mask], *folders[at_mask + 1 :], path.stem)
        elif at_image is not None:
            images[path] = (*folders[:at_image], *folders[at_image + 1 :], path.stem)
    found = _paired(images, masks)
    if images and masks and not found.pairs:
        raise FullconvError(
            f"{root}: has images such as {found.images[0].name} and masks such as "
            f"{found.masks[0].name}, none of which are called alike; call each mask as its image"
        )
    return found


def _in_one_folder(root: Path) -> _Found:
    """Pair x.jpg with x_mask.png, or what else its ending is."""
    keys = {path: (*path.relative_to(root).parts[:-1], path.stem) for path in images_below(root)}
    plain = {path: _without(_ENDINGS, key) for path, key in keys.items()}
    # What has a mask of its own is an image, whatever its ending: left_l.jpg of left_l_mask.png.
    owners = {plain[path] for path, key in keys.items() if plain[path] != key}
    masks = {path: key for path, key in keys.items() if plain[path] != key and key not in owners}
    return _paired({path: key for path, key in keys.items() if path not in masks}, masks)


def _paired(images: Mapping[Path, _Key], masks: Mapping[Path, _Key]) -> _Found:
    """Pair what is called alike; endings are taken off names only where that leaves them alone."""
    images, masks = dict(images), dict(masks)
    pairs = []
    for of_image, of_mask in product((None, _IMAGE_ENDINGS), (None, _ENDINGS)):
        by_key = {_without(of_image, key): path for path, key in images.items()}
        for mask, key in [*masks.items()]:
            common = _without(of_mask, key)
            if (image := by_key.pop(common, None)) is not None:
                pairs.append(_Pair(common, image, mask))
                del images[image], masks[mask]
    return _Found(sorted(pairs), [*images], [*masks])


def _without(ending: re.Pattern[str] | None, key: _Key) -> _Key:
    return key if ending is None else (*key[:-1], ending.sub("", key[-1]))


def _below(root: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path.relative_to(root).as_posix() for path in paths)


def _read(pairs: Sequence[_Pair], reader: ImageReader) -> Iterator[AnnotatedImage]:
    for (*folders, stem), image, mask in pairs:
        name = "/".join((*(each for each in folders if not split_of([each])), stem))
        values = partial(read_values, mask, reader)
        yield AnnotatedImage(name, image, mask, values=values, split=split_of(folders))
