"""The main job, end to end, on data that it makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from fullconv.base.files import replacing
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.demo.streets import write_synthetic
from fullconv.measure.evaluation import evaluate
from fullconv.net.fcn import load
from fullconv.report.contact import side_by_side
from fullconv.report.page import Report, write_report
from fullconv.train.outcome import Outcome
from fullconv.train.recipe import read_recipe
from fullconv.train.run import run
from fullconv.train.summary import summarise

TRAIN, VAL, TEST = 160, 16, 40
SIZE = (128, 192)
BACKBONE = "regnet_x_400mf"  # learns from nothing, and fast on a CPU


def demonstrate(out: Path, reporter: Reporter = SILENT) -> Report:
    """Draw streets, train FCN-32s, 16s and 8s on them from nothing, and measure each on test.

    What an earlier call left in `out` serves again; a training cut short continues.

    Args:
        out: becomes the run folder; the streets go into a folder beside it.
        reporter: is told how it goes.

    Returns:
        What is written to ``out/report.html``: the paper's figure (also as ``out/scenes.png``),
        metrics on test, curves.

    Raises:
        FullconvError: `out` or the folder beside it holds something else.
    """
    data = out.with_name(f"{out.name}-streets")
    draw_streets(data, reporter)
    report = measure(run(out, settings(data), resume=True, reporter=reporter), reporter)
    write_report(out / "report.html", report)
    with replacing(out / "scenes.png") as temporary:
        Image.fromarray(side_by_side(report)).save(temporary, "PNG")
    return report


def draw_streets(data: Path, reporter: Reporter = SILENT) -> None:
    """Make the demo's dataset in the folder `data`, unless it is there."""
    if not (data / "dataset.yaml").exists():
        with reporter.bar(TRAIN + VAL + TEST, "draw streets", unit="scenes") as bar:
            write_synthetic(data, train=TRAIN, val=VAL, test=TEST, size=SIZE, bar=bar)


def settings(data: Path, **changes: Any) -> dict[str, Any]:
    """Return what the demo asks of `run`, with `changes`."""
    asked = {
        "data": data,
        "staged": True,
        "backbone": BACKBONE,
        "weights": "none",
        "recipe": read_recipe("demo"),
    }
    return {**asked, **changes}


def measure(outcome: Outcome, reporter: Reporter = SILENT) -> Report:
    """Measure every net of a run on the scenes of test, which none has seen."""
    folder = DatasetFolder(outcome.settings.data)
    test = folder.split("test")
    with reporter.bar(len(test) * len(outcome.stages), "measure on test") as bar:
        measured = {
            trained.name: evaluate(load(trained.folder), test, bar=bar)
            for trained in outcome.stages
        }
    return summarise(outcome, folder.info, test, measured)
