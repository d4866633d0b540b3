"""What is to be said of several processes that train one net, and what they cannot share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError
from fullconv.base.processes import Processes
from fullconv.data.loading import Share
from fullconv.train.batch_norm import normalises
from fullconv.train.recipe import Recipe

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.train.stage import Stage
    from fullconv.train.state import TrainingState


def require_shareable(net: FCN, recipe: Recipe, processes: Processes) -> None:
    """Refuse batches that so many processes cannot share as one process would have them.

    Raises:
        FullconvError: a process would have no image of a step; or batches are dealt out whole, and
            batch normalisation would learn other statistics in each process.
    """
    size, count = recipe.batch_size, processes.count
    sliced = Share(size, processes).sliced
    if not sliced and recipe.accumulate < count:
        raise FullconvError(
            f"{count} processes have no more than {recipe.step_images} images to share in a step: "
            f"start fewer, or --set batch_size={count} or more"
        )
    if not sliced and normalises(net, recipe):
        raise FullconvError(
            f"batch_size={size} gives {count} processes no image each to normalise batches by: "
            f"--set batch_size={count} or more, --set batch_norm=frozen, or start fewer"
        )


def about_sharing(net: FCN, recipe: Recipe, processes: Processes) -> Iterator[str]:
    """Say how several processes share a training."""
    if processes.count == 1:
        return
    share = Share(recipe.batch_size, processes)
    if share.sliced:
        of_each = f"each has about {recipe.batch_size / processes.count:.3g} images of each batch"
    else:
        of_each = f"batches of {recipe.batch_size} are dealt out to them"
    normalised = "; batch normalisation is over the images of all" * normalises(net, recipe)
    yield f"{processes.count} processes make each step together: {of_each}{normalised}"


@contextmanager
def traffic_told(stage: Stage, state: TrainingState) -> Iterator[None]:
    """Say, after the steps that the body makes, what processes have exchanged meanwhile."""
    traffic, step, begun = stage.processes.traffic, state.step, stage.clock()
    handed, under_way = traffic.bytes, traffic.seconds
    yield
    steps, seconds = state.step - step, stage.clock() - begun
    if stage.processes.count > 1 and steps and seconds:
        handed, under_way = traffic.bytes - handed, traffic.seconds - under_way
        stage.reporter.say(
            f"{stage.name}: each process handed the others {handed / steps / 1e6:.3g} MB a step, "
            f"which took {under_way / seconds:.0%} of the time, waiting for each other included"
        )
