"""The command line: one file a verb, which parses, calls and prints."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import typer

from fullconv.base.errors import FullconvError, ToldElsewhereError
from fullconv.base.runtime import keep_freed_memory, seek_cycles_rarely
from fullconv.cli.options import each_set, spelt_out, with_address
from fullconv.cli.signals import INTERRUPTED, Stopped
from fullconv.cli.streams import log_warnings, settle_streams

VERBS = (  # the files of this folder that are one each
    "train",
    "evaluate",
    "compare",
    "predict",
    "describe",
    "convert",
    "export",
    "heatmap",
    "push",
    "serve",
    "demo",
    "data",
)

# Verbs with options that typer alone can't parse.
_COMMANDS = {"train": spelt_out(each_set), "predict": spelt_out(with_address)}


def command_line(*verbs: str) -> typer.Typer:
    """Return the command line with some of its verbs, whose files alone are imported."""
    line = typer.Typer(
        name="fullconv",
        help="Fully convolutional networks: train, evaluate and predict per-pixel labellers.",
        callback=lambda: None,  # without one, typer would take an only verb for granted
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name in verbs:
        verb = importlib.import_module(f"fullconv.cli.{name}")
        if name == "data":
            line.add_typer(verb.app)
        else:
            line.command(name=name, cls=_COMMANDS.get(name))(verb.command)
    return line


def main() -> None:
    """Run the command line: 0 all well, 1 the work or some inputs failed, 2 bad usage or data."""
    settle_streams()
    log_warnings()
    keep_freed_memory()
    seek_cycles_rarely()
    if "--quiet" in sys.argv:  # the Hub's client shows its own progress, and reads this first
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    asked = [word for word in sys.argv[1:2] if word in VERBS] or VERBS
    try:
        code = command_line(*asked)(prog_name="fullconv", standalone_mode=False)
        sys.stdout.flush()
    except Stopped as stop:
        code = stop.exit_code
        print("fullconv: stopped", file=sys.stderr)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ToldElsewhereError as error:
        code = error.exit_code
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        message, code = _one_line(error)
        print(message, file=sys.stderr)
    if code == INTERRUPTED:
        print("fullconv: interrupted", file=sys.stderr)
    sys.exit(code)


def _one_line(error: Exception) -> tuple[str, int]:
    """Return what to say of an error, one line as a rule, and the exit code."""
    code = 1
    if isinstance(error, FullconvError):
        line, code = str(error), error.exit_code
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        line = f"{where}{error.strerror or error}"
    elif hasattr(error, "format_message"):  # bad usage; the class's home differs among typer's
        line, code = str(error.format_message()), 2
        if line.startswith("Usage:"):  # no arguments at all: this is the help text
            return line, code
        context = getattr(error, "ctx", None)
        line += f" ({context.command_path} --help)" if context else ""
    else:
        line = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
    return f"fullconv: {' '.join(line.split())}", code
