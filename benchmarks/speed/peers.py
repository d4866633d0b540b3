"""How long an image takes to be labelled: the nets of benchmarks/accuracy/peers.py, side by side.

    pip install -c constraints.txt segmentation-models-pytorch==0.6.0 albumentations==2.0.8
    python -m benchmarks.speed.peers --weights mobilenet_v2.safetensors [--camvid CAMVID]

builds, for each of the five small sets (benchmarks/datasets/unlike_sets.py), Unet, FPN and
DeepLabV3Plus of segmentation-models-pytorch on MobileNetV2, and the net that `fullconv train` would
train with nothing given; none is trained, which changes no time. Measured in turns is an image in
memory to its labels: in plain PyTorch (float32, channels_last; of fullconv as `predict --engine
torch` does it, of the peers as in benchmarks/accuracy/peers.py) and by each one's best engine of
OpenVINO in float32 and in bfloat16 and of ONNX Runtime, of a peer the whole net up to its argmax in
the engine, for images of one size.

Expected: fullconv takes at most 0.7 times Unet's time on every set, both ways.
Results: benchmarks/results/labelling.csv and labelling-machine.json.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy.peer_training import ARCHITECTURES, Peer, margins
from benchmarks.accuracy.peers import OWN, TIMED_IMAGES
from benchmarks.datasets.unlike_sets import unlike_sets, write_missing
from benchmarks.frame import Results, Row, arguments, in_turns
from benchmarks.speed.predict import by_onnxruntime, by_openvino, each, with_random_scores
from fullconv.base.runtime import has_bf16, keep_freed_memory
from fullconv.data.folder import DatasetFolder, evenly_chosen
from fullconv.net.fcn import FCN
from fullconv.predict.engines import build, configs
from fullconv.predict.labeller import Labeller
from fullconv.train.nets import target_net
from fullconv.train.recipe import read_recipe
from fullconv.train.settings import TrainSettings

ROUNDS, PAUSE = 7, 0.3  # seconds: threads of the runtime before have stopped to spin by then
UNET, PLAIN = "Unet", "torch"

Label = Callable[[Any], object]


def main() -> None:
    """Measure every set, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="mobilenet_v2's, safetensors")
    parser.add_argument("--camvid", type=Path, help="CamVid's dataset folder")
    parser.add_argument("--sets", type=Path, default=Path("runs/unlike"), help="the five sets")
    given = parser.parse_args()
    write_missing(given.sets)
    keep_freed_memory()
    results = Results("labelling")
    folders = [given.sets / made.info.name for made in unlike_sets()]
    for folder in folders + ([given.camvid] if given.camvid else []):
        for row in rows_of(given.weights, folder):
            results.add({key: row.pop(key) for key in ("dataset", "net")}, row)


@torch.no_grad()
def rows_of(weights: Path, folder: Path) -> Iterator[Row]:
    """Measure the nets of one dataset."""
    data = DatasetFolder(folder)
    test = data.split("test")
    images: list[Any] = [test[index].image for index in evenly_chosen(len(test), TIMED_IMAGES)]
    own = default_net(weights, folder)
    nets = {
        name: of_peer(weights, len(data.info.classes), name, images[0]) for name in ARCHITECTURES
    }
    nets[OWN] = of_fullconv(own, images)
    runs = {
        (net, way): partial(each, label, images)
        for net, ways in nets.items()
        for way, label in ways.items()
    }
    spent = in_turns(
        {" ".join(key): run for key, run in runs.items()}, len(images), ROUNDS, pause=PAUSE
    )
    plain = {net: spent[f"{net} {PLAIN}"] for net in nets}
    quickest = {
        net: min((spent[f"{net} {way}"], way) for way in ways if way != PLAIN)
        for net, ways in nets.items()
    }
    for net in nets:
        yield {
            "dataset": folder.resolve().name,
            "net": net,
            "seen_and_scored": f"x{own.scale}, FCN-{own.stride}s" if net == OWN else "",
            "torch_ms": f"{plain[net]:.1f}",
            "of_unet": f"{plain[net] / plain[UNET]:.2f}",
            "best_ms": f"{quickest[net][0]:.1f}",
            "best_of_unet": f"{quickest[net][0] / quickest[UNET][0]:.2f}",
            "best_engine": quickest[net][1],
        }


def default_net(weights: Path, folder: Path) -> FCN:
    """Build the net that is trained with nothing given, with random scores."""
    settings = TrainSettings(data=folder, weights=str(weights), recipe=read_recipe("default"))
    net = target_net(settings, DatasetFolder(folder)).eval().requires_grad_(False)
    return with_random_scores(net)


def of_fullconv(net: FCN, images: list[Any]) -> dict[str, Label]:
    """Return the ways in which `predict` labels, and the plain one."""
    plain, *others = configs("auto", "auto", torch.device("cpu"))
    engines = [way for way in others if way.engine != PLAIN and way.precision != "int8"]
    found: dict[str, Label] = {PLAIN: Labeller(net, build(net, plain, images))}
    for way in engines:
        found[str(way)] = Labeller(net, build(net, way, images))
    return found


class WholePeer(nn.Module):
    """A peer from the bytes of images of one size to labels.

    Attributes:
        peer: the net.
        size: height and width of the images.
    """

    def __init__(self, peer: Peer, size: tuple[int, int]) -> None:
        super().__init__()
        self.peer, self.size = peer, size

    def forward(self, images: Tensor) -> Tensor:
        """Return labels N x H x W of images N x H x W x 3, bytes."""
        height, width = self.size
        (above, below), (left, right) = margins(height), margins(width)
        values = images.permute(0, 3, 1, 2).float()
        scores = self.peer(F.pad(values, (left, right, above, below), mode="reflect"))
        labels: Tensor = scores[..., above : above + height, left : left + width].argmax(1)
        return labels


def of_peer(weights: Path, classes: int, name: str, image: Any) -> dict[str, Label]:
    """Return the ways in which a peer labels."""
    peer = Peer(name, classes, weights).eval().requires_grad_(False)
    whole = WholePeer(peer, (image.shape[0], image.shape[1]))
    found: dict[str, Label] = {PLAIN: peer.label}
    with warnings.catch_warnings(action="ignore"):
        for hint in ("f32", "bf16") if has_bf16(torch.device("cpu")) else ("f32",):
            found[f"OpenVINO {hint}"] = by_openvino(whole, image, hint)
        found["ONNX Runtime"] = by_onnxruntime(whole, image)
    return found


if __name__ == "__main__":
    main()
