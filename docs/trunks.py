"""Write the table of docs/choosing-a-trunk.md: ``python docs/trunks.py``."""

from __future__ import annotations

import csv
from pathlib import Path

from filling import filled
from fullconv.net.description import describe
from fullconv.papers.blueprint import net_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/choosing-a-trunk.md"
SIZE = (360, 480)
TRUNKS = (
    "squeezenet1_1",
    "mobilenet_v2",
    "regnet_x_400mf",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "vgg16",
)
HEADS = ("trunk", "parameters, M", "multiply-adds, G", "sees, pixels", "tiles of 1,024 cost")


def table() -> str:
    """Return the table: an FCN-8s of 21 classes on each trunk."""
    with (ROOT / "benchmarks/results/tiles.csv").open() as file:
        tiles = {
            row["net"]: row["derived"] for row in csv.DictReader(file) if row["tile"] == "1024"
        }
    lines = [f"| {' | '.join(HEADS)} |", f"| --- |{' ---: |' * (len(HEADS) - 1)}"]
    for name in TRUNKS:
        seen = describe(net_of(name, "fcn8s", 21), SIZE)
        grid = seen.scored[0].grid
        cells = (
            f"`{name}`",
            f"{seen.parameters / 1e6:.1f}",
            f"{seen.multiply_adds / 1e9:.1f}",
            f"{grid.receptive_field}" if grid.bounded else "all",
            tiles.get(name, ""),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return the page with the table as it is now."""
    return filled(page, "trunks", table())


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
