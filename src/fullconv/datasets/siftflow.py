"""SIFT Flow: 2,688 outdoor pictures of 256 x 256, each labelled twice, by things and by geometry.

Facts and where they are from:

* Address: downloadSiftFlow.m of nightrome/matconvnet-calvin. No checksum was published.
* Layout: Images/FOLDER/NAME.jpg, SemanticLabels/FOLDER/NAME.mat and GeoLabels/FOLDER/NAME.mat,
  whose variable S has the ids from 1 on; 0 in the former and -1 in the latter is unlabelled.
* Class names, in the order of their ids: SiftFlowDataset.m of matconvnet-calvin.
* The split: TestSet1.txt names the 200 test images, with a folder, a backslash and a suffix. All
  others are training images except the two without annotation (the FCN authors' lists).
* Cow, desert and moon are in no test image; the paper leaves them out of its means.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError
from fullconv.data.info import IGNORE, DatasetInfo, HeadInfo
from fullconv.datasets.mat import read_ids
from fullconv.datasets.public import PublicDataset
from fullconv.datasets.sources import Source, Sources
from fullconv.datasets.writing import Conversion, Item, listed_names
from fullconv.papers.classes import ABSENT_FROM_SIFT_FLOW_TEST, GEOMETRY, SIFT_FLOW

FOLDER = "spatial_envelope_256x256_static_8outdoorcategories"
UNANNOTATED = frozenset({"highway_bost181", "street_urb506"})

ARCHIVE = Source(
    key="siftflow",
    file="SiftFlowDataset.zip",
    addresses=("http://www.cs.unc.edu/~jtighe/Papers/ECCV10/siftflow/SiftFlowDataset.zip",),
    megabytes=140,
    roots=("SiftFlowDataset", "."),
    marker="SemanticLabels",
    wanted=("*.jpg", "*.mat", "*TestSet1.txt"),
)


def split_names(images: Iterable[str], test_lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Divide the names of all images into "train" and "test", sorted.

    Args:
        images: names without suffix.
        test_lines: the lines of TestSet1.txt: folder, backslash, name, ".jpg".
    """
    test = {line.replace("\\", "/").rpartition("/")[2].removesuffix(".jpg") for line in test_lines}
    return {
        "train": tuple(sorted(frozenset(images) - test - UNANNOTATED)),
        "test": tuple(sorted(test)),
    }


def read_labels(path: Path) -> NDArray[np.int64]:
    """Read a file of either labelling: ids (H, W) from 0, 255 where unlabelled.

    Raises:
        FullconvError: the file is missing or damaged.
    """
    stored = read_ids(path, "S", lowest=-1)
    return np.where(stored > 0, stored - 1, IGNORE)


def _convert(sources: Sources) -> Conversion:
    root = sources.provide("siftflow")
    images = sorted((root / "Images" / FOLDER).glob("*.jpg"))
    if not images:
        raise FullconvError(f"{root}: has no images in Images/{FOLDER}; the archive is incomplete")
    names = split_names((path.stem for path in images), listed_names(root / "TestSet1.txt"))
    items = (_item(root, split, name) for split in names for name in names[split])
    return Conversion(sum(len(listed) for listed in names.values()), items)


def _item(root: Path, split: str, name: str) -> Item:
    file = f"{FOLDER}/{name}.mat"
    return Item(
        split,
        name,
        {"images": root / "Images" / FOLDER / f"{name}.jpg"},
        {
            "masks": partial(read_labels, root / "SemanticLabels" / file),
            "masks_geo": partial(read_labels, root / "GeoLabels" / file),
        },
    )


SIFTFLOW = PublicDataset(
    name="siftflow",
    info=DatasetInfo(
        name="SIFT Flow",
        heads={
            "sem": HeadInfo(masks="masks", classes=SIFT_FLOW, unscored=ABSENT_FROM_SIFT_FLOW_TEST),
            "geo": HeadInfo(masks="masks_geo", classes=GEOMETRY),
        },
    ),
    sources=(ARCHIVE,),
    convert=_convert,
    expected={"train": 2486, "test": 200},
    needs=("scipy",),
)
