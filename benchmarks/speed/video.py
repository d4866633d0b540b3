"""A film through `fullconv predict`, against the same frames as JPEG files.

    python -m benchmarks.speed.video [--frames 96] [--rounds 5] [--height 360] [--width 480]

The film is H.264, silent, of streets that are drawn; its frames' files are JPEGs of quality 95.
Both ways write the label images; of the film an overlay film, of the files overlay JPEGs.

Expected: at least 0.9 times the files' frames a second.
Results: benchmarks/results/video.csv and video-machine.json.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks.frame import Results, Row, arguments, in_turns
from benchmarks.speed.predict import untrained
from fullconv.base.progress import Progress
from fullconv.demo.streets import draw_scene
from fullconv.export.verified import EngineConfig
from fullconv.net.fcn import FCN
from fullconv.predict.choice import AT_ONCE
from fullconv.predict.engines import build, configs
from fullconv.predict.jobs import make_folders, plan
from fullconv.predict.labeller import Labeller
from fullconv.predict.memory import Memory
from fullconv.predict.stream import label_files
from fullconv.predict.video import label_films, plan_films


def main() -> None:
    """Measure both, print and write them."""
    parser = arguments(__doc__)
    for name, default in (("frames", 96), ("rounds", 5), ("height", 360), ("width", 480)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    net, size = untrained(), (asked.height, asked.width)
    options = [way for way in configs("auto", "auto", torch.device("cpu")) if not way.compiled]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        film, photos = drawn(Path(folder), asked.frames, size)
        rows = [
            row
            for way in options
            for row in compared(net, way, film, photos, (asked.frames, asked.rounds))
        ]
    Results("video").replace(rows)


def drawn(folder: Path, frames: int, size: tuple[int, int]) -> tuple[Path, Path]:
    """Draw streets; return them as a film and as a folder of JPEGs."""
    import av

    film, photos = folder / "street.mp4", folder / "photos"
    photos.mkdir()
    with av.open(str(film), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            scene, _ = draw_scene(0, "test", index // 8, size)
            Image.fromarray(scene).save(photos / f"{index:06d}.jpg", quality=95)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(scene, format="rgb24")))
        file.mux(stream.encode(None))
    return film, photos


def compared(
    net: FCN, way: EngineConfig, film: Path, photos: Path, counts: tuple[int, int]
) -> list[Row]:
    """Measure both by an engine; `counts` are the frames and the rounds."""
    frames, rounds = counts
    jobs = plan([str(photos)], film.parent / "files")
    films = plan_films(
        [str(film)], film.parent / "film", scores=False, heads=(), net_inputs=net.inputs
    )
    make_folders(jobs)
    films.make_folders()
    label = Labeller(net, build(net, way, films.first(1), AT_ONCE))
    bar = Progress(frames, "", "")
    runs = {
        "files": partial(label_files, label, jobs, bar),
        "film": partial(label_films, label, films, bar, memory=Memory(net)),
    }
    spent = in_turns(runs, frames, rounds)
    return [
        {
            "engine": str(way),
            "from": name,
            "ms_a_frame": f"{ms:.2f}",
            "speed_of_files": f"{spent['files'] / ms:.2f}",
        }
        for name, ms in spent.items()
    ]


if __name__ == "__main__":
    main()
