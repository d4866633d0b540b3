"""The options that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from fullconv.base.images import ImageReader

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]


def place_of(text: str) -> Path:
    """Return where a text leads: a path, or an address such as s3://bucket/shards."""
    from fullconv.base.remote import place

    return place(text)


Data = Annotated[
    Path,
    typer.Option(
        "--data", parser=place_of, metavar="DIR|SHARDS", help="Dataset folder, or its shards."
    ),
]
DatasetArgument = Annotated[
    Path,
    typer.Argument(parser=place_of, metavar="DIR", help="A dataset folder, or its shards."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, metavar="N", help="Refuse larger images. [200 million]"),
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Look at each image's left-right mirror, too, and average both probabilities: takes "
        "twice as long.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load the model, whatever it costs: it is of a maker that you know.",
    ),
]


def reader_of(max_pixels: int | None) -> ImageReader:
    """Return what reads images, of as many pixels as --max-pixels says."""
    from fullconv.base.images import MAX_PIXELS, ImageReader

    return ImageReader(max_pixels or MAX_PIXELS)


def parse_size(text: str) -> tuple[int, int]:
    """Return the height and width of a text such as "160x240"; a plain usage error otherwise."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"size {text!r}: give height and width as HxW, such as 160x240")
    return int(match[1]), int(match[2])


def parse_tile(text: str) -> tuple[int, int]:
    """Return the height and width of a text such as "1024" or "512x2048"."""
    return parse_size(f"{text}x{text}" if text.isdigit() else text)


def parse_bytes(text: str, what: str = "memory") -> int:
    """Return how many bytes a text such as "4GB", "512 MiB" or "1.5G" means; or a usage error.

    Args:
        text: a number and a unit.
        what: the option, for the message.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{what} {text!r}: give a number and a unit, such as 4GB")
    thousand = 1024 if match[3] else 1000
    return int(float(match[1]) * thousand ** " kmgt".index(match[2] or " "))


def spelt_out(words_of: Callable[[Sequence[str]], list[str]]) -> type[TyperCommand]:
    """Return the class of verbs whose words are spelt out before typer parses them."""

    class SpeltOut(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, words_of(args))

    return SpeltOut


def each_set(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, with a --set before each KEY=VALUE that follows one."""
    found: list[str] = []
    for at, word in enumerate(words):
        if found[-2:-1] == ["--set"] and re.match(r"\w+=", word) and words[at - 1] != "--set":
            found.append("--set")
        found.append(word)
    return found


def with_address(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, with "local" after a --ray that no address follows.

    An address is HOST:PORT, or "auto": the cluster that runs on this machine.
    """
    found: list[str] = []
    for at, word in enumerate(words):
        found.append(word)
        after = words[at + 1] if at + 1 < len(words) else ""
        if word == "--ray" and not re.fullmatch(r"auto|local|[\w.\[\]-]+:\d+", after):
            found.append("local")
    return found
