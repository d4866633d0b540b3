"""``fullconv heatmap``: where in a photograph a class is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.options import Debug, Device, MaxPixels, Quiet, Trust, reader_of


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="CLASSIFIER|MODEL",
            help="A classifier's name (mobilenet_v2, timm:NAME, …), a model folder or a Hub id.",
        ),
    ],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A photograph.")],
    *,
    classes: Annotated[
        list[str],
        typer.Option(
            "--class",
            metavar="NAME",
            help="A class by its name, any part of it, or its number. May be repeated.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="A picture (.png, .jpg, .webp), or the map itself (.npy).")
    ],
    weights: Annotated[
        str, typer.Option(help="Of a classifier: imagenet, or its file.")
    ] = "imagenet",
    scales: Annotated[
        str,
        typer.Option(
            metavar="S,…",
            help="How large a classifier sees the image: its shorter side, in those of its native "
            "images. Large ones find small things.",
        ),
    ] = "1,1.5,2,3",
    max_pixels: MaxPixels = None,
    trust: Trust = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw where in a photograph a class is, as in the paper's first figure.

    A classifier is made fully convolutional: it then tells the classes of every part of an image
    of any size. Of a model the map is that of its calibrated probabilities. Where a name fits
    several classes, their probabilities are added.

    Example: fullconv heatmap mobilenet_v2 photo.jpg --class "tabby" --class "cat" --out cat.png
    """
    from fullconv.predict.heatmap import HeatmapSettings, run

    found = run(
        HeatmapSettings(
            model=model,
            image=image,
            classes=tuple(classes),
            out=out,
            weights=weights,
            scales=_numbers(scales),
            device=device,
            reader=reader_of(max_pixels),
            trust=trust,
        )
    )
    probability, row, column = found.peak
    print(
        f"{', '.join(found.classes)}: highest probability {probability:.2f}, at x {column}, y {row}"
    )
    print(out)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"scales {text!r}: give numbers, such as 1,1.5,2,3") from None
