"""Prediction from a model and the names of files to label images: what every front end calls."""

from __future__ import annotations

from fullconv.base.progress import SILENT, Reporter
from fullconv.export.opened import is_export
from fullconv.predict.outcome import Prediction
from fullconv.predict.settings import PredictSettings


def run(settings: PredictSettings, reporter: Reporter = SILENT) -> Prediction:
    """Label images, and write labels, overlays and what else was asked for.

    Inputs that can't be read, labelled or written are told in a line each, and are among the
    result's `failures`; the others are done nevertheless.

    Args:
        settings: what to do.
        reporter: is told how the work goes.

    Raises:
        FullconvError: the model, an input, a name or the engine isn't there or doesn't fit, or two
            results would have one name; nothing was written then.
        OSError: the table of unsure shares can't be written.
    """
    if is_export(settings.model):
        from fullconv.predict.exports import label_by_export

        return label_by_export(settings, reporter)
    place = None
    if settings.cold:
        from fullconv.predict.kept import kept_place, label_by_kept

        place = kept_place(settings)
        prediction = label_by_kept(settings, place, reporter)
        if prediction is not None:
            return prediction
    from fullconv.predict.nets import label_by_net  # which imports torch, as all else need not

    return label_by_net(settings, place, reporter)
