"""What a run learnt, as the contents of its report."""

from __future__ import annotations

import gc
import math
import platform
import re
from collections.abc import Mapping, Sequence

import torch

from fullconv.data.folder import LabelledImage, Split, evenly_chosen
from fullconv.data.info import DatasetInfo
from fullconv.data.loading import CachedSplit
from fullconv.measure.borders import BorderCounter, Borders
from fullconv.measure.evaluation import Evaluation
from fullconv.net.described import Labels
from fullconv.net.fcn import FCN, load
from fullconv.predict.scenes import photograph
from fullconv.report.page import BORDER_IMAGES, Example, NetResult, Report, ReportedHead
from fullconv.train.outcome import Outcome, Trained
from fullconv.train.resolution import strides_told, told


def summarise(
    outcome: Outcome,
    info: DatasetInfo,
    split: Split | CachedSplit,
    measured: Mapping[str, Evaluation] | None = None,
) -> Report:
    """Gather logs, metrics and the most telling images of a run whose nets are all trained.

    Args:
        outcome: of the run.
        info: of its dataset.
        split: where the images come from.
        measured: what each net achieved on `split`; None: what training noted of what it kept.
    """
    last, trust = outcome.last, outcome.settings.trust
    per_image = measured[last.name].per_image if measured else last.per_image
    images = len(per_image) or len(split)  # it may have changed since
    chosen = _telling(per_image, split)
    shown = []
    for trained in outcome.stages[:-1]:  # one net in memory at a time
        shown.append(_shown(trained, load(trained.folder, trust=trust), chosen, split, measured))
        gc.collect()  # torch.fx's graphs refer to themselves: nets are not freed without
    net = load(last.folder, trust=trust)
    results, predictions = zip(*shown, _shown(last, net, chosen, split, measured), strict=True)
    course = (
        "stages, each started from the one before" if len(results) > 1 else "net, trained at once"
    )
    return Report(
        title=f"{_title(last.name)} on {info.name}",
        intro=f"{len(results)} {course}; measured on {split.name}, {images} images.",
        heads=tuple(
            ReportedHead(name, head.classes, head.palette, own.unscored)
            for (name, head), own in zip(net.heads.items(), split.heads.values(), strict=True)
        ),
        ignore_index=net.ignore_index,
        nets=results,
        examples=tuple(
            _example(net, caption, sample, labelled)
            for (caption, sample), *labelled in zip(chosen, *predictions, strict=True)
        ),
        facts=_facts(outcome, net),
    )


def _example(
    net: FCN, caption: str, sample: LabelledImage, labelled: Sequence[dict[str, Labels]]
) -> Example:
    """Return an image with its truth and what each net made of it."""
    truth = dict(zip(net.heads, sample.labels, strict=True))
    pixels = photograph(sample.image, net.inputs, net.preprocessing)
    return Example(sample.name, caption, pixels, truth, tuple(labelled))


def _title(name: str) -> str:
    return re.sub(r"fcn(\d+)s", r"FCN-\1s", name)


def _shown(
    trained: Trained,
    net: FCN,
    chosen: Sequence[tuple[str, LabelledImage]],
    split: Split | CachedSplit,
    measured: Mapping[str, Evaluation] | None,
) -> tuple[NetResult, list[dict[str, Labels]]]:
    """Return a net as the report shows it, and what it makes of the chosen images."""
    labels = [net.label(sample.image) for _, sample in chosen]
    borders = _borders(net, split)
    shown = NetResult(
        name=_title(trained.name),
        log=trained.rows,
        metrics=dict(measured[trained.name].to_dict(net) if measured else trained.metrics),
        seconds=trained.seconds,
        parameters=sum(p.numel() for p in net.parameters() if p.requires_grad),
        borders=borders,
    )
    return shown, labels


def _borders(net: FCN, split: Split | CachedSplit) -> dict[str, Borders]:
    """Measure how well a net follows borders on some images of a split, evenly chosen."""
    counters = {
        name: BorderCounter(
            head.num_classes, tuple(own.classes.index(each) for each in own.unscored)
        )
        for (name, head), own in zip(net.heads.items(), split.heads.values(), strict=True)
    }
    net = net.for_inference()
    for index in evenly_chosen(len(split), BORDER_IMAGES):
        sample = split[index]
        found = net.label(sample.image)
        for (name, counter), truth in zip(counters.items(), sample.labels, strict=True):
            counter.update(truth, found[name])
    return {name: counter.borders() for name, counter in counters.items()}


def _telling(
    per_image: Sequence[tuple[str, float]], split: Split | CachedSplit
) -> list[tuple[str, LabelledImage]]:
    """Return the best, the median and the worst image of those that are still there."""
    places = {sample.name: index for index, sample in enumerate(split.samples)}
    ranked = sorted((iu, name) for name, iu in per_image if name in places and not math.isnan(iu))
    ranks = {"best": len(ranked) - 1, "median": len(ranked) // 2, "worst": 0}
    kinds = {rank: kind for kind, rank in reversed(ranks.items()) if 0 <= rank < len(ranked)}
    return [
        (f"{kinds[rank]}: mean IU {ranked[rank][0]:.2f}", split[places[ranked[rank][1]]])
        for rank in sorted(kinds, reverse=True)
    ]


def _facts(outcome: Outcome, net: FCN) -> tuple[tuple[str, str], ...]:
    """Return the settings and circumstances that a reader wants to know first."""
    settings, recipe = outcome.settings, outcome.settings.recipe
    epochs = (f"{trained.plan.epochs:.3g}" for trained in outcome.stages)
    plan = outcome.last.plan
    shown = "crops of {} x {} pixels".format(*plan.crop) if plan.crop != "whole" else "whole images"
    inputs = f"{', '.join(net.inputs)} ({net.arguments.fusion} fusion)"
    return (
        ("data", str(settings.data)),
        ("backbone", str(net.arguments.trunk)),
        ("weights", settings.weights),
        *([("inputs", inputs)] if len(net.inputs) > 1 else []),
        ("epochs", " + ".join(epochs)),
        ("batch", f"{recipe.batch_size} x {recipe.accumulate} {shown}"),
        ("strides", strides_told(net.arguments)),
        ("images are seen", told(net.scale)),
        ("optimizer", f"{recipe.optimizer}, learning rate {recipe.lr:g}, {recipe.schedule}"),
        ("model", "the best on val" if recipe.keep == "best" else "the last weights"),
        ("precision", plan.precision),
        ("temperature", ", ".join(f"{head.temperature:g}" for _, head in net.heads.items())),
        ("seed", str(recipe.seed)),
        ("machine", f"{platform.machine()}, {torch.get_num_threads()} threads"),
    )
