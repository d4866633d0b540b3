"""``fullconv evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.options import Data, Debug, Device, MaxPixels, Quiet, Trust, Tta, reader_of
from fullconv.cli.tables import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fullconv.measure.metrics import Metrics


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL|EXPORT", help="A model folder (or a Hub id), or its export."),
    ],
    *,
    data: Data,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Write the metrics there as JSON.", metavar="FILE")
    ] = None,
    tta: Tta = False,
    max_pixels: MaxPixels = None,
    trust: Trust = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a model on a split: the paper's four metrics and each class's IU, in float32.

    An export is measured in its own precision, by its own runtime.

    Fractions in 0..1, over all of the split's labelled pixels at the images' own resolution.
    """
    from fullconv.base.files import write_json
    from fullconv.base.progress import Reporter
    from fullconv.datasets.converted import dataset_of
    from fullconv.export.evaluation import run
    from fullconv.measure.run import EvaluateSettings

    reporter = Reporter(quiet)
    reader = reader_of(max_pixels)
    folder = dataset_of(data, reporter, reader)
    settings = EvaluateSettings(model, folder, split, device, tta, reader, trust)
    measured = run(settings, reporter)
    for name, head in measured.net.heads.items():
        title = f"{split}: {measured.evaluation.images} images{', with mirrors' * tta}"
        if len(measured.net.heads) > 1:
            title = f"{name}, {title}"
        metrics = measured.evaluation.heads[name]
        _show(metrics, head.classes, measured.unscored[name], title)
    if out is not None:
        write_json(out, measured.to_dict())


def _show(metrics: Metrics, classes: Sequence[str], unscored: Sequence[str], title: str) -> None:
    """Print the metrics of a head; a dash where there was nothing to measure."""
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "IU", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for name, iu in zip(classes, metrics.iu, strict=True):
        table.add_row(Text(name), _fraction(iu), style="dim" if name in unscored else None)
    table.add_section()
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        table.add_row(name.replace("_", " ").replace("iu", "IU"), _fraction(getattr(metrics, name)))
    if unscored:
        table.caption = f"in no mean: {', '.join(unscored)}"
        table.caption_justify = "left"
    show(table)


def _fraction(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"  # noqa: PLR0124 (NaN differs from itself)
