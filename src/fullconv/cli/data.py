"""``fullconv data``: check, make and get dataset folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fullconv.cli.options import (
    DatasetArgument,
    Debug,
    Device,
    MaxPixels,
    Quiet,
    Trust,
    parse_bytes,
    parse_size,
    place_of,
    reader_of,
)
from fullconv.cli.tables import show

if TYPE_CHECKING:
    from fullconv.base.fill import Fill
    from fullconv.datasets.convert import Converted
    from fullconv.predict.next import Ranking

_Word = TypeVar("_Word", bound=str)

GroupBy = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        metavar="PATTERN",
        help="A regular expression: images whose names have the same there stay together, such as "
        "frames of one video: '^(.*)_[0-9]+$'.",
    ),
]

Skip = Annotated[
    bool, typer.Option("--skip", help="Leave out what can't be converted, instead of failing.")
]

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
    folder: DatasetArgument,
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
    from fullconv.datasets.converted import dataset_of

    reporter = Reporter(quiet)
    reader = reader_of(max_pixels)
    report = check_folder(dataset_of(folder, reporter, reader), reader, reporter=reporter)
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
    folder: DatasetArgument,
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


@app.command(name="convert")
def convert_annotations(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder, a file of annotations, or a zip.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New dataset folder.")],
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="All classes, by their ids. [those found]"),
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW,…",
            help="Call classes otherwise, or several alike; NEW may be ignore.",
        ),
    ] = None,
    ignore: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Classes whose pixels count nowhere.")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Class of what no shape covers, or ignore. [background]"),
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            help="Which of two shapes is seen: later, earlier or smaller. [as the tool shows them]"
        ),
    ] = None,
    fill: Annotated[
        str,
        typer.Option(
            help="Which pixels a polygon covers: centres (those whose centres are inside), "
            "outline (those on its sides, too), or tool (as the format's own tool)."
        ),
    ] = "centres",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="TRAIN,VAL,TEST",
            help="Shares by which to divide the images, such as 0.8,0.1,0.1, so that each part "
            "has its share of each class. [as they are divided; all train if they aren't]",
        ),
    ] = None,
    group_by: GroupBy = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another division.")] = 0,
    skip: Skip = False,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Names of classes with their values or colours in masks."
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a dataset folder of another tool's annotations.

    Knows labelme, Label Studio (JSON), CVAT (images 1.1, segmentation mask), Pascal VOC, COCO
    (instances, stuff, panoptic), Roboflow, Ultralytics, Supervisely, Cityscapes, ADE20K,
    MMSegmentation, and pairs of images and masks. See docs/annotation-tools.md.
    """
    from fullconv.base.progress import Reporter
    from fullconv.datasets.convert import ConvertSettings, convert
    from fullconv.datasets.formats.classes import ClassSettings
    from fullconv.datasets.formats.splitting import parse_shares

    settings = ConvertSettings(
        classes=ClassSettings(
            classes=_words(classes) or None,
            mapping=_pairs(mapping),
            ignore=_words(ignore),
            background=background,
        ),
        overlap=_one_of("overlap", overlap, ("later", "earlier", "smaller")),
        fill=_FILLS[_one_of("fill", fill, tuple(_FILLS)) or "centres"],
        shares=None if split is None else parse_shares(split),
        group_by=group_by,
        seed=seed,
        skip=skip,
        table=table,
        reader=reader_of(max_pixels),
    )
    _show_converted(out, convert(source, out, settings, Reporter(quiet)))


