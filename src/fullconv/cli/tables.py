"""Tables on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_UNBOUNDED = 100_000


def show(table: Table) -> None:
    """Print a table as wide as it is, into a pipe or a narrow terminal too.

    Rich would shorten cells to fit 80 columns, or the terminal; half a number is worse than a line
    that goes on in the next one.
    """
    from fullconv.base.console import plain_console

    console = plain_console(width=_UNBOUNDED)
    console.width = console.measure(table).maximum
    console.print(table)
