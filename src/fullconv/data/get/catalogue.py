"""The public datasets that there are, by name."""

from __future__ import annotations

from fullconv.data.get.context import CONTEXT
from fullconv.data.get.nyud import NYUD
from fullconv.data.get.public import PublicDataset
from fullconv.data.get.siftflow import SIFTFLOW
from fullconv.data.get.voc import SBD, VOC2011, VOC2012, VOC_FCN
from fullconv.errors import FullconvError, nearest

PUBLIC_DATASETS = (VOC_FCN, VOC2011, VOC2012, SBD, NYUD, SIFTFLOW, CONTEXT)


def public_dataset(name: str) -> PublicDataset:
    """Return the public dataset of that name.

    Raises:
        FullconvError: there is none; the message lists them.
    """
    for dataset in PUBLIC_DATASETS:
        if name in (dataset.name, *dataset.also):
            return dataset
    known = [dataset.name for dataset in PUBLIC_DATASETS]
    raise FullconvError(
        f"{name}: no such dataset (there are {', '.join(known)}){nearest(name, known)}"
    )