@app.command(name="split")
def split_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset folder.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New dataset folder.")],
    shares: Annotated[
        str, typer.Option(metavar="TRAIN,VAL,TEST", help="Shares of the images.")
    ] = "0.8,0.1,0.1",
    group_by: GroupBy = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another division.")] = 0,
    skip: Skip = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Divide a dataset folder anew, so that each split has its share of each class."""
    from fullconv.base.progress import Reporter
    from fullconv.datasets.convert import ConvertSettings, convert
    from fullconv.datasets.formats.splitting import parse_shares

    settings = ConvertSettings(
        shares=parse_shares(shares),
        group_by=group_by,
        seed=seed,
        skip=skip,
        reader=reader_of(max_pixels),
    )
    _show_converted(out, convert(folder, out, settings, Reporter(quiet)))


@app.command(name="next")
def choose_next(
    model: Annotated[
        str, typer.Argument(metavar="RUN|MODEL", help="A run folder or a model folder.")
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Images, folders, quoted globs.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the list and the page.")],
    count: Annotated[int, typer.Option(min=1, help="How many to choose.")] = 50,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=place_of,
            metavar="DIR|SHARDS",
            help="What is labelled already. [of a run, its data]",
        ),
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME=DIR", help="Folder of a further input; may be repeated."
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    trust: Trust = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank images without labels by what labelling them would teach the model.

    Those come first of which the model is unsure, most of all in rare classes, and that are unlike
    what is labelled and what was chosen before them. DIR/next.csv is the list, with reasons;
    DIR/next.html has the photos, the labels as they would be drafted, and where they are unsure.
    """
    from fullconv.base.errors import WorkFailedError
    from fullconv.base.progress import Reporter
    from fullconv.datasets.converted import dataset_of
    from fullconv.predict.next import NextSettings, run

    reporter, reader = Reporter(quiet), reader_of(max_pixels)
    settings = NextSettings(
        model=model,
        inputs=tuple(images),
        out=out,
        count=count,
        data=None if data is None else dataset_of(data, reporter, reader),
        further=tuple(further or ()),
        device=device,
        reader=reader,
        trust=trust,
    )
    ranking = run(settings, reporter)
    _show_ranking(ranking)
    if ranking.failures:
        failed = len(ranking.failures)
        raise WorkFailedError(f"{failed} of {ranking.images + failed} images failed")


def _show_ranking(ranking: Ranking) -> None:
    """Print the first of those chosen, and where the others are."""
    from rich.table import Table
    from rich.text import Text

    from fullconv.predict.stream import printable

    table = Table("image", "score", "unsure", "rarest class", "distance", box=None)
    for each in ranking.chosen[:_SHOWN]:
        why = each.choice
        table.add_row(
            Text(printable(each.job.name)),
            f"{why.score:.4f}",
            f"{why.unsure:.1%}",
            Text(each.rarest),
            f"{why.distance:.3f}",
        )
    show(table)
    known = f" ({ranking.known:,} are labelled already)" if ranking.known else ""
    print(f"{len(ranking.chosen):,} of {ranking.images:,} images{known}: {ranking.table}")
    print(f"with pictures: {ranking.page}")


_SHOWN = 10


