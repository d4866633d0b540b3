"""The options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, metavar="N", help="Refuse larger images. [200 million]"),
]
