"""What a net is, as one frozen value: the arguments that rebuild it, and what its heads label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fullconv.base.errors import FullconvError
from fullconv.base.files import is_plain_name
from fullconv.base.palette import Colour, default_palette
from fullconv.base.settings import Line, first_mistake
from fullconv.geometry import MOST_PADDING

ONLY_HEAD = "labels"
COLOR_ONLY = {"color": 3}
MOST_INPUTS, MOST_HEADS, MOST_CLASSES = 16, 16, 255
MOST_STRIDE = 128  # pixels
MOST_REDUCTION = 16

Channels = Annotated[int, Field(ge=1, le=64)]
Byte = Annotated[int, Field(ge=0, le=255)]
Colours = Sequence[Colour] | NDArray[Any]  # the latter: N x 3, whole numbers in 0..255


class NetArguments(BaseModel):
    """The arguments of `FCN` that rebuild a net, but for its classes and preprocessing.

    Attributes:
        trunk: a classifier's name; None: a module of the user's own.
        stride: of the coarse scores.
        coarsest: the coarsest stride that is scored, after which the trunk is cut off; None: the
            classifier's.
        inputs: channels of each input by name.
        fusion: of several inputs.
        skips: names of layers to score at given strides, instead of the default ones.
        skip_scales: constant factors on skips' features by stride.
        padding: of the first convolution, in pixels; None: every layer keeps its own.
        scale: how many times larger than it is the trunk sees an image: 4, 2, 1, 1/2 and so on.
            Files and `FCN` also know it as two numbers, "magnify" and "reduce".
        learn_upscores: whether training changes the inner upscores.
        learn_last_upscore: whether it changes the last one too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trunk: str | None = None
    stride: Annotated[int, Field(ge=1, le=MOST_STRIDE)]
    coarsest: Annotated[int, Field(ge=1, le=MOST_STRIDE)] | None = None
    inputs: Annotated[dict[str, Channels], Field(min_length=1, max_length=MOST_INPUTS)] = COLOR_ONLY
    fusion: Literal["early", "late"] = "early"
    skips: dict[int, str] = {}
    skip_scales: dict[int, float] = {}
    padding: Annotated[int, Field(ge=0, le=MOST_PADDING)] | None = None
    scale: Fraction = Fraction(1)
    learn_upscores: bool = True
    learn_last_upscore: bool = False

    @classmethod
    def of(cls, **values: Any) -> NetArguments:
        """Check the arguments of `FCN`; raises FullconvError, which tells the first wrong one."""
        try:
            return cls(**values)
        except ValidationError as error:
            mistake = first_mistake(error)
            ours = mistake.kind == "value_error"  # which says what it is about
            raise FullconvError(mistake.said if ours else str(mistake)) from None

    @property
    def magnify(self) -> int:
        """How many times larger than it is the trunk sees an image, where it does."""
        return self.scale.numerator

    @property
    def reduce(self) -> int:
        """How many times smaller than it is the trunk sees an image, where it does."""
        return self.scale.denominator

    def changed(self, **values: Any) -> NetArguments:
        """Return these arguments with others of some names; raises FullconvError as `of` does."""
        return NetArguments.of(**{**dict(self), **values})

    def keywords(self) -> dict[str, Any]:
        """Return all but the trunk, as keyword arguments of `FCN`."""
        return {name: value for name, value in self if name != "trunk"}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as config.json and last.pt hold them.

        What nets of earlier versions don't know is left out where it is not used, so that folders
        load there, too.
        """
        values: dict[str, Any] = {}
        for name, value in self:
            if name == "scale":
                values |= {"magnify": self.magnify, "reduce": self.reduce}
            elif name != "coarsest" or value is not None:
                values[name] = value
        return values

    @model_validator(mode="before")
    @classmethod
    def _one_scale(cls, values: Any) -> Any:
        """Read "magnify" and "reduce" as one scale."""
        if not isinstance(values, dict) or not {"magnify", "reduce"} & values.keys():
            return values
        others = {key: value for key, value in values.items() if key not in ("magnify", "reduce")}
        magnify, reduce = values.get("magnify", 1), values.get("reduce", 1)
        if not (isinstance(magnify, int) and isinstance(reduce, int)):
            raise ValueError("magnify and reduce are whole numbers")
        if not 1 <= reduce <= MOST_REDUCTION:
            raise ValueError(f"reduce must be 1 to {MOST_REDUCTION}, not {reduce}")
        if magnify > 1 and reduce > 1:
            raise ValueError("magnify or reduce: a net sees images larger or smaller, not both")
        return {**others, "scale": Fraction(magnify, reduce) * others.get("scale", 1)}

    @field_validator("inputs")
    @classmethod
    def _names_of_inputs(cls, inputs: dict[str, int]) -> dict[str, int]:
        require_names("input", inputs)
        if COLOR_ONLY.keys() & inputs and next(iter(inputs)) not in COLOR_ONLY:
            raise ValueError("the input color must come first: pretrained filters are for it")
        return inputs

    @field_validator("skip_scales")
    @classmethod
    def _factors(cls, scales: dict[int, float]) -> dict[int, float]:
        for scale in scales.values():
            if not 0 < scale < math.inf:
                raise ValueError(f"skip_scales: {scale} is no positive factor")
        return scales

    @model_validator(mode="after")
    def _fitting(self) -> NetArguments:
        if self.fusion == "late" and len(self.inputs) < 2:
            raise ValueError("late fusion is of several inputs; name them")
        if self.coarsest is not None and self.coarsest < self.stride:
            raise ValueError(f"coarsest must be at least the stride, {self.stride}")
        most = 1 if self.padding is not None else max(most_magnification(self.stride), 1)
        allowed = [factor for factor in range(1, most + 1) if most % factor == 0]
        if self.magnify not in allowed:
            padded = "with a padding of the first convolution"
            where = padded if self.padding is not None else f"at stride {self.stride}"
            shown = " or ".join(map(str, allowed))
            raise ValueError(f"magnify must be {shown} {where}, not {self.magnify}")
        if self.reduce > 1 and (why := self._why_not_reduced()):
            raise ValueError(why)
        return self

    def _why_not_reduced(self) -> str | None:
        """Return what a reduction does not go with; None if nothing stands against it."""
        if self.magnify > 1:
            return f"scale must be a whole number or one over it, not {self.scale}"
        if self.reduce > MOST_REDUCTION:
            return f"reduce must be 1 to {MOST_REDUCTION}, not {self.reduce}"
        if self.padding is not None:
            return "reduce must be 1 with a padding of the first convolution"
        if self.learn_last_upscore:
            return "reduce must be 1 where the last upscore is learnt"
        if self.inputs != COLOR_ONLY:
            return f"reduce must be 1 for the inputs {', '.join(self.inputs)}"
        return None


class Labelling(BaseModel):
    """What a head labels.

    Attributes:
        classes: names, index = label id.
        palette: an RGB colour a class.
        temperature: what scores are divided by before they become probabilities; folders of old
            do not tell it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    classes: Annotated[tuple[Line, ...], Field(min_length=1, max_length=MOST_CLASSES)]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0

    @field_validator("palette")
    @classmethod
    def _a_colour_each(cls, palette: tuple[Colour, ...], info: ValidationInfo) -> Any:
        count = len(info.data.get("classes", palette))
        if len(palette) != count:
            raise ValueError(f"{len(palette)} colours for {count} classes")
        return palette


