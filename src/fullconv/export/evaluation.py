"""Evaluation of a model or of an export of one: what every front end calls."""

from __future__ import annotations

from pathlib import Path

from fullconv.base.errors import FullconvError
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.export.opened import OpenedExport, is_export
from fullconv.measure import run as of_model
from fullconv.measure.run import EvaluateSettings, Measured, measured
from fullconv.net.fcn import FCN


def run(settings: EvaluateSettings, reporter: Reporter = SILENT) -> Measured:
    """Measure a model, or an export by its own runtime, on a split of a dataset.

    Args:
        settings: what to do; its model may be an exported file.
        reporter: is told how the work goes.

    Raises:
        FullconvError: as `measure.run.run` does; or the file can't be read, or is asked for what an
            export can't do.
    """
    if not is_export(settings.model):
        return of_model.run(settings, reporter)
    assert not isinstance(settings.model, FCN)
    path = Path(settings.model)
    if settings.tta:
        raise FullconvError(f"{path}: an export knows no --tta; give the model folder instead")
    if settings.device not in ("auto", "cpu"):
        raise FullconvError(f"{path}: exports work on the CPU here; use --device cpu")
    folder = DatasetFolder(settings.data, settings.reader)
    export = OpenedExport(path)
    return measured(export, folder, settings.split, export.label, reporter)
