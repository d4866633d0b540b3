"""``fullconv data``: check and make dataset folders."""

from __future__ import annotations

import typer

app = typer.Typer(name="data", help="Check and make dataset folders.", no_args_is_help=True)
