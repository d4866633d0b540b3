"""The whole `fullconv predict`, and its engines, against what they stand for.

    python -m benchmarks.speed.predict [--photos CAMVID/images/test] [--model MODEL]

measures in turns, in one process, medians:

- a folder of JPEGs to label PNGs and overlays, against the plain loop that writes the same files
  (PIL, eager torch, F.interpolate, argmax, PIL) with the same FCN-8s on MobileNetV2, and against
  the sum of reading, labelling and encoding measured apart, without any disk;
- an image in memory to its labels, against eager torch, OpenVINO and ONNX Runtime that do the whole
  net up to full-resolution scores and their argmax, each at its best documented settings.

Expected: at least 3 times the plain loop's images a second, in at most 1.15 times the sum of its
parts. Without --photos, streets are drawn; without --model, the net's scores
are random, and so more detailed than a trained one's.
Results: benchmarks/results/predict.csv and predict-machine.json.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.frame import Results, Row, arguments, in_turns
from fullconv.base.images import ImageReader
from fullconv.base.palette import Colour, palette_image
from fullconv.base.progress import Progress
from fullconv.demo.streets import draw_scene
from fullconv.export.openvino_core import import_openvino
from fullconv.export.verified import EngineConfig
from fullconv.net.fcn import FCN, load
from fullconv.predict.choice import AT_ONCE
from fullconv.predict.engines import build, configs, is_installed
from fullconv.predict.jobs import make_folders, plan
from fullconv.predict.labeller import Labeller
from fullconv.predict.pictures import overlay
from fullconv.predict.stream import label_files

PHOTOS, ROUNDS = 32, 7

Pixels = NDArray[np.uint8]


def main() -> None:
    """Measure both, print and write them."""
    parser = arguments(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs")
    parser.add_argument("--model", type=Path, help="a trained FCN-8s on MobileNetV2")
    asked = parser.parse_args()
    net = load(asked.model).requires_grad_(False) if asked.model else untrained()
    options = [way for way in configs("auto", "auto", torch.device("cpu")) if not way.compiled]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        paths = sorted((asked.photos or drawn(Path(folder))).rglob("*.jpg"))[:PHOTOS]
        rows = folders(net, paths, options, Path(folder)) + images(net, paths, options)
    Results("predict").replace(rows)


def drawn(folder: Path) -> Path:
    """Draw street scenes as large as CamVid's photos; return their folder."""
    for index in range(PHOTOS):
        scene, _ = draw_scene(0, "test", index, (360, 480))
        Image.fromarray(scene).save(folder / f"{index}.jpg", quality=95)
    return folder


def untrained() -> FCN:
    """Return an FCN-8s of 11 classes whose scores are random."""
    torch.manual_seed(0)
    return with_random_scores(FCN("mobilenet_v2", 8, 11).eval())


def with_random_scores(net: FCN) -> FCN:
    """Give a net random scores, in place; return it."""
    for score in net.scores.values():
        assert isinstance(score, nn.Conv2d)
        nn.init.normal_(score.weight, std=score.in_channels**-0.5)
    return net


def each(work: Callable[[Pixels], object], images: Sequence[Pixels]) -> None:
    """Do one image after the other."""
    for image in images:
        work(image)


# A folder of files


def folders(
    net: FCN, paths: Sequence[Path], options: Sequence[EngineConfig], out: Path
) -> list[Row]:
    """Measure a folder of JPEGs to label images and overlays, as a whole and in parts."""
    jobs = plan([str(path) for path in paths], out / "ours")
    make_folders(jobs)
    plain = out / "plain"
    (plain / "overlay").mkdir(parents=True)
    shown = [ImageReader().image(path) for path in paths]
    labellers = {str(way): Labeller(net, build(net, way, shown, AT_ONCE)) for way in options}
    alone = {str(way): Labeller(net, build(net, way, shown)) for way in options}
    labels = [alone["torch fp32"](image)["labels"] for image in shown]
    own = copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # ours is channels last
    runs: dict[str, Callable[[], object]] = {"plain loop": lambda: plain_loop(own, paths, plain)}
    for name, label in labellers.items():
        runs[name] = partial(label_files, label, jobs, Progress(len(jobs), "", ""))
    runs["reading"] = lambda: [ImageReader().image(path) for path in paths]
    for name, label in alone.items():
        runs[f"labelling by {name}"] = partial(each, label, shown)
    runs["encoding"] = partial(encode_all, shown, labels, net.palette)
    spent = in_turns(runs, len(paths), ROUNDS)
    rows = [row("folder", "plain loop", spent["plain loop"])]
    for name in labellers:
        apart = spent["reading"] + spent[f"labelling by {name}"] + spent["encoding"]
        rows.append(
            row("folder", name, spent[name], spent["plain loop"])
            | {"of_sum_of_parts": f"{spent[name] / apart:.2f}"}
        )
    parts = {name: ms for name, ms in spent.items() if name not in (*labellers, "plain loop")}
    return rows + [row("part", name, ms) for name, ms in parts.items()]


@torch.inference_mode()
def plain_loop(net: FCN, paths: Sequence[Path], out: Path) -> None:
    """Label files one after the other, as one would write it down."""
    mean, std = (torch.tensor(values)[:, None, None] for values in moments(net))
    table = np.zeros((256, 3), np.uint8)
    table[: len(net.palette)] = net.palette
    for path in paths:
        photo = Image.open(path).convert("RGB")
        x = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous().float() / 255
        scores = net.coarse(((x - mean) / std)[None])
        assert isinstance(scores, Tensor)
        scores = F.interpolate(scores, x.shape[1:], mode="bilinear", align_corners=False)
        labels = scores.argmax(1)[0].numpy().astype(np.uint8)
        coloured = Image.fromarray(labels)
        coloured.putpalette(table.tobytes())
        coloured.save(out / f"{path.stem}.png")
        tinted = np.array(Image.blend(photo, coloured.convert("RGB"), 0.45))
        edges = np.zeros(labels.shape, bool)
        edges[:, :-1] |= labels[:, 1:] != labels[:, :-1]
        edges[:-1] |= labels[1:] != labels[:-1]
        tinted[edges] = (tinted[edges] * 0.6).astype(np.uint8)
        Image.fromarray(tinted).save(out / "overlay" / f"{path.stem}.jpg", quality=90)


