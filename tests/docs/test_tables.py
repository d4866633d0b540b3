"""Tables of the documents are those of the results that lie in the repository, or of the nets."""

from __future__ import annotations

import csv
import importlib.util
import re
from types import ModuleType

import pytest
from benchmarks.accuracy import other_metrics
from benchmarks.frame import RESULTS, ROOT


def script(name: str) -> ModuleType:
    """Return a script of docs/, which is no package."""
    about = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    assert about is not None and about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


TRUNKS, SETTINGS = script("trunks"), script("settings")
METRICS = ROOT / "docs/other-libraries-metrics.md"
ACCURACY = ROOT / "docs/accuracy.md"


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a benchmark."""
    with (RESULTS / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_trunks() -> None:
    page = TRUNKS.PAGE.read_text(encoding="utf-8")
    assert TRUNKS.with_table(page) == page, "python docs/trunks.py writes it anew"


def test_settings() -> None:
    page = SETTINGS.PAGE.read_text(encoding="utf-8")
    assert SETTINGS.with_table(page) == page, "python docs/settings.py writes it anew"


def test_what_trunks_reach() -> None:
    """What choosing-a-trunk.md says of CamVid are rows of staged.csv."""
    found = {(row["trunk"], row["net"]): row for row in rows("staged") if row["way"] == "at once"}
    trunk, told = "", 0
    for line in TRUNKS.PAGE.read_text(encoding="utf-8").splitlines():
        cells = re.fullmatch(r"\| (?:`(\w+)`)? ?\| FCN-(\d+s) \| ([\d.]+) \|", line)
        if cells:
            trunk, told = cells[1] or trunk, told + 1
            row = found[trunk, f"fcn{cells[2]}"]
            assert f"{float(row['test_mean_iu']):.3f}" == cells[3], line
    assert told == 6


def test_how_long_labels_take() -> None:
    """What accuracy.md says of the peers' time and ours are rows of labelling.csv, of both."""
    page, told = ACCURACY.read_text(encoding="utf-8"), rows("labelling")
    others = {(row["dataset"], row["net"]): row for row in rows("intel/labelling")}
    for name in dict.fromkeys(row["dataset"] for row in told):
        unet, fpn, deeplab, own = (row for row in told if row["dataset"] == name)
        plain = [row["torch_ms"] for row in (unet, fpn, deeplab, own)]
        best = [unet["best_ms"], own["best_ms"], own["best_of_unet"]]
        other = others[name, own["net"]]
        line = " | ".join((*plain, own["of_unet"], *best))
        xeon = f"{other['of_unet']}, {other['best_of_unet']}"
        assert f" | {line} | {xeon} | {own['seen_and_scored']} |" in page, name


def test_what_finer_strides_give() -> None:
    """What accuracy.md says of finer strides are rows of finer.csv."""
    page, told = ACCURACY.read_text(encoding="utf-8"), rows("finer")
    for name in dict.fromkeys(row["dataset"] for row in told):
        finer, magnified, again = (row for row in told if row["dataset"] == name)
        whole = ", whole trunk" if finer["way"].endswith("whole trunk") else ""
        iu = [f"{float(row['test_mean_iu']):.3f}" for row in (magnified, finer, again)]
        before, now = (f"x{row['magnify']}, FCN-{row['stride']}s" for row in (magnified, finer))
        assert f"| {name}{whole} | {before} | {iu[0]} | {now} | {iu[1]} | {iu[2]} |" in page


def test_what_a_trunk_that_is_cut_off_gives() -> None:
    """What accuracy.md says of street on the Xeon are rows of intel/finer.csv."""
    page, told = " ".join(ACCURACY.read_text(encoding="utf-8").split()), rows("intel/finer")
    for way, before in (("finer strides", "gave"), ("magnified", "which gave")):
        of_way = [float(row["test_mean_iu"]) for row in told if row["way"] == way]
        first, second, third = (f"{iu:.3f}" for iu in of_way)
        assert f"{before} {first}, {second} and {third}" in page


def test_what_others_say_is_what_was_measured() -> None:
    page = METRICS.read_text(encoding="utf-8")
    assert other_metrics.with_table(page, rows("other-metrics")) == page


@pytest.mark.parametrize("library", ["fullconv", "scikit-learn"])
def test_what_is_here_still_says_it(library: str) -> None:
    if library == "scikit-learn":
        pytest.importorskip("sklearn")
    for row in rows("other-metrics"):
        if row["library"] == library:
            way = other_metrics.WAYS[library, row["settings"]]
            assert other_metrics.measured(library, way)[1] == row["mean_iu"], row


def test_the_example_is_the_one_that_is_shown() -> None:
    page = METRICS.read_text(encoding="utf-8")
    drawn = re.search(r"```text\n.*?\n(.*?)```", page, re.DOTALL)
    assert drawn is not None
    lines = [re.findall(r"[\d-]{6}", line) for line in drawn[1].splitlines()]
    for at, array in enumerate((other_metrics.TRUTH, other_metrics.PREDICTED)):
        rows_of = ("".join(map(str, row)).replace("255", "-") for row in array.reshape(4, 6))
        assert [*rows_of] == [line[at] for line in lines]
