"""``fullconv predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.options import Debug, Device, MaxPixels, Quiet, Tta, reader_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fullconv.net.fcn import Pixels
    from fullconv.net.head import Head
    from fullconv.predict.choice import Chosen
    from fullconv.predict.stream import Summary


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder (or a Hub id).")],
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders, or quoted globs.")
    ],
    *,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=DIR",
            help="Folder of a further input of the model (its files are called as the images). "
            "May be repeated.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")],
    engine: Annotated[str, typer.Option(help="auto, torch, openvino or onnxruntime.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Write each pixel's class probabilities, calibrated, too."),
    ] = False,
    tta: Tta = False,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label every pixel of images.

    Writes, for each image, OUT/NAME.png (8-bit palette, one class id per pixel, the image's size)
    and OUT/overlay/NAME.jpg; with --scores also OUT/scores/NAME.npy (float16, classes x height x
    width, the probabilities). Images below a folder keep their relative paths. The results of a
    model with several heads go to OUT/HEAD instead of OUT.

    Probabilities are softmax(scores / temperature); the temperature is in the model's config.json.
    Training fits it on val: on such images, of labels with probability 0.8 about eight in ten are
    right. Converted models, and those trained by earlier versions, have 1, which promises nothing.
    OUT/unsure.csv tells the share of each image's labels that are unsure: whose probability is
    below 0.75. The share is that of coarse cells, which lie the model's stride apart.
    """
    from fullconv.base.errors import WorkFailedError
    from fullconv.base.progress import progress
    from fullconv.base.runtime import pick_device
    from fullconv.net.fcn import load
    from fullconv.predict.choice import choose
    from fullconv.predict.engines import check
    from fullconv.predict.jobs import further_folders, make_folders, plan
    from fullconv.predict.labeller import Labeller
    from fullconv.predict.stream import first_images, label_files, write_unsure

    check(engine, precision, device)
    net = load(model).to(pick_device(device if engine in ("auto", "torch") else "cpu"))
    heads = tuple(net.heads) if len(net.heads) > 1 else ()
    folders = further_folders(further or (), tuple(net.inputs))
    jobs = plan(inputs, out, scores=scores, heads=heads, further=folders)
    make_folders(jobs)
    reader = net.preprocessing.reader(reader_of(max_pixels))

    def first(count: int) -> list[Pixels]:
        return first_images(jobs, net.inputs, count, reader)

    chosen = choose(net, len(jobs), first, engine=engine, precision=precision, say=_tell)
    with progress(len(jobs), "predict", quiet=quiet) as bar:
        summary = label_files(Labeller(net, chosen.engine, tta=tta), jobs, bar, reader=reader)
    if summary.failed < summary.images:
        write_unsure(summary, out)
        for name, head in net.heads.items():
            _show_classes(name if heads else None, head, summary.pixels[name])
            _show_unsure(summary, name)
            _warn_of_one_class(head, summary.dominant(name))
        _show_way(chosen)
        _show_places(summary.images - summary.failed, out, heads, scores)
    if summary.failed:
        raise WorkFailedError(f"{summary.failed} of {summary.images} inputs failed")


def _tell(line: str) -> None:
    print(f"fullconv: {line}", file=sys.stderr)


def _show_classes(name: str | None, head: Head, pixels: NDArray[np.int64]) -> None:
    """Print which classes of a head were found, in order of their share."""
    from rich.table import Table
    from rich.text import Text

    from fullconv.base.console import plain_console

    table = Table("class", "share of pixels", box=None, title=name, title_justify="left")
    shares = pixels / pixels.sum()
    for label in shares.argsort()[::-1]:
        if pixels[label]:
            bar = Text("█" * round(40 * shares[label]), style=f"rgb{head.palette[label]}")
            table.add_row(Text(head.classes[label]), Text(f"{shares[label]:6.1%}  ") + bar)
    plain_console().print(table)
    absent = [each for each, count in zip(head.classes, pixels, strict=True) if not count]
    if absent:
        print(f"not found: {', '.join(absent)}")


def _show_unsure(summary: Summary, head: str) -> None:
    """Print which share of labels is unsure and, of several images, which have most of them."""
    from fullconv.net.head import UNSURE
    from fullconv.predict.stream import printable

    share = f"unsure (probability below {UNSURE:g}): {summary.mean_unsure(head):.1%} of"
    if len(summary.unsure[head]) == 1:
        print(f"{share} this image's labels")
        return
    most = summary.most_unsure(head)
    print(f"{share} labels, on average of the images{'; most in:' if most else ''}")
    for name, own in most:
        print(f"  {own:6.1%}  {printable(name)}")


def _warn_of_one_class(head: Head, dominant: int | None) -> None:
    if dominant is not None:
        print(
            f"Warning: {head.classes[dominant]} is more than 99.9% of all pixels; are these "
            "the kind of images that the model was trained on?"
        )


def _show_way(chosen: Chosen) -> None:
    """Say how the labels were worked out, unless plainly."""
    if chosen.measured is not None:
        print(
            f"engine {chosen.way}: on the images that it was measured on, "
            f"{chosen.measured.agreement:.2%} of its labels are those of torch fp32"
        )


def _show_places(done: int, out: Path, heads: tuple[str, ...], scores: bool) -> None:
    """Say where the results are."""
    below = out / f"{{{','.join(heads)}}}" if heads else out
    print(
        f"{done} label image{'s' * (done != 1)} in {below}, overlays in {below / 'overlay'}, "
        f"unsure shares in {below / 'unsure.csv'}"
        + (f", probabilities in {below / 'scores'}" if scores else "")
    )
