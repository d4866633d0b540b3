"""The public datasets that there are, by name."""

from __future__ import annotations

from fullconv.base.errors import FullconvError, nearest
from fullconv.datasets.context import CONTEXT
from fullconv.datasets.nyud import NYUD
from fullconv.datasets.public import PublicDataset
from fullconv.datasets.siftflow import SIFTFLOW
from fullconv.datasets.voc import SBD, VOC2011, VOC2012, VOC_FCN

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
