"""NYUDv2: 1,449 indoor pictures with depth, labelled by 40 classes.

Facts and where they are from:

* The labelled set, nyu_depth_v2_labeled.mat (MATLAB 7.3, which is HDF5): images, depths in metres
  and labels of 894 classes; the split of 795 and 654 images is in splits.mat (trainNdxs and
  testNdxs, from 1 on): the dataset's page, cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html. The
  md5 of the former is that of torch-uncertainty's NYUv2, among others.
* The 40 classes are those of Gupta, Arbelaez and Malik (CVPR 2013): classMapping40.mat has for
  each of the 894 its class (mapClass, from 1 on) and their names (className); they are checked
  against ours. No checksum was published for it, nor for splits.mat.
* Gupta's pictures, on which the paper's nets were trained, are rows 46 to 470 and columns 41 to
  600 of the originals, counted from 1 (README of s-gupta/rgbd), named img_5001 to img_6449; this
  drops the frame that has no depth. The same crop is written here.
* HHA images have no public address. They are taken where the user has them.

The layout that the authors' data layers read is accepted too, with --from: data/images, data/depth
(16-bit, millimetres) and data/hha with img_NUMBER.png, segmentation/img_NUMBER.mat (variable
`segmentation`, 1 to 40, 0 unlabelled), and optionally trainval.txt and test.txt of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.base.download import Checksum
from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.data.info import IGNORE, DatasetInfo, HeadInfo
from fullconv.datasets.mat import opened_hdf5, read_ids, read_mat
from fullconv.datasets.public import PublicDataset
from fullconv.datasets.sources import Source, Sources
from fullconv.datasets.writing import Content, Conversion, Item, listed_names
from fullconv.papers.classes import NYUD as NYUD_CLASSES

FIRST_NUMBER = 5001
CROP = (slice(45, 470), slice(40, 600))  # rows and columns, of 480 x 640

NYU = ("https://horatio.cs.nyu.edu/mit/silberman", "http://horatio.cs.nyu.edu/mit/silberman")
GITHUB = "https://raw.githubusercontent.com"
LABELED = Source(
    key="labeled",
    file="nyu_depth_v2_labeled.mat",
    addresses=tuple(f"{server}/nyu_depth_v2/nyu_depth_v2_labeled.mat" for server in NYU),
    megabytes=2972,
    checksum=Checksum("md5", "520609c519fba3ba5ac58c8fefcc3530", "torch-uncertainty"),
)
SPLITS = Source(
    key="splits",
    file="splits.mat",
    addresses=(
        *(f"{server}/indoor_seg_sup/splits.mat" for server in NYU),
        f"{GITHUB}/VainF/nyuv2-python-toolkit/master/splits.mat",
    ),
)
MAPPING = Source(
    key="mapping",
    file="classMapping40.mat",
    addresses=(
        f"{GITHUB}/ankurhanda/nyuv2-meta-data/master/classMapping40.mat",
        f"{GITHUB}/VainF/nyuv2-python-toolkit/master/classMapping40.mat",
    ),
)
HHA = Source(key="hha", file="hha", roots=("data/hha", "nyud/data/hha", "hha"))
AUTHORS = Source(key="authors", file="nyud", roots=(".", "nyud"), marker="segmentation")


def read_class_table(path: Path) -> NDArray[np.uint8]:
    """Read classMapping40.mat: the class of each of the 894, 255 for 0 (unlabelled).

    Raises:
        FullconvError: the file is damaged, or its classes are not these 40.
    """
    cells = read_mat(path, "className").ravel()
    names = tuple("".join(map(str, np.ravel(cell))) for cell in cells)
    if [_most_like(name) for name in names] != list(NYUD_CLASSES):
        raise FullconvError(f"{path}: its className are not the 40 classes; it is another file")
    stored = read_ids(path, "mapClass").ravel()
    if stored.max() > len(NYUD_CLASSES):
        raise FullconvError(f"{path}: its mapClass has ids outside 0..40; it is damaged")
    return np.append(0, stored).astype(np.uint8) - np.uint8(1)  # 0 becomes 255


def _most_like(name: str) -> str:
    """Return the one of the 40 classes whose spelling is nearest to `name`: copies differ."""
    return next(iter(get_close_matches(name, NYUD_CLASSES, n=1, cutoff=0.5)), "")


def read_split(path: Path) -> dict[int, str]:
    """Read splits.mat: "train" or "test" for each picture's number, which counts from 5001.

    Raises:
        FullconvError: the file is damaged or puts a picture on both sides.
    """
    sides = {
        split: (read_ids(path, f"{split}Ndxs", lowest=1).ravel() + FIRST_NUMBER - 1).tolist()
        for split in ("train", "test")
    }
    found = {number: split for split, numbers in sides.items() for number in numbers}
    if len(found) != sum(map(len, sides.values())):
        raise FullconvError(f"{path}: puts a picture into both train and test; it is damaged")
    return found


def _convert(sources: Sources) -> Conversion:
    authors = sources.find("authors")
    split = _authors_split(authors) if authors else None
    split = split or read_split(sources.provide("splits"))
    hha = sources.find("hha")
    if authors:
        items = _authors_items(authors, split, hha)
    else:
        table = read_class_table(sources.provide("mapping"))
        items = _items(sources.provide("labeled"), split, table, hha)
    if hha:
        return Conversion(len(split), items)
    return Conversion(len(split), items, absent=("hha",), notes=(_how_to_get_hha(sources),))


def _how_to_get_hha(sources: Sources) -> str:
    return (
        "note: without HHA images, which have no public address. Make them from the depths by "
        "rcnn/saveHHA.m of github.com/s-gupta/rcnn-depth or by "
        "github.com/charlesCXK/Depth2HHA-python, name them img_5001.png to img_6449.png, put "
        f"them into {sources.downloads / 'hha'}, remove the dataset folder and run the same "
        "command again"
    )


def _items(
    path: Path, split: Mapping[int, str], table: NDArray[np.uint8], hha: Path | None
) -> Iterator[Item]:
    """Yield the pictures of nyu_depth_v2_labeled.mat, in its order."""
    with opened_hdf5(path) as file:
        images, depths, labels = (file[name] for name in ("images", "depths", "labels"))
        if len(images) + FIRST_NUMBER <= max(split):
            raise FullconvError(f"{path}: has {len(images)} pictures; splits.mat names more")
        for number in sorted(split):
            at = number - FIRST_NUMBER
            pictures: dict[str, Content] = {
                "images": partial(_cropped, images, at),
                "depth": partial(_millimetres, depths, at),
            }
            if hha:
                pictures["hha"] = _hha(hha / f"img_{number}.png")
            masks = {"masks": partial(_labels, labels, at, table)}
            yield Item(split[number], f"img_{number}", pictures, masks)


def _cropped(stored: Any, at: int) -> NDArray[Any]:
    """Read picture `at`: (H, W) or (H, W, 3), MATLAB's axes being reversed in the file."""
    picture: NDArray[Any] = np.asarray(stored[at]).T
    return np.ascontiguousarray(picture[CROP])


