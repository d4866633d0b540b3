"""``fullconv data``: check and make dataset folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.options import Debug, MaxPixels, Quiet, parse_size

app = typer.Typer(name="data", help="Check and make dataset folders.", no_args_is_help=True)


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New dataset folder.")],
    *,
    train: Annotated[int, typer.Option(min=1, help="Scenes to train on.")] = 64,
    val: Annotated[int, typer.Option(min=0, help="Scenes to validate on.")] = 16,
    test: Annotated[int, typer.Option(min=0, help="Scenes to test on.")] = 16,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width.")] = "160x240",
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other scenes.")] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a dataset of procedural street scenes with exact masks.

    The same seed gives the same scenes. DIR must not exist, or be empty.
    """
    from fullconv.data.synth.streets import write_synthetic
    from fullconv.progress import progress

    height_and_width = parse_size(size)
    with progress(train + val + test, "draw streets", unit="scenes", quiet=quiet) as bar:
        write_synthetic(
            folder, train=train, val=val, test=test, size=height_and_width, seed=seed, bar=bar
        )
    print(f"{folder}: {train} train, {val} val and {test} test scenes of {size} pixels")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset folder.")],
    *,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Look for mistakes in a dataset folder, reading every pixel.

    Prints what is in each split and class, then errors (exit code 2) and warnings (exit code 0),
    one a line.
    """
    from rich.console import Console

    from fullconv.data.check import check_folder
    from fullconv.data.images import MAX_PIXELS

    report = check_folder(folder, max_pixels=max_pixels or MAX_PIXELS, quiet=quiet)
    console = Console()
    for table in report.tables():
        console.print(table)
    for style, what, lines in (
        ("bold red", "error", report.errors),
        ("yellow", "warning", report.warnings),
    ):
        for line in lines:
            console.print(f"[{style}]{what}:[/]", end=" ")
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.errors:
        raise typer.Exit(2)
    console.print(f"{folder}: no errors", highlight=False, soft_wrap=True)
