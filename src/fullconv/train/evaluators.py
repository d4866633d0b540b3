"""The temperatures of the models that a run kept, fitted on val when all training has ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fullconv.data.folder import evenly_chosen
from fullconv.data.loading import CachedSplit
from fullconv.measure.calibration import Fit, fit_temperature
from fullconv.net.folder import load
from fullconv.predict.labels import Labels, coarse_scores, inference, scores_within
from fullconv.train import checkpoint

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.net.head import Head

IMAGES, PIXELS = 32, 2048  # images at most, and of each so many pixels: ample for one number
WINDOW = 512  # pixels a side that are enlarged of an image, lest large ones take long


def calibrate_kept(
    name: str, folder: Path, val: CachedSplit, device: torch.device, *, quiet: bool
) -> None:
    """Fit the temperatures of the model in `folder`, and write it anew with them.

    The same model gets the same ones however often it is done.

    Args:
        name: of the net, to be told with the result.
        folder: a model folder with metrics.json.
        val: what to fit them on.
        device: where the net works.
        quiet: nothing is told.

    Raises:
        WorkFailedError: the disk is full.
        FullconvError: an image can't be read.
    """
    net = load(folder).to(device)
    before = {head: own.temperature for head, own in net.labelled()}
    fits = fit_temperatures(net, val)
    for head, own in net.labelled():
        own.temperature = fits[head].temperature
        if not quiet:
            print(
                f"{name if len(fits) == 1 else f'{name}, {head}'}: {told(fits[head])}",
                file=sys.stderr,
            )
    if any(fit.temperature != before[head] for head, fit in fits.items()):
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        with checkpoint.saving_in(folder):
            net.save_pretrained(folder, metrics)


def fit_temperatures(net: FCN, val: CachedSplit) -> dict[str, Fit]:
    """Fit each head's temperature on pixels of at most 32 images, evenly chosen."""
    sampled: dict[str, list[tuple[Tensor, Tensor]]] = {head: [] for head in net.heads}
    with inference(net):
        for index in evenly_chosen(len(val), IMAGES):
            sample = val[index]
            coarse = coarse_scores(net, sample.image)
            for (name, head), truth in zip(net.labelled(), sample.labels, strict=True):
                random = np.random.default_rng(index)
                sampled[name].append(_sampled(net, head, coarse[name], truth, random))
    return {
        name: fit_temperature(
            torch.cat([scores for scores, _ in pairs]), torch.cat([truth for _, truth in pairs])
        )
        for name, pairs in sampled.items()
    }


def told(fit: Fit) -> str:
    """Say in a line what became of a temperature."""
    if fit.note:
        return f"probabilities: temperature {fit.temperature:g} ({fit.note})"
    return (
        f"probabilities calibrated on {fit.pixels} pixels of val: temperature "
        f"{fit.temperature:.2f}, expected calibration error {fit.error_before:.3f} -> "
        f"{fit.error_after:.3f}"
    )


def _sampled(
    net: FCN, head: Head, coarse: Tensor, truth: Labels, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return the scores N x classes and labels N of some labelled pixels, on the CPU.

    They lie in a window around one of them, which is all of a small image.
    """
    labelled = np.flatnonzero(truth != net.ignore_index)
    if not len(labelled):
        return torch.empty(0, head.num_classes), torch.empty(0, dtype=torch.long)
    centre = np.unravel_index(random.choice(labelled), truth.shape)
    rows, columns = (
        _window(int(middle), length) for middle, length in zip(centre, truth.shape, strict=True)
    )
    own = truth[rows.start : rows.stop, columns.start : columns.stop].ravel()
    labelled = np.flatnonzero(own != net.ignore_index)
    if len(labelled) > PIXELS:
        labelled = random.choice(labelled, PIXELS, replace=False)
    chosen = torch.from_numpy(labelled)
    scores = scores_within(net, head, coarse, rows, columns)[0].flatten(1).cpu()
    return scores[:, chosen].T.float(), torch.from_numpy(own)[chosen].long()


def _window(middle: int, length: int) -> range:
    """Return `WINDOW` successive pixels around `middle`, or all that there are."""
    first = min(max(middle - WINDOW // 2, 0), max(length - WINDOW, 0))
    return range(first, min(first + WINDOW, length))
