"""``fullconv push``: a model folder onto the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.options import Debug, Quiet


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Its id on the Hub.")],
    *,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Who sees it. [as it is, or as your new models are]"
        ),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(help="Where the commit goes; made if need be. [main]")
    ] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload a model of fullconv",
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="NAME",
            help="The Hub's word for the model's licence, such as apache-2.0. [what the card says]",
        ),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put a model folder on the Hugging Face Hub: weights, config, metrics and model card.

    The weights are safetensors; nothing else of the folder goes along. Whoever may read it gives
    OWNER/NAME in a model's place, or OWNER/NAME@REVISION. Log in first with `hf auth login`, or
    set HF_TOKEN.
    """
    from fullconv.net.hub import Hub

    print(Hub().push(model, name, message=message, private=private, branch=branch, licence=licence))
