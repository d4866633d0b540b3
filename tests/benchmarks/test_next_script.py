"""benchmarks/accuracy/next.py: how many images an arm needs, by hand."""

from __future__ import annotations

import pytest
from benchmarks.accuracy.next import images_needed


def row(arm: str, images: int, mean_iu: float) -> dict[str, str]:
    return {"arm": arm, "images": str(images), "mean_iu": f"{mean_iu}"}


def test_images_needed_lie_between_rounds() -> None:
    rows = [
        row("all", 367, 0.6),
        row("start", 30, 0.4),
        row("next", 60, 0.5),
        row("next", 100, 0.7),
        row("random", 60, 0.45),
        row("random", 100, 0.5),
    ]
    # From 0.5 at 60 to 0.7 at 100 images, 0.6 is half of the way; random draws never get there
    # before all are labelled.
    assert images_needed(rows, "next", 0.6) == pytest.approx(80)
    assert images_needed(rows, "random", 0.6) == pytest.approx(367)
    assert images_needed(rows, "random", 0.475) == pytest.approx(80)
