"""``fullconv convert``: the authors' weight files become models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.options import Debug, Quiet

if TYPE_CHECKING:
    from fullconv.papers.convert import Converted

MOST_SHOWN = 3  # names of classes


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .caffemodel, or a .pth of pytorch-fcn.")
    ],
    net: Annotated[
        str,
        typer.Option(
            "--net",
            metavar="NAME",
            help="What it holds: a net of the paper, such as voc-fcn8s, or a classifier: "
            "caffe:vgg16, caffe:caffenet or caffe:googlenet.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="The model folder to write; for a classifier, a .safetensors file."
        ),
    ],
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Convert published weights, without Caffe: every layer is checked, and none left over.

    Example: fullconv convert fcn8s-heavy-pascal.caffemodel --net voc-fcn8s --out voc-fcn8s
    """
    from fullconv.papers.convert import convert_file

    converted = convert_file(file, net, out)
    print(
        f"{out}: {net} from {file}: {converted.layers} layers, "
        f"{converted.parameters / 1e6:.2f} M parameters"
    )
    for head, classes in converted.heads.items():
        print(f"{head}: {len(classes)} classes: {_shortened(classes)}")
    print("next:")
    print(f"  {_next_command(net, out, converted)}")


def _shortened(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:MOST_SHOWN])
    return shown if len(classes) <= MOST_SHOWN else f"{shown} ... {classes[-1]}"


def _next_command(name: str, out: Path, converted: Converted) -> str:
    if not converted.heads:
        from fullconv.papers.blueprint import Blueprint

        return (
            f"fullconv train --model {Blueprint.on(name).name} --weights {out} --data DIR --out RUN"
        )
    others = "".join(f"--input {each}=DIR " for each in converted.inputs[1:])
    return f"fullconv predict {out} PHOTO... {others}--out labelled"
