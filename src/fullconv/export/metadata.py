"""What an exported file says of itself: one JSON object, in the place that its format has for such.

In ONNX it is an entry of ``metadata_props``, in OpenVINO of ``rt_info``, both by the name
"fullconv".
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fullconv.net.arguments import COLOR_ONLY, Labelling
from fullconv.net.preprocessing import Preprocessing

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

KEY = "fullconv"
SIDE = 512  # pixels; of the image whose layers are counted
IMAGE = "image"  # the name of an only input

Output = Literal["labels", "scores", "probabilities"]
Precision = Literal["fp32", "fp16", "int8"]


class ExportedHead(Labelling):
    """What a head labels.

    Attributes:
        classes: names, index = label id.
        palette: an RGB colour a class.
        temperature: what scores are divided by before they become probabilities.
        ignore_index: the label id that training and metrics leave out.
    """

    ignore_index: int

    @property
    def num_classes(self) -> int:
        """Number of scores a pixel."""
        return len(self.classes)


class Agreement(BaseModel):
    """How an export was found to agree with the net that it came from, in torch and float32.

    Attributes:
        runtime: what worked it out, and its version.
        images: how many were compared.
        source: whose images: "generated", or those of the "data" that was given.
        labels: the share of labels that are equal, 0..1, of pixels whose two best scores differ
            by more than `margin`.
        margin: in shares of the largest score.
        scores: the largest difference of scores, in shares of the largest score; of labels that of
            the same graph before the argmax. None of int8 labels.
        random_scores: whether the net scored nothing yet, and was compared with random scores.
        mean_iu: of the export on the data; None without.
        mean_iu_of_net: of the net on the same images.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    runtime: str
    images: int
    source: Literal["generated", "data"]
    labels: float
    margin: float
    scores: float | None
    random_scores: bool = False
    mean_iu: float | None = None
    mean_iu_of_net: float | None = None


class ExportMetadata(BaseModel):
    """What an exported file says of itself.

    Attributes:
        format: of this object.
        version: of the package that wrote it.
        output: what the graph gives for each pixel.
        precision: of its weights; int8: of the computation, too.
        inputs: channels by the name of the net's input; the graph calls an only one "image".
        heads: what each head labels; the graph calls the output of an only one by `output`.
        preprocessing: what the graph does with the images, as in config.json.
        stride: of the coarse scores.
        scale: how many times larger than it is the trunk sees an image.
        bytes_a_pixel: of memory that the layers take at once, about.
        float_layers: of int8, groups of layers that are not quantised.
        verification: None before it was verified.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    version: str = version("fullconv")
    output: Output
    precision: Precision
    inputs: Annotated[dict[str, int], Field(min_length=1)] = COLOR_ONLY
    heads: Annotated[dict[str, ExportedHead], Field(min_length=1)]
    preprocessing: dict[str, Any]
    stride: int
    scale: Fraction = Fraction(1)
    bytes_a_pixel: float = 0.0
    float_layers: tuple[str, ...] = ()
    verification: Agreement | None = None

    @field_validator("preprocessing")
    @classmethod
    def _is_preprocessing(cls, values: dict[str, Any]) -> dict[str, Any]:
        return Preprocessing.from_dict(values).to_dict()

    @classmethod
    def of(cls, net: FCN, output: Output, precision: Precision) -> ExportMetadata:
        """Describe the export of a net."""
        from fullconv.net.layer_memory import layer_bytes

        return cls(
            output=output,
            precision=precision,
            inputs=net.inputs,
            heads={
                name: ExportedHead(**dict(head.labelling), ignore_index=net.ignore_index)
                for name, head in net.heads.items()
            },
            preprocessing=net.preprocessing.to_dict(),
            stride=net.arguments.stride,
            scale=net.scale,
            bytes_a_pixel=round(layer_bytes(net, (SIDE, SIDE)) / SIDE**2, 1),
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the graph calls its inputs."""
        return input_names(self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the graph calls its outputs, one a head."""
        return output_names(self.heads, self.output)

    @property
    def ignore_index(self) -> int:
        """The label id that training and metrics leave out."""
        return next(iter(self.heads.values())).ignore_index

    def to_json(self) -> str:
        """Return the text that the file holds."""
        return self.model_dump_json()


def input_names(inputs: Iterable[str]) -> tuple[str, ...]:
    """Return what a graph calls a net's inputs: an only one "image"."""
    names = tuple(inputs)
    return names if len(names) > 1 else (IMAGE,)


def output_names(heads: Iterable[str], output: Output) -> tuple[str, ...]:
    """Return what a graph calls the outputs of a net's heads: that of an only one by its kind."""
    names = tuple(heads)
    return names if len(names) > 1 else (output,)
