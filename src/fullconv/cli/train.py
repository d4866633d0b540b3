"""``fullconv train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fullconv.cli.options import Debug, MaxPixels, Quiet, Trust, place_of, reader_of
from fullconv.cli.signals import INTERRUPTED, Stopped, stoppable

if TYPE_CHECKING:
    from fullconv.train.outcome import Outcome


def command(
    *,
    out: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            parser=place_of,
            metavar="DIR|SHARDS",
            help="The dataset folder, or its shards, here or at an address (s3://…).",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NET",
            help="fcn32s, fcn16s, fcn8s, fcn4s, fcn2s, or a net of the paper such as voc-fcn8s. "
            "[fcn8s]",
        ),
    ] = None,
    staged: Annotated[
        bool,
        typer.Option("--staged", help="Train the coarser nets first, each from the one before."),
    ] = False,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="A torchvision classifier, timm:NAME or caffe:NAME (vgg16, caffenet, googlenet). "
            "[mobilenet_v2]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="imagenet, none, a classifier's file (.safetensors, .caffemodel), a model to "
            "fine-tune, or color=MODEL,hha=MODEL for trunks of their own. [imagenet]",
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            metavar="NAME,…",
            help="Which of the dataset's inputs the net sees: color,depth for example. [color, or "
            "those of the paper's net or of the model in --weights]",
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            "--fusion",
            help="Of several inputs: early (one trunk of more channels) or late (a trunk each). "
            "[early]",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="A recipe's name or file. [default, or that of the paper's net]"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the recipe: epochs, minutes, batch_size, lr, crop, seed "
            "and so on. Several may follow.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or mps. [auto]")
    ] = None,
    max_pixels: MaxPixels = None,
    trust: Trust = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a net on a dataset folder: the best model on val is kept in OUT (see --set keep).

    Example: fullconv train --data street --out runs/street --set minutes=45
    """
    from fullconv.base.errors import ToldElsewhereError
    from fullconv.base.processes import launched
    from fullconv.base.progress import Reporter
    from fullconv.datasets.converted import dataset_of
    from fullconv.papers.blueprint import DEFAULT_NET, Blueprint
    from fullconv.train.recipe import read_recipe
    from fullconv.train.record import NAME as RECORD
    from fullconv.train.run import run

    usual = Blueprint.named(model or DEFAULT_NET).recipe
    continued = resume and (out / RECORD).is_file()
    given: dict[str, Any] = {
        "model": model,
        "staged": staged or None,
        "backbone": backbone,
        "weights": weights,
        "inputs": _names(inputs),
        "fusion": _fusion(fusion),
        "device": device,
        "max_pixels": max_pixels,
        "trust": trust or None,
        "recipe": read_recipe(recipe or usual, overrides or ())
        if recipe or overrides or not continued
        else None,
    }
    asked = {key: value for key, value in given.items() if value is not None}
    reporter = Reporter(quiet)
    with launched() as processes:
        reporter = processes.heard(reporter)
        if data is not None:
            asked["data"] = processes.first(
                lambda: dataset_of(data, reporter, reader_of(max_pixels))
            )
        try:
            with stoppable():
                outcome = run(out, asked, resume=resume, reporter=reporter, processes=processes)
        except (KeyboardInterrupt, Stopped) as stop:
            if not processes.leads:  # the first says so
                raise ToldElsewhereError(getattr(stop, "exit_code", INTERRUPTED)) from stop
            if (out / RECORD).exists():  # else nothing has begun
                reporter.warn(f"continue with: fullconv train --out {out} --resume")
            raise
    if processes.leads:
        _conclude(outcome)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _fusion(text: str | None) -> str | None:
    if text not in (None, "early", "late"):
        raise typer.BadParameter(f"fusion {text!r} is neither early nor late")
    return text


def _conclude(outcome: Outcome) -> None:
    """Say where the model is, how good, and what to type next."""
    folder, metrics, data = outcome.folder, outcome.last.metrics, outcome.settings.data
    for name, of_head in metrics.get("heads", {"": metrics}).items():
        print(f"{folder}: {f'{name} ' if name else ''}on val {_figures(of_head)}")
    print(f"report: {outcome.report}")
    print("next:")
    split = "test" if "test" in outcome.splits else "val"
    print(f"  fullconv evaluate {folder} --data {data} --split {split}")
    further = "".join(f" --input {name}=DIR" for name in (outcome.settings.inputs or ())[1:])
    print(f"  fullconv predict {folder} PHOTO...{further} --out labelled")


def _figures(metrics: dict[str, Any]) -> str:
    """Write the four metrics in a line, as far as there was something to measure."""
    shown = {
        "mean IU": metrics["mean_iu"],
        "pixel accuracy": metrics["pixel_accuracy"],
        "mean accuracy": metrics["mean_accuracy"],
        "f.w. IU": metrics["frequency_weighted_iu"],
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
