"""`fullconv predict --ray` on one node of all cores and on two of half of them, against plain.

    python -m benchmarks.speed.cluster [--photos CAMVID/images] [--model MODEL] [--small]

Each way labels the same photographs (copies of some) by the same engine, in a process of its own,
in turns; once few and once many. What both take is the start (of Ray, of the actors, of the
engine); what more photographs take more is the throughput, of which medians over the rounds are
told. Expected: one node does at least 0.9 times the images a second of plain `predict`. Two nodes
on one machine have its cores, not more: they show what the spreading costs.

Without --photos, streets are drawn; without --model, the net's scores are random.
Results: benchmarks/results/cluster.csv and cluster-machine.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from benchmarks.frame import Results, Row, arguments, in_own_process
from benchmarks.speed.predict import with_random_scores
from fullconv.demo.streets import draw_scene
from fullconv.net.fcn import FCN
from fullconv.predict.engines import is_installed
from fullconv.predict.ray import RaySettings, run_on_ray
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings

WAYS = ("plain", "Ray, 1 node", "Ray, 2 nodes")
FEW, MANY, ROUNDS = 64, 640, 3
DRAWN = 32
SUFFIXES = (".jpg", ".png")


def main() -> None:
    """Measure every way, print and write it."""
    parser = arguments(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--small", action="store_true", help="few photos, and nothing is written")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        way, engine, model, folder = asked.measure
        print(seconds(way, engine, Path(model), Path(folder)))
        return
    counts, rounds = ((4, 8), 1) if asked.small else ((FEW, MANY), asked.rounds)
    engine = "openvino" if is_installed("openvino") and not asked.small else "torch"
    with tempfile.TemporaryDirectory() as folder:
        photos = asked.photos or drawn(Path(folder) / "drawn", 4 if asked.small else DRAWN)
        model = asked.model or untrained(Path(folder) / "model", small=asked.small)
        folders = [copies(photos, Path(folder) / f"of{count}", count) for count in counts]
        found = measured(engine, model, folders, rounds)
    rows = [row(way, engine, counts, found) for way in WAYS]
    if asked.small:
        print(*rows, sep="\n")
    else:
        Results("cluster").replace(rows)


def drawn(folder: Path, count: int) -> Path:
    """Draw street scenes as large as CamVid's photos; return their folder."""
    folder.mkdir()
    for index in range(count):
        scene, _ = draw_scene(0, "test", index, (360, 480))
        Image.fromarray(scene).save(folder / f"{index}.jpg", quality=95)
    return folder


def untrained(folder: Path, *, small: bool) -> Path:
    """Save an FCN of 11 classes with random scores."""
    torch.manual_seed(0)
    net = FCN("squeezenet1_1", 16, 11) if small else FCN("mobilenet_v2", 8, 11)
    with_random_scores(net).eval().save_pretrained(folder)
    return folder


def copies(photos: Path, folder: Path, count: int) -> Path:
    """Copy photographs, some of them more than once, to `count` files."""
    folder.mkdir()
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    for at, path in enumerate(itertools.islice(itertools.cycle(paths), count)):
        shutil.copy(path, folder / f"{at:05}{path.suffix}")
    return folder


def measured(
    engine: str, model: Path, folders: Sequence[Path], rounds: int
) -> dict[str, list[list[float]]]:
    """Return the seconds of each way, by folder, in each round."""
    found: dict[str, list[list[float]]] = {way: [[] for _ in folders] for way in WAYS}
    for _ in range(rounds):
        for at, folder in enumerate(folders):
            for way in WAYS:
                words = ("--measure", way, engine, str(model), str(folder))
                told = in_own_process("benchmarks.speed.cluster", *words)
                found[way][at].append(float(told))
    return found


def seconds(way: str, engine: str, model: Path, photos: Path) -> float:
    """Return how long a way takes for the photographs of a folder, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        settings = PredictSettings(
            str(model), (str(photos),), Path(folder), engine=engine, precision="fp32", device="cpu"
        )
        if way == "Ray, 2 nodes":
            with two_nodes() as address:
                return timed(settings, RaySettings(address))
        return timed(settings, None if way == "plain" else RaySettings())


def timed(settings: PredictSettings, on: RaySettings | None) -> float:
    """Return how long a run takes; all must be done."""
    begun = time.perf_counter()
    prediction = run(settings) if on is None else run_on_ray(settings, on)
    spent = time.perf_counter() - begun
    assert not prediction.failures, prediction.failures
    return spent


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a cluster of two nodes, each with half of the cores, on this machine's loopback."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    from ray.cluster_utils import Cluster

    node: dict[str, int | str] = {
        "num_cpus": max(1, (os.cpu_count() or 2) // 2),
        "object_store_memory": 1 << 28,
        "include_dashboard": False,
        "node_ip_address": "127.0.0.1",
    }
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def row(way: str, engine: str, counts: Sequence[int], found: dict[str, list[list[float]]]) -> Row:
    """Return the row of a way."""

    def throughput(of: str) -> float:
        few, many = (median(times) for times in found[of])
        return (counts[1] - counts[0]) / (many - few)

    own = throughput(way)
    start = median(found[way][0]) - counts[0] / own
    return {
        "way": way,
        "engine": engine,
        "images a second": f"{own:.2f}",
        "times plain": f"{own / throughput('plain'):.2f}",
        "seconds to start": f"{start:.1f}",
        **{
            f"seconds for {count}": f"{median(times):.1f}"
            for count, times in zip(counts, found[way], strict=True)
        },
    }


if __name__ == "__main__":
    main()
