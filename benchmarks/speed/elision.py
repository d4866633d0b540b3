"""The paper's FCN-8s on a photograph: what is saved by not computing what padding alone decides.

    python -m benchmarks.speed.elision [--net voc-fcn8s] [--rounds 5]

One image of 500x500 in memory to its labels, in turns in one process, medians: by eager PyTorch,
OpenVINO and ONNX Runtime that do the whole net, padding of 100 pixels and full-resolution scores
and all, each at its best documented settings; and by fullconv's engines, which compute the image
and its margin and fill in the rest from constants. The weights are random: scores, not their
meaning, are compared, with those of the whole net in eager PyTorch, relative to the largest.

Expected: the same scores to 1e-4 in float32; at least 1.2 times as fast as OpenVINO's own time for
the whole net in each precision. Results: benchmarks/results/elision.csv and elision-machine.json.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.frame import Results, arguments, in_turns
from benchmarks.speed.predict import Pixels, by_onnxruntime, by_openvino
from fullconv.export.coarse import CoarseScores
from fullconv.net.fcn import FCN
from fullconv.papers.blueprint import paper
from fullconv.predict.engines import build, configs
from fullconv.predict.labeller import Labeller

SIZE = (500, 500)
EAGER = "eager torch fp32"
PEERS = {"openvino fp32": "f32", "openvino bf16": "bf16"}


class LabelsOfAll(nn.Module):
    """A net from bytes to labels by way of full-resolution scores."""

    def __init__(self, net: FCN, layout: torch.memory_format) -> None:
        super().__init__()
        own = copy.deepcopy(net).to(memory_format=layout)
        self.whole, self.head = CoarseScores(own), own.head

    def forward(self, images: Tensor) -> Tensor:
        """Return labels N x H x W of images N x H x W x 3."""
        (coarse,) = self.whole(images)
        size = (int(images.shape[1]), int(images.shape[2]))
        return self.head.upsample(coarse, size).argmax(1)


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--net", default="voc-fcn8s", help="one of the paper's nets")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    net = paper(given.net).eval().requires_grad_(requires_grad=False)
    for name, parameter in net.named_parameters():
        if "scores" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    image = torch.randint(0, 256, (*SIZE, 3), dtype=torch.uint8).numpy()
    with torch.no_grad():
        rows = measure(net, image, given.rounds)
    Results("elision").replace(rows)


def measure(net: FCN, image: Pixels, rounds: int) -> list[dict[str, str]]:
    """Return a row for each way to label `image`."""
    options = [way for way in configs("auto", "auto", torch.device("cpu")) if not way.compiled]
    ours = {way: build(net, way, [image]) for way in options}
    work: dict[str, Callable[[], Any]] = {
        f"whole net, {name}": partial(label, image) for name, label in peers(net, image).items()
    }
    for way, engine in ours.items():
        work[f"fullconv, {way}"] = partial(Labeller(net, engine), image)
    spent = in_turns(work, 1, rounds)
    truth = CoarseScores(net)(torch.from_numpy(image)[None])[0]
    expected = net.head.labels(truth, SIZE)
    rows = []
    for name, ms in spent.items():
        peer = next((f"whole net, {way}" for way in PEERS if name == f"fullconv, {way}"), None)
        row = {
            "by": name,
            "ms": f"{ms:.0f}",
            "times_eager": f"{spent[f'whole net, {EAGER}'] / ms:.2f}",
            "times_openvino": f"{spent[peer] / ms:.2f}" if peer in spent else "",
            "error": "",
            "labels_equal": "",
        }
        rows.append(row)
    for row, engine in zip(rows[-len(ours) :], ours.values(), strict=True):
        (coarse,) = engine(image).values()
        row["error"] = f"{(coarse - truth).abs().max() / truth.abs().max():.1e}"
        row["labels_equal"] = f"{(net.head.labels(coarse, SIZE) == expected).float().mean():.5f}"
    return rows


def peers(net: FCN, image: Pixels) -> dict[str, Callable[[Pixels], Any]]:
    """Return what others do, each at its best settings for one image after the other."""
    plain, last = (
        LabelsOfAll(net, layout) for layout in (torch.contiguous_format, torch.channels_last)
    )
    found: dict[str, Callable[[Pixels], Any]] = {
        EAGER: lambda image: plain(torch.from_numpy(image)[None]),
        f"{EAGER}, channels last": lambda image: last(torch.from_numpy(image)[None]),
    }
    with warnings.catch_warnings(action="ignore"):
        for name, hint in PEERS.items():
            found[name] = by_openvino(plain, image, hint)
        found["onnxruntime fp32"] = by_onnxruntime(plain, image)
    return found


if __name__ == "__main__":
    main()
