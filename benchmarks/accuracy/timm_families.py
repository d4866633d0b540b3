"""Every family of timm's classifiers, made dense: does it give the classifier's own scores?

    python -m benchmarks.accuracy.timm_families [FAMILY ...]

takes the smallest model of each file of `timm.models`, with random weights that all matter, makes
it fully convolutional, and compares the scores with its own at the native size. A family is a
convnet if convolutions, pooling and means over the whole image are all that mixes positions: its
smallest model multiplies no two values of the image as matrices (attention and its kin), holds no
recurrent layer, and has no dense layers over positions. A run that was cut short goes on when the
command is repeated.

Expected: of the convnets at least 95 % work, with errors below 1e-5 of the highest score. All
others are refused in a line that names the layer.
Results: benchmarks/results/timm-families.csv, timm-families-machine.json and docs/timm.md.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules, list_models
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.frame import DOCS, Results, Row, arguments
from fullconv import FCN, FullconvError, convolutionalize

STRIDES = (2, 4, 8, 16, 32, 64)
MIXERS = {  # which no product of two values gives away
    "mlp_mixer": "dense layers over positions",
    "swiftformer": "additive attention",
}
PRODUCTS = ("matmul", "__matmul__", "bmm", "einsum", "scaled_dot_product_attention")
COMMON = (
    "; only networks of convolutions, pooling and pointwise layers can be made fully convolutional"
)
LARGEST = 140e6  # parameters; what is larger, of the families that are no convnets, is left out


def main() -> None:
    """Try every family, and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("families", nargs="*", help="files of timm.models; all, if none is given")
    asked = parser.parse_args().families
    warnings.simplefilter("ignore")
    results = Results("timm-families")
    for family in sorted(path.stem for path in _files()):
        if not (family in asked or (not asked and results.lacks({"family": family}))):
            continue
        if name := smallest(family):
            results.add({"family": family}, tried(family, name))
    write_table(results.rows)


def _files() -> list[Any]:
    from pathlib import Path

    return [*Path(timm.models.__file__).parent.glob("[a-z]*.py")]


def smallest(family: str) -> str | None:
    """Return the name of a family's model with the fewest parameters; None of a file without."""
    counts = {}
    for name in list_models():
        if not is_model_in_modules(name, [family]):
            continue
        with torch.device("meta"):
            counts[name] = sum(each.numel() for each in timm.create_model(name).parameters())
    return min(counts, key=counts.__getitem__, default=None)


def tried(family: str, name: str) -> Row:
    """Make a model dense and compare."""
    torch.manual_seed(0)
    row = {"model": name, "kind": "", "error": "", "strides": "", "refused": ""}
    with torch.device("meta"):
        row["kind"] = kind(timm.create_model(name).eval(), family)
        count = sum(each.numel() for each in timm.create_model(name).parameters())
    if row["kind"] != "convnet" and count > LARGEST:
        return row | {"refused": "not tried: too large"}
    net = timm.create_model(name)
    size = native_size(net)
    try:
        dense = convolutionalize(settled(net, size), size)
    except FullconvError as error:
        return row | {"refused": str(error).replace(COMMON, "")}
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        own, made = net(images), dense(images)[:, :, 0, 0]
    row["error"] = f"{float((own - made).abs().max() / own.abs().max()):.0e}"
    return row | strides(net)


def native_size(net: Any) -> int:
    """Return the side in pixels of the images that a model was made for."""
    return int(net.pretrained_cfg["input_size"][-1])


def settled(net: nn.Module, size: int) -> nn.Module:
    """Let every weight matter: those that begin as constants vary, statistics are measured."""
    norms = [each for each in net.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn_like(parameter))
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        net.train()(torch.randn(2, 3, size, size))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return net.eval()


def strides(net: nn.Module) -> Row:
    """Return the strides that an FCN on a classifier can have, having run the finest of them."""
    for stride in STRIDES:
        try:
            fcn = FCN(copy.deepcopy(net), stride=stride, num_classes=2).eval()
        except FullconvError as error:
            reason = str(error)
            continue
        with torch.no_grad():
            if fcn(torch.randn(1, 3, 161, 118)).shape != (1, 2, 161, 118):
                reason = f"at stride {stride} its labels are not of the image's size"
                continue
        return {"strides": " ".join(str(tap.stride) for tap in fcn.taps)}
    return {"refused": reason}


class _Products(TorchFunctionMode):
    """Notes whether two values that are no weights are multiplied as matrices."""

    found = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in PRODUCTS:
            factors = [each for each in args if isinstance(each, Tensor)]
            self.found |= not any(isinstance(each, nn.Parameter) for each in factors)
        return func(*args, **(kwargs or {}))


def kind(net: nn.Module, family: str) -> str:
    """Return "convnet", or what else mixes positions."""
    if family in MIXERS:
        return MIXERS[family]
    if any(isinstance(each, nn.RNNBase) for each in net.modules()):
        return "recurrent layers"
    size = native_size(net)
    try:
        with _Products() as products, torch.no_grad():
            net(torch.empty(1, 3, size, size, device="meta"))
    except (RuntimeError, NotImplementedError):  # a layer that "meta" can't do is no convolution
        return "attention"
    return "attention" if products.found else "convnet"


def write_table(rows: list[Row]) -> None:
    """Write docs/timm.md."""
    convnets = [row for row in rows if row["kind"] == "convnet"]
    working = [row for row in convnets if row["error"] and row["strides"]]
    others = [row for row in rows if row["kind"] != "convnet"]
    lines = [
        "# timm's families",
        "",
        f"Every file of `timm.models` (timm {version('timm')}) by its smallest model, with random "
        "weights, made fully convolutional by `fullconv.convolutionalize`. The error is the "
        "largest difference from the classifier's own scores at its native size, as a fraction of "
        "the highest score. The strides are those that `fullconv.FCN` can have.",
        "",
        "A family counts as a convnet if convolutions, pooling and means over the whole image are "
        "all that mixes positions. Written by `python -m benchmarks.accuracy.timm_families`.",
        "",
        f"**{len(working)} of {len(convnets)} convnets work.**",
        "",
        "| family | model | error | strides | refused because |",
        "| --- | --- | --- | --- | --- |",
        *(_line(row, "error", "strides", "refused") for row in convnets),
        "",
        f"The other {len(others)} families, whose positions are mixed by attention or its like:",
        "",
        "| family | model | mixes by | outcome |",
        "| --- | --- | --- | --- |",
        *(_line(row, "kind", "refused") for row in others),
    ]
    (DOCS / "timm.md").write_text("\n".join(lines) + "\n")


def _line(row: Row, *columns: str) -> str:
    told = [row[column].replace("|", "\\|") for column in columns]
    if not row["refused"] and "kind" in columns:
        told[-1] = f"works: error {row['error']}, strides {row['strides']}"
    return f"| {row['family']} | {row['model']} | {' | '.join(told)} |"


if __name__ == "__main__":
    main()
