"""``fullconv data``: check, make and get dataset folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.options import Debug, MaxPixels, Quiet, parse_size, reader_of
from fullconv.cli.tables import show

app = typer.Typer(name="data", help="Check, make and get dataset folders.", no_args_is_help=True)


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
    from fullconv.base.progress import Reporter
    from fullconv.demo.streets import write_synthetic

    height_and_width = parse_size(size)
    with Reporter(quiet).bar(train + val + test, "draw streets", unit="scenes") as bar:
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
    from rich.text import Text

    from fullconv.base.console import plain_console
    from fullconv.base.progress import Reporter
    from fullconv.data.check import check_folder

    report = check_folder(folder, reader_of(max_pixels), reporter=Reporter(quiet))
    for table in report.tables():
        show(table)
    console = plain_console()
    for style, what, lines in (
        ("bold red", "error", report.errors),
        ("yellow", "warning", report.warnings),
    ):
        for line in lines:
            console.print(Text(f"{what}: ", style) + Text(line), soft_wrap=True)
    if report.errors:
        raise typer.Exit(2)
    console.print(f"{folder}: no errors", soft_wrap=True)


@app.command()
def bounds(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset folder.")],
    *,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    factors: Annotated[
        str, typer.Option(metavar="N,N…", help="Sides of the cells in pixels.")
    ] = "128,64,32,16,8,4",
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print the best mean IU that coarse predictions could have: that of coarsened truth.

    Truth is taken at the centre of each cell, enlarged back and scored against itself. Beside it
    stands what the paper found on PASCAL VOC.
    """
    from rich.table import Table

    from fullconv.base.progress import Reporter
    from fullconv.data.folder import DatasetFolder
    from fullconv.measure.bounds import PUBLISHED, upper_bounds

    sides = _factors(factors)
    images = DatasetFolder(folder, reader_of(max_pixels)).split(split)
    with Reporter(quiet).bar(len(images), f"coarsen {split}") as bar:
        found = upper_bounds(images, sides, bar)
    print(f"mean IU of coarsened truth, {split}: {len(images)} images")
    names = list(found) if len(found) > 1 else ["mean IU"]
    table = Table("factor", *names, "on VOC, by the paper")
    for column in table.columns:
        column.justify = "right"
    for side in sides:
        own = [f"{by_factor[side].mean_iu:.3f}" for by_factor in found.values()]
        table.add_row(str(side), *own, f"{PUBLISHED[side]:.3f}" if side in PUBLISHED else "")
    show(table)


def _factors(text: str) -> list[int]:
    """Return the numbers of a text such as "32,16,8"; a plain usage error otherwise."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 1024 for word in words):
        raise typer.BadParameter(f"factors {text!r}: give numbers from 1 to 1024, such as 32,16,8")
    return [int(word) for word in words]


@app.command(name="get")
def get_public(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="voc-fcn, voc2011, voc2012, sbd, nyudv2, siftflow or pascal-context.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New dataset folder.")],
    *,
    given: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Files fetched before, packed or unpacked."),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch a dataset of the paper and make a dataset folder of it.

    voc-fcn is what the paper's nets were trained and measured on: SBD's train, and the images of
    VOC 2011's val that are not in it. What was fetched is kept in DIR.downloads, where files
    fetched by hand are found too. Interrupted, the same command continues.

    nyudv2 with --from also reads the layout of the FCN authors: data/images, data/depth and
    data/hha with img_NUMBER.png, segmentation/img_NUMBER.mat, trainval.txt and test.txt.
    """
    from fullconv.base.progress import Reporter
    from fullconv.datasets.catalogue import public_dataset
    from fullconv.datasets.public import get_dataset

    result = get_dataset(public_dataset(name), folder, given, reporter=Reporter(quiet))
    counts = " and ".join(f"{count:,} {split}" for split, count in result.counts.items())
    print(f"{folder}: {counts} images" if counts else f"{folder}: is there already")
    for note in result.notes:
        print(note)
