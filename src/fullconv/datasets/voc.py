"""PASCAL VOC, SBD, and the split of both on which the paper's nets were trained and measured.

Facts and where they are from:

* Addresses and checksums of the VOC archives and of SBD's: torchvision.datasets.voc and .sbd.
  VOC 2012's second and third address: pytorch/vision pull request 9335.
* Ids of the classes: the VOC development kit (VOCinit.m); 0 is the background, 255 marks borders
  and is ignored. Its palette: VOClabelcolormap.m.
* VOC's layout: ImageSets/Segmentation/{train,val}.txt, JPEGImages/NAME.jpg and
  SegmentationClass/NAME.png, a palette image of ids.
* SBD's layout: train.txt and val.txt (8,498 and 2,857 names), img/NAME.jpg, cls/NAME.mat, whose
  struct GTcls has the ids in its field Segmentation.
* The evaluation list of the paper, seg11valid: the images of VOC 2011's segmentation val that are
  not in SBD's train, 736 of 1,111.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from fullconv.base.download import Checksum
from fullconv.base.palette import voc_palette
from fullconv.data.info import DatasetInfo
from fullconv.datasets.mat import read_ids
from fullconv.datasets.public import PublicDataset
from fullconv.datasets.sources import Source, Sources
from fullconv.datasets.writing import Conversion, Item, listed_names
from fullconv.papers.classes import VOC

OXFORD = ("https://thor.robots.ox.ac.uk/pascal/VOC", "http://host.robots.ox.ac.uk/pascal/VOC")


def voc_archive(year: int, file: str, md5: str, megabytes: int, *mirrors: str) -> Source:
    """Describe the training and validation archive of a year."""
    return Source(
        key=f"voc{year}",
        file=file,
        addresses=(*(f"{server}/voc{year}/{file}" for server in OXFORD), *mirrors),
        megabytes=megabytes,
        checksum=Checksum("md5", md5, "torchvision"),
        roots=(f"VOCdevkit/VOC{year}", f"TrainVal/VOCdevkit/VOC{year}", f"VOC{year}", "."),
        marker="ImageSets/Segmentation/val.txt",
        wanted=(
            "*/ImageSets/*/train.txt",
            "*/ImageSets/*/val.txt",
            "*.jpg",
            "*/SegmentationClass/*",
        ),
    )


VOC2010_ARCHIVE = voc_archive(
    2010, "VOCtrainval_03-May-2010.tar", "da459979d0c395079b5c75ee67908abb", 1300
)
VOC2011_ARCHIVE = voc_archive(
    2011, "VOCtrainval_25-May-2011.tar", "6c3384ef61512963050cb5d687e5bf1e", 1700
)
VOC2012_ARCHIVE = voc_archive(
    2012,
    "VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
    2000,
    "http://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
)
SBD_ARCHIVE = Source(
    key="sbd",
    file="benchmark.tgz",
    addresses=(
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
        "benchmark.tgz",
    ),
    megabytes=1420,
    checksum=Checksum("md5", "82b4d87ceb2ed10f6038a1cba92111cb", "torchvision"),
    roots=("benchmark_RELEASE/dataset", "dataset", "."),
    marker="cls",
    wanted=("*/train.txt", "*/val.txt", "*/img/*.jpg", "*/cls/*.mat"),
)


def seg11valid(voc_val: Iterable[str], sbd_train: Collection[str]) -> tuple[str, ...]:
    """Return the names in `voc_val`, in its order, that are not in `sbd_train`.

    Of VOC 2011's segmentation val and SBD's train, this is the list on which the paper's results
    were measured.
    """
    known = frozenset(sbd_train)
    return tuple(name for name in voc_val if name not in known)


def _convert(
    key: str,
    listed: Callable[[Path, str], tuple[str, ...]],
    item: Callable[[Path, str, str], Item],
    sources: Sources,
) -> Conversion:
    """Take the splits of one archive as they are, by its lists and its layout."""
    root = sources.provide(key)
    names = {split: listed(root, split) for split in ("train", "val")}
    items = (item(root, split, name) for split in names for name in names[split])
    return _conversion(names, items)


def _convert_fcn(sources: Sources) -> Conversion:
    sbd, voc = sources.provide("sbd"), sources.provide("voc2011")
    train = _sbd_names(sbd, "train")
    val = seg11valid(_voc_names(voc, "val"), train)

    def items() -> Iterator[Item]:
        yield from (_sbd_item(sbd, "train", name) for name in train)
        yield from (_voc_item(voc, "val", name) for name in val)

    return _conversion({"train": train, "val": val}, items())


def _conversion(names: Mapping[str, Sequence[str]], items: Iterator[Item]) -> Conversion:
    return Conversion(sum(len(listed) for listed in names.values()), items)


def _info(name: str) -> DatasetInfo:
    return DatasetInfo.plain(name, VOC, voc_palette(len(VOC)))


def _voc_names(root: Path, split: str) -> tuple[str, ...]:
    return listed_names(root / "ImageSets" / "Segmentation" / f"{split}.txt")


def _voc_item(root: Path, split: str, name: str) -> Item:
    image, mask = root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png"
    return Item(split, name, {"images": image}, {"masks": mask})


def _sbd_names(root: Path, split: str) -> tuple[str, ...]:
    return listed_names(root / f"{split}.txt")


def _sbd_item(root: Path, split: str, name: str) -> Item:
    labels = partial(read_ids, root / "cls" / f"{name}.mat", "GTcls", "Segmentation")
    return Item(split, name, {"images": root / "img" / f"{name}.jpg"}, {"masks": labels})


VOC2011 = PublicDataset(
    name="voc2011",
    info=_info("PASCAL VOC 2011"),
    sources=(VOC2011_ARCHIVE,),
    convert=partial(_convert, "voc2011", _voc_names, _voc_item),
    expected={"train": 1112, "val": 1111},
)
VOC2012 = PublicDataset(
    name="voc2012",
    info=_info("PASCAL VOC 2012"),
    sources=(VOC2012_ARCHIVE,),
    convert=partial(_convert, "voc2012", _voc_names, _voc_item),
    expected={"train": 1464, "val": 1449},
)
SBD = PublicDataset(
    name="sbd",
    info=_info("SBD"),
    sources=(SBD_ARCHIVE,),
    convert=partial(_convert, "sbd", _sbd_names, _sbd_item),
    expected={"train": 8498, "val": 2857},
    needs=("scipy",),
)
VOC_FCN = PublicDataset(
    name="voc-fcn",
    info=_info("PASCAL VOC: SBD train, seg11valid"),
    also=("voc",),
    sources=(SBD_ARCHIVE, VOC2011_ARCHIVE),
    convert=_convert_fcn,
    expected={"train": 8498, "val": 736},
    needs=("scipy",),
)
