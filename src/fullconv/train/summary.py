"""What a run learnt, as the contents of its report."""

from __future__ import annotations

import csv
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fullconv.data.folder import DatasetInfo, Split
from fullconv.data.loading import CachedSplit
from fullconv.evaluation import Evaluation
from fullconv.fcn import FCN
from fullconv.model_folder import load
from fullconv.predict.labels import label_image
from fullconv.report.page import Report, Scene, Stage
from fullconv.train import checkpoint
from fullconv.train.record import Record


def summarise(
    record: Record,
    info: DatasetInfo,
    split: Split | CachedSplit,
    measured: Mapping[str, Evaluation] | None = None,
) -> Report:
    """Gather logs, metrics and the most telling images of a run whose nets are all trained.

    Args:
        record: of the run.
        info: of its dataset.
        split: where the images come from.
        measured: what each net achieved on `split`; None: what training noted of its best on val.
    """
    nets = {name: load(record.folder(name)) for name in record.names}
    last = record.names[-1]
    if measured is None:
        per_image = checkpoint.load(record.folder(last) / "last.pt")["per_image"]
    else:
        per_image = measured[last].per_image
    net = nets[last]
    stages = "stages, each started from the one before" if len(nets) > 1 else "net, trained at once"
    return Report(
        title=f"{_title(last)} on {info.name}",
        intro=f"{len(nets)} {stages}; measured on {split.name}, {len(split)} images.",
        classes=info.classes,
        palette=net.palette,
        ignore_index=info.ignore_index,
        stages=tuple(
            _stage(record, name, net, split.name, measured[name] if measured else None)
            for name, net in nets.items()
        ),
        scenes=_scenes(per_image, split, tuple(nets.values())),
        facts=_facts(record, net),
    )


def read_log(path: Path) -> tuple[dict[str, float | None], ...]:
    """Read a log.csv; what was not measured is None."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        )


def _title(name: str) -> str:
    return name.upper().replace("FCN", "FCN-").replace("S", "s")


def _stage(record: Record, name: str, net: FCN, split: str, measured: Evaluation | None) -> Stage:
    folder = record.folder(name)
    if measured is None:
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    else:
        metrics = measured.metrics.to_dict(split, measured.images, net.classes)
    return Stage(
        name=_title(name),
        log=read_log(folder / "log.csv"),
        metrics=metrics,
        seconds=record.nets[name]["seconds"],
        parameters=sum(p.numel() for p in net.parameters() if p.requires_grad),
    )


def _scenes(
    per_image: Sequence[tuple[str, float]], split: Split | CachedSplit, nets: tuple[FCN, ...]
) -> tuple[Scene, ...]:
    """Return the best, the median and the worst image, as far as there are so many."""
    ranked = sorted((iu, name) for name, iu in per_image if not math.isnan(iu))
    ranks = {"best": len(ranked) - 1, "median": len(ranked) // 2, "worst": 0}
    chosen = {rank: kind for kind, rank in reversed(ranks.items()) if 0 <= rank < len(ranked)}
    places = {sample.name: index for index, sample in enumerate(split.samples)}
    scenes = []
    for rank in sorted(chosen, reverse=True):
        iu, name = ranked[rank]
        sample = split[places[name]]
        predictions = tuple(label_image(net, sample.image) for net in nets)
        caption = f"{chosen[rank]}: mean IU {iu:.2f}"
        scenes.append(Scene(name, caption, sample.image, sample.labels, predictions))
    return tuple(scenes)


def _facts(record: Record, net: FCN) -> tuple[tuple[str, str], ...]:
    """Return the settings and circumstances that a reader wants to know first."""
    settings, recipe = record.settings, record.settings.recipe
    plans = {name: net["plan"] for name, net in record.nets.items()}
    epochs = (f"{plan['steps'] / plan['steps_per_epoch']:.3g}" for plan in plans.values())
    plan = plans[record.names[-1]]
    return (
        ("data", str(settings.data)),
        ("backbone", str(net.arguments["trunk"])),
        ("weights", settings.weights),
        ("epochs", " + ".join(epochs)),
        ("batch", f"{recipe.batch_size} x {recipe.accumulate} crops, {plan['crop']} pixels"),
        ("optimizer", f"{recipe.optimizer}, learning rate {recipe.lr:g}, {recipe.schedule}"),
        ("precision", plan["precision"]),
        ("seed", str(recipe.seed)),
        ("machine", f"{platform.machine()}, {torch.get_num_threads()} threads"),
    )
