"""Where tables and bars are shown: by rich, which takes no text for anything but text."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """Return a console that shows names as they are: "[void]" is no markup and ":car:" no picture.

    Styles are given as such (`rich.text.Text`). `options` are those of `Console`.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)