def encode_all(
    shown: Sequence[Pixels], labels: Sequence[Pixels], palette: Sequence[Colour]
) -> None:
    """Make what `fullconv predict` writes, in memory."""
    for image, own in zip(shown, labels, strict=True):
        palette_image(own, palette, 255).save(io.BytesIO(), "PNG", compress_type=zlib.Z_RLE)
        tinted = Image.fromarray(overlay(image, own, palette))
        tinted.save(io.BytesIO(), "JPEG", quality=90)


# An image in memory


def images(net: FCN, paths: Sequence[Path], options: Sequence[EngineConfig]) -> list[Row]:
    """Measure an image's labels by each engine, one image at a time."""
    shown = [ImageReader().image(path) for path in paths[:12]]
    ours = {f"fullconv, {way}": Labeller(net, build(net, way, shown)) for way in options}
    theirs = peers(net, shown[0])
    work: dict[str, Callable[[Pixels], Any]] = {**theirs, **ours}
    spent = in_turns(
        {name: partial(each, one, shown) for name, one in work.items()}, len(shown), ROUNDS
    )
    plain = spent["eager torch"]
    truth = [ours["fullconv, torch fp32"](image)["labels"] for image in shown]
    equal = {name: agreement(label, shown, truth) for name, label in ours.items()}
    return [
        row("image", name, ms, plain) | {"labels_equal": equal.get(name, "")}
        for name, ms in spent.items()
    ]


def agreement(label: Labeller, shown: Sequence[Pixels], truth: Sequence[Pixels]) -> str:
    """Return the share of labels that are the true ones."""
    same = [
        (label(image)["labels"] == expected).mean()
        for image, expected in zip(shown, truth, strict=True)
    ]
    return f"{np.mean(same):.5f}"


class Plain(nn.Module):
    """The whole net from bytes to labels, by way of full-resolution scores.

    Attributes:
        layout: of the images in memory; the weights' is the same.
    """

    def __init__(self, net: FCN, layout: torch.memory_format) -> None:
        super().__init__()
        self.net, self.layout = copy.deepcopy(net).to(memory_format=layout), layout
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in moments(net))

    def forward(self, images: Tensor) -> Tensor:
        """Return labels N x H x W of images N x H x W x 3, bytes."""
        x = images.permute(0, 3, 1, 2).float().contiguous(memory_format=self.layout) / 255
        coarse = self.net.coarse((x - self.mean) / self.std)
        assert isinstance(coarse, Tensor)
        size = (int(images.shape[1]), int(images.shape[2]))
        return F.interpolate(coarse, size, mode="bilinear", align_corners=False).argmax(1)


def peers(net: FCN, image: Pixels) -> dict[str, Callable[[Pixels], Any]]:
    """Return what others would do, each at its best settings for one image after the other."""
    plain = Plain(net, torch.contiguous_format)
    last = Plain(net, torch.channels_last)
    found: dict[str, Callable[[Pixels], Any]] = {
        "eager torch": torch.inference_mode()(lambda image: plain(torch.from_numpy(image)[None])),
        "eager torch, channels last": torch.inference_mode()(
            lambda image: last(torch.from_numpy(image)[None])
        ),
    }
    with warnings.catch_warnings(action="ignore"):
        if is_installed("openvino"):
            for hint in ("f32", "bf16"):
                found[f"OpenVINO {hint}"] = by_openvino(plain, image, hint)
        if is_installed("onnxruntime"):
            found["ONNX Runtime"] = by_onnxruntime(plain, image)
    return found


def by_openvino(plain: nn.Module, image: Pixels, hint: str) -> Callable[[Pixels], Any]:
    """Return the whole net in OpenVINO, for images of one size."""
    openvino = import_openvino()
    graph = openvino.convert_model(plain, example_input=torch.from_numpy(image)[None])
    graph.reshape([1, *image.shape])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.compile_model(graph, "CPU", settings).create_infer_request()
    return lambda image: request.infer([openvino.Tensor(image[None], shared_memory=True)])[0]


def by_onnxruntime(plain: nn.Module, image: Pixels) -> Callable[[Pixels], Any]:
    """Return the whole net in ONNX Runtime, for images of one size."""
    import onnxruntime

    file = io.BytesIO()
    example = (torch.from_numpy(image)[None],)
    torch.onnx.export(plain, example, file, dynamo=False, input_names=["x"])  # type: ignore[arg-type]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    return lambda image: session.run(None, {"x": image[None]})[0]


def moments(net: FCN) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation that the net expects of values from 0 to 1."""
    expected = net.preprocessing
    assert (expected.channels, expected.scale) == ("RGB", 1 / 255)
    return expected.mean, expected.std


def row(what: str, name: str, ms: float, plain: float | None = None) -> Row:
    """Return a row of the results; `plain` is the time of the plain way."""
    return {
        "what": what,
        "by": name,
        "ms": f"{ms:.2f}",
        "times_plain": f"{plain / ms:.2f}" if plain else "",
        "of_sum_of_parts": "",
        "labels_equal": "",
    }


if __name__ == "__main__":
    main()
