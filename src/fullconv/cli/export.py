"""``fullconv export``: a model as a file that runs without fullconv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fullconv.cli.options import Debug, MaxPixels, Quiet, Trust, place_of, reader_of

if TYPE_CHECKING:
    from fullconv.export.metadata import Agreement
    from fullconv.export.run import ExportedFile


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder (or a Hub id).")],
    *,
    format_: Annotated[str, typer.Option("--format", help="onnx, openvino or web.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .onnx, or .xml with a .bin beside it; web: a folder."
        ),
    ],
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16 (weights alone, of half the size) or int8 (needs --data). [fp32; web: "
            "fp16]"
        ),
    ] = None,
    output: Annotated[
        str, typer.Option(help="labels, scores or probabilities of each pixel.")
    ] = "labels",
    data: Annotated[
        Path | None,
        typer.Option(
            parser=place_of,
            help="Dataset folder, or its shards: verify on its images, too, and calibrate int8 on "
            "them.",
            metavar="DIR|SHARDS",
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="web: the npm package onnxruntime-web (.tgz); without it, npm fetches that once.",
            metavar="FILE",
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    trust: Trust = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a model as a file that runs without fullconv, and prove that it is the same net.

    The file takes images as they are stored, uint8 N x H x W x 3 (RGB) of any number and size: the
    preprocessing is in it. It gives the labels, uint8 N x H x W, or the scores or probabilities of
    each class. A net of several inputs or heads has several of them, by their names. Classes,
    colours and all else are in its metadata. Only plain looks are exported, no --tta.

    Before it is there it is run by its own runtime and compared with the net. One that is not the
    same is not written.

    --format web writes a folder that any static host can serve: a page that labels photos in the
    browser of who visits it, and sends them nowhere. To try it: python -m http.server -d OUT
    """
    from fullconv.base.progress import Reporter
    from fullconv.export.run import ExportSettings, export

    asked: Any = {"precision": precision, "output": output}
    settings = ExportSettings(
        model,
        format_,
        out,
        data=data,
        reader=reader_of(max_pixels),
        trust=trust,
        runtime=runtime,
        **asked,
    )
    _show(export(settings, Reporter(quiet)))


def _show(done: ExportedFile) -> None:
    """Say what was written, and how it was verified."""
    about = done.about
    beside = "".join(f" and {each.name}" for each in done.beside)
    print(f"{done.path}{beside}: {about.output}, {about.precision}, {done.size / 1e6:.1f} MB")
    if about.float_layers:
        print(f"in float, besides scores and upscores: {', '.join(about.float_layers)}")
    if about.verification is not None:
        _show_agreement(about.verification)


def _show_agreement(found: Agreement) -> None:
    kind = (
        "generated images"
        if found.source == "generated"
        else "images, those of the data among them"
    )
    random = ", with random scores, since the model scores nothing yet" * found.random_scores
    print(
        f"verified by {found.runtime} on {found.images} {kind}{random}: {found.labels:.3%} of "
        "labels are those of torch fp32"
        + (f"; scores differ by {found.scores:.1e} of the largest" if found.scores else "")
    )
    if found.mean_iu is not None:
        print(f"mean IU on the data: {found.mean_iu:.4f}, in torch fp32 {found.mean_iu_of_net:.4f}")
