"""``fullconv predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.options import Debug, Device, MaxPixels, Quiet

if TYPE_CHECKING:
    from fullconv.fcn import FCN
    from fullconv.predict.stream import Summary


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder (or a Hub id).")],
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders, or quoted globs.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")],
    engine: Annotated[str, typer.Option(help="auto or torch.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    scores: Annotated[
        bool, typer.Option("--scores", help="Write each pixel's class probabilities, too.")
    ] = False,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label every pixel of images.

    Writes, for each image, OUT/NAME.png (8-bit palette, one class id per pixel, the image's size)
    and OUT/overlay/NAME.jpg; with --scores also OUT/scores/NAME.npy (float16, classes x height x
    width, the probabilities). Images below a folder keep their relative paths.
    """
    from fullconv.data.images import MAX_PIXELS
    from fullconv.devices import pick_device
    from fullconv.errors import WorkFailedError
    from fullconv.model_folder import load
    from fullconv.predict.engines import check_engine, uses_bf16
    from fullconv.predict.inputs import make_folders, plan
    from fullconv.predict.stream import label_files
    from fullconv.progress import progress

    check_engine(engine)
    place = pick_device(device)
    bf16 = uses_bf16(precision, place)
    jobs = plan(inputs, out, scores=scores)
    net = load(model).to(place)
    make_folders(jobs)
    with progress(len(jobs), "predict", quiet=quiet) as bar:
        summary = label_files(net, jobs, bar, bf16=bf16, max_pixels=max_pixels or MAX_PIXELS)
    if summary.failed < summary.images:
        _show(summary, net, out, scores)
    if summary.failed:
        raise WorkFailedError(f"{summary.failed} of {summary.images} inputs failed")


def _show(summary: Summary, net: FCN, out: Path, scores: bool) -> None:
    """Print which classes were found, in order of their share, and where the results are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "share of pixels", box=None)
    shares = summary.pixels / summary.pixels.sum()
    for label in shares.argsort()[::-1]:
        if summary.pixels[label]:
            bar = Text("█" * round(40 * shares[label]), style=f"rgb{net.palette[label]}")
            table.add_row(Text(net.classes[label]), Text(f"{shares[label]:6.1%}  ") + bar)
    Console().print(table)
    absent = [name for name, count in zip(net.classes, summary.pixels, strict=True) if not count]
    if absent:
        print(f"not found: {', '.join(absent)}")
    if summary.dominant is not None:
        print(
            f"Warning: {net.classes[summary.dominant]} is more than 99.9% of all pixels; are these "
            "the kind of images that the model was trained on?"
        )
    done = summary.images - summary.failed
    print(
        f"{done} label image{'s' * (done != 1)} in {out}, overlays in {out / 'overlay'}"
        + (f", probabilities in {out / 'scores'}" if scores else "")
    )
