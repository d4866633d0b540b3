"""How a recipe is carried out on given data and a given machine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from fullconv.base.errors import FullconvError
from fullconv.data.fingerprint import Fingerprint
from fullconv.data.loading import steps_per_epoch
from fullconv.data.transforms import COARSEST_STRIDE, default_crop
from fullconv.train.recipe import Recipe

SLACK = 0.97  # of a limited time: machines have moods
VALIDATION_SHARE = 0.2  # of the work of training
VALIDATIONS = 20  # are enough to choose from, and for a curve
COLD = 1 / 25  # where a rising learning rate starts, relative to the highest
POLY_POWER = 0.9
FORWARD_SHARE = 1 / 3  # of a training step's work: the rest is its backward pass


@dataclass(frozen=True)
class Pace:
    """How fast this machine trains a net.

    Attributes:
        step: seconds a step, loading included.
        validation: seconds for one validation.
    """

    step: float
    validation: float

    def seconds(self, plan: Plan) -> float:
        """Return how long `plan` takes, validations included."""
        between = plan.steps_per_epoch * plan.validate_every
        return plan.steps * self.step + math.ceil(plan.steps / between) * self.validation

    def steps_within(self, seconds: float, plan: Plan) -> int:
        """Return how many steps of `plan` fit in `seconds`, validations included; at least 1."""
        per_step = self.step + self.validation / (plan.steps_per_epoch * plan.validate_every)
        return max(int((seconds - self.validation) / per_step), 1)


@dataclass(frozen=True)
class Plan:
    """What of a training depends on the data and the machine; it is kept with its state.

    Attributes:
        steps: of the optimizer, in all.
        steps_per_epoch: steps in a pass over the images.
        validate_every: epochs between validations.
        crop: height and width of the training crops in pixels, or "whole" images.
        precision: fp32, or bf16 under autocast.
        workers: processes that prepare images.
        seconds: that the training may take, or None; it decides `steps`, again and again.
        most_steps: what `steps` must not exceed then, or None.
        turn: (step, share of the schedule done by then) from which the schedule runs evenly to
            its end.
    """

    steps: int
    steps_per_epoch: int
    validate_every: int
    crop: tuple[int, int] | Literal["whole"]
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = 0
    seconds: float | None = None
    most_steps: int | None = None
    turn: tuple[int, float] = (0, 0.0)

    @property
    def epochs(self) -> float:
        """Passes over the images, the last one perhaps not whole."""
        return self.steps / self.steps_per_epoch

    def done(self, step: int) -> float:
        """Return which share of the schedule is done before `step` (the first is 0)."""
        start, share = self.turn
        return share + (1 - share) * (step - start) / (self.steps - start)

    def learning_rate(self, recipe: Recipe, step: int) -> float:
        """Return the learning rate of `step`."""
        return recipe.lr * learning_rate(recipe.schedule, self.done(step), recipe.warmup)

    def ends_epoch(self, step: int) -> bool:
        """Tell whether `step` steps end an epoch or the training."""
        return step % self.steps_per_epoch == 0 or step >= self.steps

    def validates(self, step: int) -> bool:
        """Tell whether there is a validation after `step` steps."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return step >= self.steps or (within == 0 and epoch % self.validate_every == 0)

    def fitted(self, pace: Pace, step: int = 0, spent: float = 0.0) -> Plan:
        """Return the plan with as many steps as its time allows, its schedule still complete.

        Args:
            pace: how fast it goes.
            step: how many steps are done; the learning rate goes on from there without a leap.
            spent: seconds that are gone.
        """
        if self.seconds is None:
            return self
        steps = step + pace.steps_within(self.seconds * SLACK - spent, self)
        steps = min(steps, max(self.most_steps or steps, step + 1))
        return replace(self, steps=steps, turn=(step, self.done(step)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for last.pt and recipe.yaml."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Rebuild a plan from `to_dict`'s values."""
        lists = {key: tuple(v) for key, v in values.items() if isinstance(v, list | tuple)}
        return cls(**{**values, **lists})


def make_plan(
    recipe: Recipe,
    found: Fingerprint,
    val_images: int,
    *,
    workers: int,
    scale: Fraction = Fraction(1),
    finer: int = 1,
    normalised: bool = True,
    share: float = 1.0,
    seconds: float | None = None,
) -> Plan:
    """Return the plan that `recipe` and the data alone call for, before any clock is consulted.

    Args:
        recipe: the settings.
        found: of the training images.
        val_images: how many images a validation has.
        workers: processes that prepare images.
        scale: how many times larger than they are the net sees images.
        finer: how many times finer than its model's name tells its strides make its cells.
        normalised: whether the net normalises batches by their own statistics while it learns.
        share: of the recipe's epochs that this training may use (a stage's share).
        seconds: that it may take, or None.
    """
    (height, width), (magnify, reduce) = found.median_size, scale.as_integer_ratio()
    crop = recipe.crop or default_crop(height, width, magnify, reduce, finer=finer)
    shown = (height, width) if crop == "whole" else crop
    if normalised and recipe.batch_size == 1 and max(shown) * magnify <= COARSEST_STRIDE * reduce:
        raise FullconvError(
            f"batch_size=1 with crops of {shown[0]:g}x{shown[1]:g} leaves batch normalisation a "
            "single value to work on; --set batch_size=2 or more, or a larger crop"
        )
    batch = recipe.step_images
    per_epoch = steps_per_epoch(found.images, batch)
    whole = default_crop(height, width, reduce=reduce)
    share_of_image = min(math.prod(shown) / math.prod(whole), 1.0)
    epochs = recipe.epochs or default_epochs(found.images, per_epoch * batch, share_of_image)
    steps = recipe.steps or max(round(epochs * share * per_epoch), 1)
    validation = val_images * height * width * FORWARD_SHARE
    validation_epochs = validation / (per_epoch * batch * math.prod(shown))
    return Plan(
        steps=steps,
        steps_per_epoch=per_epoch,
        validate_every=recipe.validate_every or _between(validation_epochs, steps / per_epoch),
        crop=crop,
        workers=workers,
        seconds=seconds,
        most_steps=steps if recipe.epochs or recipe.steps else None,
    )


def _between(validation: float, epochs: float) -> int:
    """Return the epochs between validations that take a share of the work, and are few.

    Args:
        validation: the work of one, in epochs.
        epochs: of the whole training.
    """
    return max(math.ceil(validation / VALIDATION_SHARE), int(epochs / VALIDATIONS), 1)


def learning_rate(
    schedule: Literal["one_cycle", "poly", "constant"], done: float, warmup: float
) -> float:
    """Return the learning rate, relative to the highest, when a share `done` of the steps is done.

    Each schedule first rises linearly from 1/25 over the share `warmup`. Then one_cycle falls to 0
    along half a cosine, poly as ``(1 - x) ** 0.9``, and constant stays.

    Args:
        schedule: the course after the rise.
        done: 0 before the first step, towards 1 at the last.
        warmup: 0 to 1.
    """
    if done < warmup:
        return COLD + (1 - COLD) * done / warmup
    rest = (done - warmup) / max(1 - warmup, 1e-9)
    if schedule == "one_cycle":
        return (1 + math.cos(math.pi * rest)) / 2
    return (1 - rest) ** POLY_POWER if schedule == "poly" else 1.0


def default_epochs(images: int, samples_per_epoch: int, shown: float = 1.0) -> int:
    """Return how often to pass over `images` that nobody tuned for.

    What is seen grows with the square root of the number of images: 16,000 images' worth of crops
    for CamVid's 367; 22,000 gave no better labels there. Each image is met at least 3 times, so
    that of many images all are learnt from, and at most 300 times. Of crops that show a part of an
    image there are more, and yet in all they show less: by the square root of that part.

    Args:
        images: how many there are.
        samples_per_epoch: how many crops a pass takes.
        shown: the share of an image that a crop shows, above 0 to 1.
    """
    crops = 16_000 * math.sqrt(images / 367)
    return round(min(max(crops / samples_per_epoch, 3), 300) / math.sqrt(shown))
