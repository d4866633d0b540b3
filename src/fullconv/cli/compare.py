"""``fullconv compare``: several models on one split, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.options import Data, Debug, Device, MaxPixels, Quiet, Trust, reader_of
from fullconv.cli.tables import show

if TYPE_CHECKING:
    from fullconv.report.comparison import Comparison


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|EXPORT...",
            help="Model folders, Hub ids or exports; the first is the "
            "one that the others are compared with.",
        ),
    ],
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="PAGE.html")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    max_pixels: MaxPixels = None,
    trust: Trust = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare models or exports on one split, as one self-contained page.

    It has the paper's four metrics with bootstrap intervals over the images, the IU of each class,
    what happens at borders, milliseconds an image (the median, reading left out), the size of the
    files, and the images on which the models differ most, side by side with the truth.
    """
    from fullconv.base.progress import Reporter
    from fullconv.predict.comparison import CompareSettings, run
    from fullconv.report.comparison import write_comparison

    settings = CompareSettings(tuple(models), data, split, device, reader_of(max_pixels), trust)
    compared = run(settings, Reporter(quiet))
    write_comparison(out, compared)
    for head in compared.report.heads:
        _show(compared, head.name)
    print(out)


def _show(compared: Comparison, head: str) -> None:
    """Print the mean IU of each model with its interval, and what it costs."""
    from rich.table import Table
    from rich.text import Text

    several = len(compared.report.heads) > 1
    table = Table("model", "mean IU", "95% of draws", "ms an image", "MB", box=None)
    table.title, table.title_justify = (head if several else None), "left"
    heads = {each.name: each for each in compared.report.heads}
    for net, contender in zip(compared.report.nets, compared.contenders, strict=True):
        span, value = contender.intervals[head]["mean_iu"], net.of(heads[head])["mean_iu"]
        table.add_row(
            Text(net.name),
            "-" if value is None else f"{value:.3f}",
            f"{span.low:.3f} to {span.high:.3f}",
            f"{contender.milliseconds:.1f}",
            f"{contender.size / 1e6:.1f}",
        )
    show(table)