def labelling(num_classes: int, names: Sequence[str] | None, palette: Colours | None) -> Labelling:
    """Return what a head labels; names and colours that are not given are made up.

    Raises:
        FullconvError: wrong numbers of classes, names or colours; or what is none.
    """
    if not 1 <= num_classes <= MOST_CLASSES:
        raise FullconvError(f"num_classes must be 1 to {MOST_CLASSES}, not {num_classes}")
    # As tuples they tell whether there are any, which NumPy's arrays don't.
    classes = tuple(() if names is None else names)
    classes = classes or tuple(f"class {index}" for index in range(num_classes))
    colours = tuple(() if palette is None else palette) or default_palette(num_classes)
    for what, given in (("class names", classes), ("colours", colours)):
        if len(given) != num_classes:
            raise FullconvError(f"{len(given)} {what} for {num_classes} classes")
    try:
        return Labelling(classes=classes, palette=colours)
    except ValidationError as error:
        raise FullconvError(str(first_mistake(error))) from None


def labellings(
    num_classes: int | None,
    heads: Mapping[str, int | Sequence[str] | Labelling] | None,
    classes: Sequence[str] | None,
    palette: Colours | Mapping[str, Colours] | None,
) -> dict[str, Labelling]:
    """Return what each head labels, by its name, from the arguments of `FCN`.

    Raises:
        FullconvError: neither classes nor heads, or both; a name that no head may have; colours of
            no head; else as `labelling`.
    """
    if heads is None:
        if num_classes is None or isinstance(palette, Mapping):
            raise FullconvError("give num_classes, or heads and their palettes by name")
        return {ONLY_HEAD: labelling(num_classes, classes, palette)}
    if num_classes is not None or classes is not None or not heads:
        raise FullconvError("heads tell numbers and names of classes: give nothing besides")
    try:
        require_names("head", heads)
    except ValueError as error:
        raise FullconvError(str(error)) from None
    palettes = {} if palette is None else palette
    if not isinstance(palettes, Mapping) or palettes.keys() - heads.keys():
        raise FullconvError(f"palettes of several heads are given by name: {', '.join(heads)}")
    return {name: _labelling_of(given, palettes.get(name)) for name, given in heads.items()}


def _labelling_of(given: int | Sequence[str] | Labelling, palette: Colours | None) -> Labelling:
    if isinstance(given, Labelling):
        return given
    count, names = (given, None) if isinstance(given, int) else (len(given), given)
    return labelling(count, names, palette)


def require_names(what: str, names: Mapping[str, Any]) -> None:
    """Raise ValueError for names that can't be part of a path, or that a torch module has."""
    from torch import nn

    module = nn.ModuleDict()
    for name in names:
        if not is_plain_name(name):
            raise ValueError(
                f"{what} {name!r}: a name holds letters, digits, _ and - only, a letter first"
            )
        if hasattr(module, name) or name in ("channels", "taps"):  # the latter: a late fusion's own
            raise ValueError(f"{what} {name!r}: torch's modules use this name; choose another")


def most_magnification(stride: int) -> int:
    """Return how many times larger than an image its trunk may see it, if a net has this stride.

    The net's cells are then two of the image's pixels wide, as an FCN-2s's are on the image itself.
    """
    return stride // 2
