"""The recipe: every setting of a training, typed, documented and frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from fullconv.base.errors import FullconvError, nearest
from fullconv.base.settings import Mistake, first_mistake, read_yaml

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Recipe(BaseModel):
    """The settings of a training; each is also a key of ``--set``. null means "derived".

    Settings that depend on the data or the machine are derived when the run starts, and what
    they became is written down in the run's recipe.yaml.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Positive | None = Field(
        default=None,
        description="number of passes over the training images, parts allowed; null: from the "
        "number of images",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="number of steps of the optimizer for each net, in place of `epochs` (which "
        "--staged shares out); null: as many as `epochs` makes",
    )
    minutes: Positive | None = Field(
        default=None,
        description="minutes that the whole training may take, validation included: fits "
        "`epochs` to this machine, so that no two runs are quite alike; null: no limit",
    )
    batch_size: int = Field(
        default=8,
        ge=1,
        description="number of crops that pass the net at once, through all processes together",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="number of batches whose gradients make one step of the optimizer",
    )
    sampling: Literal["shuffle", "replacement"] = Field(
        default="shuffle",
        description="shuffle: every image once an epoch; replacement: each is drawn anew from all",
    )
    crop: tuple[int, int] | Literal["whole"] | None = Field(
        default=None,
        description="size of the training crops in pixels, HxW or one number; whole: images as "
        "they are, one at a time (`scale_jitter` does not apply); null: from the images' sizes",
    )
    finest: Literal[32, 16, 8, 4, 2] | None = Field(
        default=None,
        description="finest stride that is scored, at most that of the model: 2 makes of an FCN-8s "
        "an FCN-2s; null: from the images' sizes and what their masks hold (small images, and "
        "small or thin things, need finer cells); the model's own where it is coarser than an "
        "FCN-8s, trained in stages or given, such as the paper's, or where `magnify` is given",
    )
    coarsest: Literal[32, 16, 8, 4, 2] | None = Field(
        default=None,
        description="coarsest stride that is scored, at least the finest: 16 leaves out what "
        "follows a trunk's last layer at stride 16; null: the trunk's own, 32 as a rule, or 16 "
        "where the data alone decide that small images are magnified and scored at finer strides",
    )
    magnify: int | None = Field(
        default=None,
        ge=1,
        description="how many times larger the net sees images than they are: 1, 2 or more, up to "
        "half its stride; null: from the images' sizes and, where finer skips can't serve, from "
        "what their masks hold; 1 for nets that are given, such as the paper's",
    )
    reduce: int | None = Field(
        default=None,
        ge=1,
        description="how many times smaller the net sees images than they are; null: from the "
        "images' sizes and what their masks hold (large photographs of large things show more so); "
        "1 for nets that are given, such as the paper's",
    )
    scale_jitter: tuple[Positive, Positive] = Field(
        default=(0.6, 1.7), description="smallest and largest random enlargement, [low, high]"
    )
    flip: Fraction = Field(default=0.5, description="probability of a left-right flip, 0 to 1")
    color: Fraction = Field(
        default=0.3, description="strength of random brightness, contrast and saturation, 0 to 1"
    )
    loss: Literal["mean", "image_mean", "sum"] = Field(
        default="mean",
        description="the cross entropy that a step lowers: mean (over all its valid pixels), "
        "image_mean (over each image's, averaged over images) or sum (of each image's, averaged "
        "over images)",
    )
    lovasz: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of the Lovász loss (1 - IU, each class alike, at the coarse cells), "
        "added to `loss`; 0: none",
    )
    dice: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of the Dice loss (1 - Dice's coefficient, likewise), added to `loss`; "
        "0: none",
    )
    sampled_cells: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="patch sampling: share of the coarsest cells, drawn at each step, whose pixels "
        "count in the loss, above 0 to 1 (all)",
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="adamw or sgd")
    lr: Positive = Field(default=1e-3, description="highest learning rate, above 0")
    trunk_lr: Positive = Field(
        default=1.0, description="factor on `lr` for the trunk, whose weights are no random ones"
    )
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="momentum (AdamW: beta1), 0 to below 1"
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        allow_inf_nan=False,
        description="weight decay, 0 or more; spares biases, normalisation and upscores",
    )
    doubled_biases: Literal["none", "all", "scores"] = Field(
        default="none",
        description="which biases learn at twice the rate and without decay: none, all, or those "
        "of the scores alone (then the trunk's are decayed like weights)",
    )
    schedule: Literal["one_cycle", "poly", "constant"] = Field(
        default="one_cycle", description="course of the learning rate: one_cycle, poly or constant"
    )
    warmup: Fraction = Field(
        default=0.1, description="share of the steps in which the learning rate rises, 0 to 1"
    )
    clip: Positive | None = Field(
        default=5.0, description="largest norm of the gradient; null: not clipped"
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay per step of a running average of the weights, which is then what is "
        "evaluated and kept, between 0 and 1; null: no average",
    )
    class_weights: Literal["none", "softened", "balanced"] = Field(
        default="none",
        description="none; balanced: rarer classes weigh more (median frequency); softened: by the "
        "square root of that",
    )
    batch_norm: Literal["learned", "frozen"] = Field(
        default="learned",
        description="learned: each batch is normalised by its own statistics; frozen: by those "
        "that the net began with",
    )
    learn_upscores: Literal["none", "inner", "all"] = Field(
        default="inner",
        description="which upscores are learnt: none, inner (all but the last) or all",
    )
    stage_shares: tuple[Positive, ...] = Field(
        default=(2.0, 1.0, 1.0),
        min_length=1,
        description="with --staged: relative lengths of the stages, coarsest first; the last "
        "number serves for any further stage",
    )
    stage_lr: tuple[Positive, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="with --staged: factors on `lr`, coarsest stage first; the last number serves "
        "for any further stage",
    )
    validate_every: int | None = Field(
        default=None,
        ge=1,
        description="epochs between validations; null: so that they are about 25 and cost at most "
        "about a fifth",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="which weights become the model: best (of all validations, by mean IU) or "
        "last (validations only measure them)",
    )
    save_minutes: Positive = Field(
        default=5.0, description="minutes between saves of the training state within an epoch"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="fp32 (on GPUs too, no TF32), bf16 (mixed; on CPUs AdamW's moments of very "
        "large layers, too), or auto: bf16 where it is measurably faster",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="processes that prepare images, of each that trains; null: from the machine",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="seed of weights, order and augmentation, a whole number",
    )

    @property
    def step_images(self) -> int:
        """How many images make one step of the optimizer."""
        return self.batch_size * self.accumulate

    @field_validator("steps")
    @classmethod
    def _in_place_of_epochs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("epochs") is not None:
            raise ValueError("epochs is set too; one of them must be null")
        return value

    @field_validator("crop", mode="before")
    @classmethod
    def _parse_crop(cls, value: Any) -> Any:
        """Read 352, "352x480", [352, 480] or "whole"."""
        if isinstance(value, str) and value != "whole":
            value = [int(side) if side.isdecimal() else side for side in value.split("x")]
        if isinstance(value, int):
            value = (value, value)
        if isinstance(value, list | tuple) and any(isinstance(v, int) and v < 1 for v in value):
            raise ValueError("a side must be at least 1 pixel")
        return value

    @field_validator("crop")
    @classmethod
    def _one_whole_image(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "whole" and info.data.get("batch_size", 1) != 1:
            raise ValueError(
                "whole images differ in size: batch_size must be 1, accumulate adds up several"
            )
        return value

    @field_serializer("crop")
    def _write_crop(self, value: tuple[int, int] | str | None) -> str | None:
        return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else value

    @field_validator("scale_jitter")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the first number must not exceed the second")
        return value


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides, whose values are YAML.

    Args:
        name: of a recipe that fullconv brings ("default"), or the path of a YAML file; a run's
            recipe.yaml serves too.
        overrides: such as ``["epochs=30", "crop=352x480"]``; later ones win.

    Raises:
        FullconvError: the recipe is absent or malformed, or a key or value is wrong; the message
            names the nearest valid key or the allowed values.
    """
    values, source = _read_file(name)
    sources: dict[str, str] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals:
            raise FullconvError(f"--set {override}: write --set key=value")
        try:
            values[key] = read_yaml(text)
        except ValueError:
            raise FullconvError(f"--set {override}: {text!r} is not YAML") from None
        sources[key] = f"--set {override}"
    return make_recipe(values, source, sources)


def make_recipe(
    values: dict[str, Any], source: str, sources: Mapping[str, str] | None = None
) -> Recipe:
    """Return the checked recipe.

    Args:
        values: of its settings.
        source: where they come from; `sources` says so of single ones.
        sources: by setting.

    Raises:
        FullconvError: a setting is wrong; the message begins with where it comes from.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        mistake = first_mistake(error)
        source = (sources or {}).get(str(mistake.path[0]), source)
        raise FullconvError(f"{source}: {_complaint(mistake)}") from None


def _complaint(mistake: Mistake) -> str:
    """Say in one line what is wrong with a setting."""
    key = str(mistake.path[0])
    if mistake.kind == "extra_forbidden":
        near = nearest(key, Recipe.model_fields)
        return f"there is no setting {key!r}{near or '; see the keys of a recipe.yaml'}"
    wanted = Recipe.model_fields[key].description
    return f"{key} cannot be {mistake.given} ({mistake.reason}); {key}: {wanted}"


def shipped_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that fullconv brings."""
    return tuple(sorted(_shipped()))


def _shipped() -> dict[str, Traversable]:
    """Return the files of the recipes that fullconv brings, by name."""
    package = package_files("fullconv")
    folders = (package / "train" / "recipes", package / "papers" / "recipes")
    return {
        file.name.removesuffix(".yaml"): file
        for folder in folders
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }


def _read_file(name: str) -> tuple[dict[str, Any], str]:
    """Return the settings in the recipe `name` and what to call it in messages."""
    shipped = _shipped()
    if name in shipped:
        content, source = shipped[name].read_bytes(), f"recipe {name}"
    elif Path(name).is_file():
        content, source = Path(name).read_bytes(), name
    else:
        raise FullconvError(
            f"recipe {name}: no such file, nor one of fullconv's ({', '.join(sorted(shipped))})"
            f"{nearest(name, shipped)}"
        )
    try:
        values = read_yaml(content) or {}
    except ValueError as error:
        raise FullconvError(f"{source}: not YAML ({error})") from None
    if isinstance(values, dict) and isinstance(values.get("recipe"), dict):
        values = values["recipe"]  # a run folder's recipe.yaml
    if not isinstance(values, dict):
        raise FullconvError(f"{source}: a recipe is a list of `key: value` lines")
    return {str(key): value for key, value in values.items()}, source
