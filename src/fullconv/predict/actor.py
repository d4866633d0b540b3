"""One of the actors that label a job's images: a net, and the code path of plain `predict`."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fullconv.base.errors import FullconvError, WorkFailedError, one_line
from fullconv.base.images import Encoded, ImageReader
from fullconv.base.runtime import keep_freed_memory, pick_device
from fullconv.base.stores import RemoteStore, store_at
from fullconv.export.verified import EngineConfig
from fullconv.net.described import Pixels
from fullconv.net.fcn import load
from fullconv.predict.choice import AT_ONCE
from fullconv.predict.engines import build
from fullconv.predict.jobs import Job
from fullconv.predict.labeller import Labeller
from fullconv.predict.labelling import label_all
from fullconv.predict.manifest import row, table_of
from fullconv.predict.memory import Memory
from fullconv.predict.room import Tiling, granted
from fullconv.predict.scenes import FileScene
from fullconv.predict.seams import Seams
from fullconv.predict.stream import Done, attempt, labelling

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Orders:
    """What every actor of a job is told.

    Attributes:
        model: the files of the model folder, by name.
        trust: whether the model may cost what it may.
        device: "cpu" or "cuda".
        config: the engine, which was chosen for all.
        samples: images that it is calibrated on, if it needs that.
        tta: whether to look at each image's mirror, too.
        scores: whether to write probabilities.
        heads: names of the net's heads if it has several.
        reader: reads the images.
        memory: bytes for the images of an actor; None: half of what is free, by `a_node`.
        tiling: what is asked of tiles.
        out: folder of the results: a path that all machines know, or an address.
        a_node: how many actors share a machine.
        version: of fullconv, where the job was started.
    """

    model: Mapping[str, bytes]
    trust: bool
    device: str
    config: EngineConfig
    samples: Sequence[Pixels]
    tta: bool
    scores: bool
    heads: tuple[str, ...]
    reader: ImageReader
    memory: int | None
    tiling: Tiling
    out: str
    a_node: int
    version: str


class Actor:
    """Labels batches of images, and writes their results."""

    def __init__(self, orders: Any, cpus: Callable[[], float] | None = None) -> None:
        """Load the net, and get the engine ready.

        Args:
            orders: `Orders`, or a list of what Ray calls them.
            cpus: tells how many CPUs the machine has for the job; None: Ray does.
        """
        self._orders: Orders = orders if isinstance(orders, Orders) else _by_ray(orders)
        own = self._orders
        _require_version(own.version)
        keep_freed_memory()
        torch.set_num_threads(max(1, int((cpus or _cpus_of_node)()) // own.a_node))
        with tempfile.TemporaryDirectory() as folder:
            for name, content in own.model.items():
                (Path(folder) / name).write_bytes(content)
            net = load(folder, trust=own.trust).to(pick_device(own.device))
        engine = build(net, own.config, own.samples, AT_ONCE)
        self._label = Labeller(net, engine, tta=own.tta)
        room = own.memory or (granted(None) or 0) // own.a_node or None
        memory = Memory(net, room, tta=own.tta, tiling=own.tiling)
        seams = Seams(self._label, memory)
        self._do = labelling(self._label, memory, own.reader, seams)
        self._heads = {name: head.classes for name, head in net.heads.items()}
        self._store = store_at(own.out)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Label the images of a batch; those of like sizes side by side.

        Args:
            batch: name, path, content and reason (see `read_files`).

        Returns:
            Rows of the manifest.
        """
        rows, jobs = [], list[Job]()
        with tempfile.TemporaryDirectory() as scratch:
            for each in batch.to_pylist():
                path, name, content = each["path"], each["name"], each["content"]
                if content is None:
                    rows.append(row(path, name, each["reason"], 0.0, self._heads))
                else:
                    image = Encoded(path, io.BytesIO(content))
                    jobs.append(self._job(image, name, Path(scratch)))
            jobs.sort(key=self._size)
            for job, result in zip(
                jobs, label_all(self._labelled, jobs, self._label.engine), strict=True
            ):
                rows.append(row(str(job.source), job.name, *result, self._heads))
        return table_of(rows, self._heads)

    def _job(self, image: Encoded, name: str, scratch: Path) -> Job:
        """Return an image's job, whose results go where they stay, or are sent on from."""
        out = Path(self._orders.out) if self._is_here else scratch
        return Job(image, name, out, self._orders.scores, self._orders.heads)

    @property
    def _is_here(self) -> bool:
        return not isinstance(self._store, RemoteStore)

    def _size(self, job: Job) -> tuple[int, int]:
        """Return height and width of an image; nothing of one that can't be read."""
        reader = self._label.net.preprocessing.reader(self._orders.reader)
        try:
            return FileScene(job, self._label.net.inputs, reader).size
        except FullconvError:  # which will be told in its turn
            return 0, 0

    def _labelled(self, job: Job) -> tuple[Done | str, float]:
        """Return what comes of an image, or why nothing does, and the seconds that it took."""
        begun = time.perf_counter()
        try:
            result = attempt(self._stored, job)
        except Exception as error:  # nothing that one image has may stop the others
            result = f"{job.source}: {type(error).__name__}: {one_line(error)}"
        return result, time.perf_counter() - begun

    def _stored(self, job: Job) -> Done:
        """Label an image, and send its results where they belong; the label image comes last."""
        done = self._do(job)
        if not self._is_here:
            for path in reversed(job.outputs):
                self._store.write(path.relative_to(job.out).as_posix(), path.read_bytes())
                path.unlink()
        return done


def _by_ray(orders: Any) -> Orders:
    import ray

    found: Orders = ray.get(orders[0])
    return found


def _cpus_of_node() -> float:
    """Return how many CPUs Ray may use of this machine."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == own:
            return float(node["Resources"].get("CPU", 1))
    return 1.0


def _require_version(asked: str) -> None:
    """Raise WorkFailedError where this machine has another fullconv than the job's."""
    own = version("fullconv")
    if own != asked:
        raise WorkFailedError(
            f"a machine of the Ray cluster has fullconv {own}, and the job is of {asked}; install "
            "one version on all"
        )
