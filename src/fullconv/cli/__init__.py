"""The command line: one file a verb, which parses, calls and prints."""

from __future__ import annotations

import sys
import traceback

import click
import typer

from fullconv.cli import data, demo, describe, evaluate, predict, train
from fullconv.errors import FullconvError

app = typer.Typer(
    name="fullconv",
    help="Fully convolutional networks: train, evaluate and predict per-pixel labellers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (train, evaluate, predict, describe, demo):
    app.command()(verb.command)
app.add_typer(data.app)

INTERRUPTED = 130  # the shell's convention: 128 + SIGINT


def main() -> None:
    """Run the command line: 0 all well, 1 the work or some inputs failed, 2 bad usage or data."""
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        code = _complain(error.format_message(), 2)
    except FullconvError as error:
        code = _complain(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _complain("interrupted", INTERRUPTED)
    except OSError as error:
        code = _complain(_os_reason(error), 1)
    except Exception as error:  # a defect of fullconv's own: still one line, --debug for more
        code = _complain(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"fullconv: {' '.join(message.split())}", file=sys.stderr)
    return code


def _os_reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