def _millimetres(depths: Any, at: int) -> NDArray[np.uint16]:
    return np.rint(_cropped(depths, at) * 1000.0).clip(0, 0xFFFF).astype(np.uint16)


def _labels(labels: Any, at: int, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    stored = _cropped(labels, at)
    if stored.max() >= len(table):
        raise FullconvError(
            f"label {stored.max()} of picture {at + 1}: is none of {len(table) - 1}"
        )
    ids: NDArray[np.uint8] = table[stored]
    return ids


def _hha(path: Path) -> Content:
    """Take an HHA image as it is, or cropped if it has the originals' size."""
    if not path.is_file():
        return path
    reader = ImageReader()
    return (lambda: reader.image(path)[CROP]) if reader.image_size(path) == (480, 640) else path


def _authors_split(root: Path) -> dict[int, str] | None:
    """Read the authors' lists, if they are there."""
    files = {"train": root / "trainval.txt", "test": root / "test.txt"}
    if not all(file.is_file() for file in files.values()):
        return None
    return {
        _number(name, file): split for split, file in files.items() for name in listed_names(file)
    }


def _number(name: str, file: Path) -> int:
    digits = name.removeprefix("img_")
    if not digits.isdecimal():
        raise FullconvError(f"{file}: {name!r} is no number of a picture")
    return int(digits)


def _authors_items(root: Path, split: Mapping[int, str], hha: Path | None) -> Iterator[Item]:
    """Yield the pictures of the layout that the authors' data layers read."""
    folders: Sequence[tuple[str, Path]] = [
        ("images", root / "data" / "images"),
        ("depth", root / "data" / "depth"),
        *([("hha", hha)] if hha else []),
    ]
    for number in sorted(split):
        name = f"img_{number}"
        pictures = {kind: folder / f"{name}.png" for kind, folder in folders}
        mask = partial(_authors_labels, root / "segmentation" / f"{name}.mat")
        yield Item(split[number], name, pictures, {"masks": mask})


def _authors_labels(path: Path) -> NDArray[np.int64]:
    stored = read_ids(path, "segmentation")
    return np.where(stored > 0, stored - 1, IGNORE)


NYUD = PublicDataset(
    name="nyudv2",
    info=DatasetInfo(
        name="NYUDv2",
        inputs={"color": "images", "depth": "depth", "hha": "hha"},
        heads={"labels": HeadInfo(masks="masks", classes=NYUD_CLASSES)},
    ),
    sources=(LABELED, SPLITS, MAPPING, HHA, AUTHORS),
    convert=_convert,
    expected={"train": 795, "test": 654},
    also=("nyud",),
    needs=("scipy", "h5py"),
)
