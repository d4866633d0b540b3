"""Write the table of docs/settings.md, all keys of ``--set``: ``python docs/settings.py``."""

from __future__ import annotations

from pathlib import Path

import yaml

from filling import filled
from fullconv.train.recipe import Recipe, read_recipe

PAGE = Path(__file__).with_suffix(".md")


def table() -> str:
    """Return the table: each setting, what it is by default, and what it does."""
    usual = read_recipe("default").model_dump(mode="json")
    lines = ["| setting | default | |", "| --- | --- | --- |"]
    for name, field in Recipe.model_fields.items():
        value = yaml.safe_dump(usual[name], default_flow_style=True).split("\n")[0]
        told = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | `{value}` | {told} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return the page with the table as it is now."""
    return filled(page, "settings", table())


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
