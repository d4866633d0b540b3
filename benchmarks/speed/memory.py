"""The memory that a photograph takes on its way through `fullconv predict`, and what was estimated.

    python -m benchmarks.speed.memory [--megapixels 108]

Noise as a JPEG of 1 to 200 megapixels, each in a process of its own, through an FCN-8s of 21
classes on MobileNetV2 by torch in float32: the highest resident memory above that after the model
has labelled a small image, a pixel, beside what was estimated before the work.

Expected: at most 1.2 times the estimate, and at most 24 bytes a pixel for 108 megapixels.
Results: benchmarks/results/memory.csv and memory-machine.json.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.frame import Results, arguments, highest_memory, in_own_process
from fullconv.base.images import ImageReader
from fullconv.base.progress import Progress
from fullconv.base.runtime import keep_freed_memory
from fullconv.export.verified import REFERENCE
from fullconv.net.fcn import FCN
from fullconv.predict.engines import build
from fullconv.predict.jobs import make_folders, plan
from fullconv.predict.labeller import Labeller
from fullconv.predict.memory import Memory
from fullconv.predict.stream import label_files

MEGAPIXELS = (1, 2, 4, 8, 12, 16, 24, 32, 50, 108, 200)
CLASSES = 21


def main() -> None:
    """Measure what is lacking, or one photograph."""
    parser = arguments(__doc__)
    parser.add_argument("--megapixels", type=int, nargs="*", default=MEGAPIXELS)
    parser.add_argument("--photo", type=Path, help="label this one; a process of its own does")
    asked = parser.parse_args()
    if asked.photo:
        print(json.dumps(measure(asked.photo)))
        return
    results = Results("memory")
    for count in asked.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            photo = Path(folder) / "photo.jpg"
            draw(photo, count * 10**6)
            found = json.loads(in_own_process(__spec__.name, "--photo", str(photo)))
        pixels = found["pixels"]
        measured = {
            "mib": f"{found['bytes'] / 2**20:.0f}",
            "bytes_a_pixel": f"{found['bytes'] / pixels:.1f}",
            "estimated": f"{found['estimate'] / pixels:.1f}",
            "of_estimate": f"{found['bytes'] / found['estimate']:.2f}",
            "seconds": f"{found['seconds']:.1f}",
        }
        results.add({"megapixels": str(count)}, measured, lambda row: float(row["megapixels"]))


def draw(path: Path, pixels: int) -> None:
    """Write a photograph of noise, four wide to three high."""
    height = round((pixels * 3 / 4) ** 0.5)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).resize((pixels // height, height)).save(path)


def measure(photo: Path) -> dict[str, float]:
    """Label a photograph in this process; return what it took."""
    keep_freed_memory()
    torch.manual_seed(0)
    net = FCN("mobilenet_v2", 8, CLASSES).eval()
    label = Labeller(net, build(net, REFERENCE))
    label(np.zeros((64, 64, 3), np.uint8))
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted anew
    size = ImageReader().image_size(photo)
    memory = Memory(net)
    work = memory.work(size)
    base, begun = highest_memory(), time.perf_counter()
    jobs = plan([str(photo)], photo.parent / "out")
    make_folders(jobs)
    summary = label_files(label, jobs, Progress(1, "", ""), memory=memory)
    assert not summary.failed
    return {
        "pixels": size[0] * size[1],
        "bytes": (highest_memory() - base) * 2**20,
        "estimate": work.need,
        "seconds": time.perf_counter() - begun,
    }


if __name__ == "__main__":
    main()
