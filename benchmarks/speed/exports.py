"""Each format and precision that `fullconv export` writes, side by side.

    python -m benchmarks.speed.exports --model MODEL --data CAMVID [--images 16] [--rounds 9]

exports the model's labels in each format and precision, and measures of each: the bytes, how long
it takes to load and label a first image, the time for an image (medians, in turns, in one process,
one image at a time by all threads), the share of labels that are torch's in float32, and the mean
IU of the whole test split. Beside them are torch in float32, and OpenVINO that is left to work in
bfloat16 on the float32 file.

Expected: int8 in OpenVINO loses at most 0.005 of mean IU, takes at most half of float32's time
there, and less than bfloat16's.
Results: benchmarks/results/exports.csv and exports-machine.json, and the table of docs/exports.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.frame import DOCS, Results, Row, arguments, in_turns
from fullconv.base.files import write_text
from fullconv.base.progress import Reporter
from fullconv.data.folder import DatasetFolder
from fullconv.export.opened import OpenedExport
from fullconv.export.openvino_core import core
from fullconv.export.run import PRECISIONS, ExportSettings, export
from fullconv.measure.evaluation import evaluate_labels, split_for
from fullconv.net.fcn import FCN, load

Labels = Mapping[str, NDArray[np.uint8]]
Label = Callable[[Any], Labels]
BEGIN, END = "<!-- exports.csv -->", "<!-- end -->"
PAUSE = 1.0  # seconds in which threads of other runtimes fall asleep
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True)
class Way:
    """A way to labels.

    Attributes:
        name: as the table has it.
        label: gives an image's labels by head.
        size: of its files in bytes.
        load: seconds to its first labels.
    """

    name: str
    label: Label
    size: int
    load: float


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a trained model folder")
    parser.add_argument("--data", type=Path, required=True, help="the dataset that it is for")
    parser.add_argument("--images", type=int, default=16, help="that times are taken of")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--measured", type=int, default=10_000, help="images of mean IU, at most")
    asked = parser.parse_args()
    net = load(asked.model).requires_grad_(False)
    split = split_for(net, DatasetFolder(asked.data), "test")
    images = [split[index].image for index in range(min(asked.images, len(split)))]
    with tempfile.TemporaryDirectory() as folder:
        ways = [_by_torch(net, asked.model, images[0])]
        for form, suffix in SUFFIX.items():
            for precision in PRECISIONS:
                out = Path(folder) / f"{precision}{suffix}"
                data = asked.data if precision == "int8" else None
                ways += _exported(ExportSettings(net, form, out, precision, data=data), images[0])
        times = _times(ways, images, asked.rounds)
        rows = [_row(way, times, images, net) for way in ways]
        for row, way in zip(rows, ways, strict=True):
            found = evaluate_labels(net, split.few(asked.measured), way.label)
            row["mean IU"] = f"{found.mean_iu:.4f}"
    Results("exports").replace(rows)
    _fill_in(rows)


def _by_torch(net: FCN, model: Path, first: Any) -> Way:
    begun = time.perf_counter()
    load(model).label(first)
    seconds = time.perf_counter() - begun
    size = (model / "model.safetensors").stat().st_size
    return Way("torch fp32", net.for_inference().label, size, seconds)


def _exported(settings: ExportSettings, first: Any) -> list[Way]:
    """Return an export, and of a float32 one in OpenVINO also what it does in bfloat16."""
    form, precision, out = settings.format, settings.precision, settings.out
    done = export(settings, Reporter())
    begun = time.perf_counter()
    opened = OpenedExport(out)
    opened.label(first)
    runtime = "onnxruntime" if form == "onnx" else form
    seconds = time.perf_counter() - begun
    ways = [Way(f"{runtime} {precision}", opened.label, done.size, seconds)]
    if (form, precision) == ("openvino", "fp32"):
        begun = time.perf_counter()
        label = _in_bf16(out)
        label(first)
        ways.append(Way("openvino bf16", label, done.size, time.perf_counter() - begun))
    return ways


def _in_bf16(path: Path) -> Label:
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core().compile_model(core().read_model(path), "CPU", settings)
    request = compiled.create_infer_request()

    def label(image: Any) -> Labels:
        request.infer([np.require(image[None], requirements=("C",))])
        return {"labels": request.output_tensors[0].data[0].copy()}

    return label


def _times(ways: Sequence[Way], images: Sequence[Any], rounds: int) -> dict[str, float]:
    """Return the milliseconds that each takes for an image."""

    def all_by(way: Way) -> None:
        for image in images:
            way.label(image)

    runs = {way.name: partial(all_by, way) for way in ways}
    return in_turns(runs, len(images), rounds, pause=PAUSE)


def _row(way: Way, times: Mapping[str, float], images: Sequence[Any], net: FCN) -> Row:
    same = [(way.label(image)["labels"] == net.label(image)["labels"]).mean() for image in images]
    return {
        "way": way.name,
        "MB": f"{way.size / 1e6:.1f}",
        "load s": f"{way.load:.2f}",
        "ms": f"{times[way.name]:.1f}",
        "times openvino fp32": f"{times['openvino fp32'] / times[way.name]:.2f}",
        "labels": f"{np.mean(same):.5f}",
    }


def _fill_in(rows: Sequence[Row]) -> None:
    """Put the rows in the place that docs/exports.md has for them."""
    page = DOCS / "exports.md"
    text = page.read_text(encoding="utf-8")
    head = ("", "MB", "first labels", "an image", "as fast as OpenVINO fp32", "labels", "mean IU")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = (
            row["way"],
            row["MB"],
            f"{row['load s']} s",
            f"{row['ms']} ms",
            row["times openvino fp32"],
            f"{float(row['labels']):.2%}",
            row["mean IU"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    write_text(page, "\n".join([before + BEGIN, *lines, after]))


if __name__ == "__main__":
    main()