@app.command(name="tile")
def tile_rasters(
    rasters: Annotated[
        list[Path], typer.Argument(metavar="RASTER...", help="Rasters of the same bands and type.")
    ],
    *,
    masks: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="Rasters of label ids, one for each, in order (repeat it); or polygons for all of "
            "them: GeoJSON, GeoPackage, Shapefile.",
        ),
    ],
    class_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of polygons, the field with their class.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New dataset folder.")],
    size: Annotated[int, typer.Option(min=8, metavar="PIXELS", help="Side of a tile.")] = 512,
    overlap: Annotated[int, typer.Option(min=0, metavar="PIXELS", help="Of tiles.")] = 0,
    split: Annotated[
        str, typer.Option(metavar="TRAIN,VAL,TEST", help="Shares of the blocks.")
    ] = "0.7,0.15,0.15",
    block: Annotated[
        int,
        typer.Option(
            min=1, metavar="TILES", help="Side of the blocks that are in one split whole."
        ),
    ] = 4,
    guard: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Tiles of different splits are so far apart at least: those nearer are left out. "
            "At 1, neighbours are.",
        ),
    ] = 1,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="All classes, by their ids. [those of the masks]"),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Class of what no polygon covers, or ignore. [background]"
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="What the bands are called. [as the rasters say]"),
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,N", help="Numbers of the bands to show as red, green and blue, from 1."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another division.")] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Cut large annotated rasters into a dataset folder, read by windows.

    Blocks of tiles are divided among train, val and test, so that each has its share of each class.
    Of tiles that lie beside those of another split one is left out. Pixels without data count
    nowhere. See docs/rasters.md.
    """
    from fullconv.base.progress import Reporter
    from fullconv.datasets.formats.splitting import parse_shares
    from fullconv.datasets.tile import TileSettings, tile

    settings = TileSettings(
        rasters=tuple(rasters),
        masks=tuple(masks),
        class_field=class_field,
        classes=_words(classes) or None,
        background=background,
        side=size,
        overlap=overlap,
        shares=parse_shares(split),
        block=block,
        guard=guard,
        bands=_words(bands) or None,
        show=None if show is None else _three(show),
        seed=seed,
    )
    tiled = tile(settings, out, Reporter(quiet))
    counts = ", ".join(f"{count:,} {split}" for split, count in tiled.counts.items())
    print(f"{out}: {counts} tiles of {size} pixels, {len(tiled.classes)} classes")
    print(
        f"left out: {tiled.empty:,} without labels, {tiled.guarded:,} beside tiles of another split"
    )
    for note in tiled.notes:
        print(note)
    print(f"next: fullconv data check {out}")


@app.command(name="shard")
def shard_dataset(
    folder: DatasetArgument,
    *,
    out: Annotated[Path, typer.Option(metavar="SHARDS", help="New folder of the shards.")],
    size: Annotated[
        str, typer.Option(metavar="BYTES", help="At most so much in a shard, such as 256MB.")
    ] = "1GB",
    count: Annotated[
        int | None, typer.Option(min=1, help="At most so many images in a shard.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Pack a dataset folder into tar files that are read where they lie, also over a network.

    SHARDS stands for DIR wherever --data is given, once copied to an object store by its address:
    s3://bucket/SHARDS. Files are packed byte by byte, so that a training is the same to the last
    digit. The webdataset library reads the tar files, too. See docs/scaling.md.
    """
    from fullconv.base.progress import Reporter
    from fullconv.data.folder import DatasetFolder
    from fullconv.data.shards import ShardSettings, shard_folder

    settings = ShardSettings(parse_bytes(size, "size"), count)
    done = shard_folder(DatasetFolder(folder), out, settings, Reporter(quiet))
    for split, images in done.images.items():
        shards = done.shards_of(split)
        print(f"{out}: {images:,} {split} images in {shards:,} shard{'s' * (shards != 1)}")
    print(f"{sum(done.shards.values()):,} bytes in {len(done.shards):,} shards")
    if done.passed_over:
        print(f"left out: {done.passed_over:,} files that belong to no image (see data check)")
    print(f"next: fullconv data check {out}")


def _three(text: str) -> tuple[int, int, int]:
    """Return the numbers of a text such as "4,3,2"; a plain usage error otherwise."""
    words = _words(text)
    if len(words) != 3 or not all(word.isdecimal() and int(word) for word in words):
        raise typer.BadParameter(f"show {text!r}: give three numbers of bands, such as 4,3,2")
    first, second, third = map(int, words)
    return first, second, third


_FILLS: Mapping[str, Fill | None] = {"centres": "centres", "outline": "outline", "tool": None}


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _pairs(text: str | None) -> dict[str, str]:
    """Return the pairs of a text such as "car=vehicle,bus=vehicle"; or a usage error."""
    pairs = {}
    for word in _words(text):
        old, equals, new = word.rpartition("=")
        if not equals or not old.strip() or not new.strip():
            raise typer.BadParameter(f"map {word!r}: give OLD=NEW, such as car=vehicle")
        pairs[old.strip()] = new.strip()
    return pairs


def _one_of(name: str, given: str | None, known: tuple[_Word, ...]) -> _Word | None:
    if given is None:
        return None
    for word in known:
        if word == given:
            return word
    raise typer.BadParameter(f"{name} {given!r}: is none of {', '.join(known)}")


def _show_converted(out: Path, converted: Converted) -> None:
    counts = ", ".join(f"{count:,} {split}" for split, count in converted.counts.items())
    print(f"{out}: {counts} images of {converted.format}, {len(converted.classes)} classes")
    for note in converted.notes:
        print(note)
    print(f"next: fullconv data check {out}")
