"""How true drafted polygons are to the labels that they were drafted from.

    python -m benchmarks.accuracy.drafts --model MODEL --images FOLDER [--count 40]

labels `--count` photographs of FOLDER, evenly chosen, drafts the labels in the form of each
annotation tool, converts the drafts back into masks, and compares these with the labels: mean IU
over all pixels, points of polygons an image, and bytes. MODEL is a model folder. Specks of fewer
than 16 pixels (`predict --min-area`) are gone from the drafts and count as errors.

Expected: a mean IU of at least 0.97 at the tolerance that is the default.
Results: benchmarks/results/drafts.csv and drafts-machine.json.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.frame import Results, Row, arguments
from fullconv.base.files import files_below
from fullconv.base.images import IMAGE_SUFFIXES, ImageReader
from fullconv.data.folder import evenly_chosen
from fullconv.datasets.convert import ConvertSettings, convert
from fullconv.datasets.drafts import WRITERS, DraftSettings, Tool, regions
from fullconv.datasets.formats.classes import IGNORED, ClassSettings
from fullconv.datasets.formats.draft import Draft
from fullconv.measure.metrics import ConfusionMatrix
from fullconv.net.described import Labels
from fullconv.net.fcn import load

TOLERANCES = (0.5, 0.75, 1.0)  # pixels
OWN_STORAGE = ("cvat", "label-studio")  # whose drafts name images of the tool's own


def main() -> None:
    """Draft, convert back, compare, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=40, help="how many of them")
    given = parser.parse_args()
    net = load(given.model)
    photos = sorted(p for p in files_below(given.images) if p.suffix.lower() in IMAGE_SUFFIXES)
    chosen = [photos[at] for at in evenly_chosen(len(photos), given.count)]
    labels = {path: np.asarray(net.predict(path)) for path in chosen}
    rows = []
    for tolerance in TOLERANCES:
        drafts = [drafted(path, own, net.classes, tolerance) for path, own in labels.items()]
        points = sum(
            len(ring) for each in drafts for r in each.regions for ring in (r.rim, *r.holes)
        )
        for tool, _ in WRITERS:
            found = read_back(drafts, tool, net.classes, labels)
            about = {"tool": tool, "tolerance": f"{tolerance:g}", "images": str(len(drafts))}
            rows.append({**about, **found, "points_an_image": f"{points / len(drafts):.0f}"})
    Results("drafts").replace(sorted(rows, key=lambda row: row["tool"]))


def drafted(path: Path, labels: Labels, classes: Sequence[str], tolerance: float) -> Draft:
    """Draft a photograph's labels."""
    size = (labels.shape[0], labels.shape[1])
    own = regions(labels, classes, DraftSettings("labelme", tolerance=tolerance))
    return Draft(path.stem, path, size, own)


def read_back(
    drafts: Sequence[Draft], tool: Tool, classes: Sequence[str], labels: Mapping[Path, Labels]
) -> Row:
    """Write drafts for a tool, convert its files into masks, and compare these with the labels."""
    with tempfile.TemporaryDirectory() as folder:
        written, data = Path(folder) / "drafts", Path(folder) / "data"
        written.mkdir()
        dict(WRITERS)[tool](drafts, classes, written)
        files = [path for path in files_below(written) if path.suffix not in IMAGE_SUFFIXES]
        size = sum(path.stat().st_size for path in files)
        if tool in OWN_STORAGE:
            for path in labels:
                shutil.copy(path, written)
        convert(
            written,
            data,
            ConvertSettings(ClassSettings(classes=tuple(classes), background="ignore")),
        )
        masks = {path.stem: path for path in files_below(data / "masks")}
        gap = len(classes)  # counted as a class of its own, which is in no mean
        counts = ConfusionMatrix(gap + 1, [gap])
        for path, own in labels.items():
            found = ImageReader().mask(masks[path.stem])
            counts.update(own, np.where(found == IGNORED, gap, found))
    metrics = counts.metrics()
    return {
        "mean_iu": f"{metrics.mean_iu:.4f}",
        "pixel_accuracy": f"{metrics.pixel_accuracy:.5f}",
        "pixels_in_gaps": str(metrics.confusion[:, gap].sum()),
        "kb_an_image": f"{size / len(drafts) / 1e3:.1f}",
    }


if __name__ == "__main__":
    main()
