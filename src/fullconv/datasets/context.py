"""PASCAL-Context: every pixel of VOC 2010's images labelled, here by 59 classes and a background.

Facts and where they are from:

* Address: the project's page moved from Stanford to roozbehm.info (cvlab-kaist/CAT-Seg issue 9).
  No checksum was published for its archive; VOC 2010's is torchvision's.
* Layout: trainval/NAME.mat, whose variable LabelMap (uint16) has ids of 459 classes, 0 where
  unlabelled; labels.txt, whose lines are "ID: name".
* The 59 classes in their order: the project's 59_labels.txt. Three of its names differ from
  those of labels.txt, which are used here: table (diningtable), cloth (clothes) and bedclothes
  (bedcloth). What is none of them is the background, id 0, a class like the others.
* The split is that of VOC 2010's ImageSets/Main: 4,998 and 5,105 images.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.data.info import DatasetInfo
from fullconv.datasets.mat import read_ids
from fullconv.datasets.public import PublicDataset
from fullconv.datasets.sources import Source, Sources
from fullconv.datasets.voc import VOC2010_ARCHIVE
from fullconv.datasets.writing import Conversion, Item, listed_names
from fullconv.papers.classes import PASCAL_CONTEXT

ARCHIVE = Source(
    key="context",
    file="trainval.tar.gz",
    addresses=(
        "https://roozbehm.info/pascal-context/trainval.tar.gz",
        "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
    ),
    megabytes=31,
    roots=(".", "pascal-context"),
    marker="labels.txt",
    wanted=("*labels.txt", "*trainval/*.mat"),
)


def class_ids(labels_txt: str) -> dict[int, int]:
    """Map ids of the 459 classes to those of `PASCAL_CONTEXT`, by name, without the background.

    Args:
        labels_txt: the text of labels.txt.

    Raises:
        FullconvError: a class is not in it.
    """
    lines = (line.partition(":") for line in labels_txt.splitlines())
    ids = {name.replace(" ", ""): int(number) for number, _, name in lines if number.isdigit()}
    missing = [name for name in PASCAL_CONTEXT[1:] if name not in ids]
    if missing:
        raise FullconvError(f"labels.txt: lacks the class {missing[0]!r}; it is not the list")
    return {ids[name]: label for label, name in enumerate(PASCAL_CONTEXT) if label}


def read_labels(path: Path, ids: Mapping[int, int]) -> NDArray[np.uint8]:
    """Read trainval/NAME.mat: ids (H, W) of `PASCAL_CONTEXT`.

    Raises:
        FullconvError: the file is missing or damaged.
    """
    stored = read_ids(path, "LabelMap")
    table = np.zeros(max(*ids, stored.max()) + 1, np.uint8)
    table[list(ids)] = list(ids.values())
    return table[stored]


def _convert(sources: Sources) -> Conversion:
    context, voc = sources.provide("context"), sources.provide("voc2010")
    ids = class_ids((context / "labels.txt").read_text(encoding="utf-8"))
    names = {
        split: listed_names(voc / "ImageSets" / "Main" / f"{split}.txt")
        for split in ("train", "val")
    }
    items = (
        Item(
            split,
            name,
            {"images": voc / "JPEGImages" / f"{name}.jpg"},
            {"masks": partial(read_labels, context / "trainval" / f"{name}.mat", ids)},
        )
        for split in names
        for name in names[split]
    )
    count = sum(len(listed) for listed in names.values())
    return Conversion(count, items)


CONTEXT = PublicDataset(
    name="pascal-context",
    info=DatasetInfo.plain("PASCAL-Context", PASCAL_CONTEXT),
    sources=(ARCHIVE, VOC2010_ARCHIVE),
    convert=_convert,
    expected={"train": 4998, "val": 5105},
    also=("pascalcontext",),
    needs=("scipy",),
)
