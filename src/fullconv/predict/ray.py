"""Prediction by a pool of actors on many machines, through Ray Data: what is missing gets done."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fullconv.base.errors import FullconvError, WorkFailedError, few_named
from fullconv.base.pipeline import watched
from fullconv.base.progress import SILENT, Progress, Reporter
from fullconv.base.stores import Store, store_at
from fullconv.export.opened import is_export
from fullconv.export.verified import EngineConfig, Verification
from fullconv.net.described import Pixels
from fullconv.net.fcn import FCN
from fullconv.net.folder import CONFIG, METRICS, WEIGHTS
from fullconv.net.hub import find_folder
from fullconv.predict.actor import Actor, Orders
from fullconv.predict.batches import batches
from fullconv.predict.choice import Asked, choose
from fullconv.predict.cluster import HERE, connected, reason_of
from fullconv.predict.engines import check
from fullconv.predict.jobs import Job, make_folders, plan
from fullconv.predict.manifest import DONE, NAME, Heads, Known, Manifest, known, row, table_of
from fullconv.predict.memory import Memory
from fullconv.predict.nets import folder_of, loaded
from fullconv.predict.outcome import Places, Prediction, several
from fullconv.predict.pool import READING, Pool, pool_for
from fullconv.predict.reading import read_files
from fullconv.predict.room import Tiling
from fullconv.predict.settings import PredictSettings
from fullconv.predict.stream import Failure, Summary, first_images, printable
from fullconv.predict.video import is_film

if TYPE_CHECKING:
    import pyarrow as pa

CALLS = 2  # batches that an actor has in hand: while one ends, the next one keeps its cores busy


@dataclass(frozen=True)
class RaySettings:
    """Where to label.

    Attributes:
        address: of a Ray cluster that this machine is part of, "auto" for the one that runs on it,
            or `HERE`.
        actors: how many label at once; None: one a machine, or a GPU.
        elsewhere: address of the folder of the results; None: a folder of this machine that all
            machines of the cluster know by the same name.
        patience: seconds without an image done after which the job is given up.
    """

    address: str = HERE
    actors: int | None = None
    elsewhere: str | None = None
    patience: float = 600.0


def run_on_ray(
    settings: PredictSettings, on: RaySettings, reporter: Reporter = SILENT
) -> Prediction:
    """Label images on all machines of a cluster, as `run` does on one, to the same files.

    manifest.parquet beside the results says what came of each image. What is done already, by the
    same model in the same way, is not done again; what failed is tried again.

    Args:
        settings: what to do; `out` does not matter where the results go elsewhere.
        on: where.
        reporter: is told how the work goes.

    Raises:
        FullconvError: as `run`; or Ray can't do that, or is missing, or the results there are of
            another model.
        WorkFailedError: the cluster failed, or nothing came of it for too long. What is done stays.
    """
    _require(settings)
    net = loaded(settings.model, settings.engine, settings.device, trust=settings.trust)
    heads = {name: tuple(head.classes) for name, head in net.heads.items()}
    place = on.elsewhere or os.path.abspath(settings.out)  # noqa: PTH100 (links stay)
    folders = several(net)
    jobs = _jobs(settings, on, folders, reporter)
    store, files = store_at(place), _model_files(settings.model)
    if on.elsewhere is not None:
        _require_writable(store)
    names = store.names()
    earlier, about = known(store, names), _about(settings, files)
    _require_same(earlier.about, about, place)
    todo = _missing(jobs, earlier, names)
    config, found, samples = _engine(net, settings, earlier, todo)
    manifest = Manifest(store, heads, about | {"engine": asdict(config)})
    orders = _orders(settings, files, (config, samples), net, place)
    work = _Work(todo, orders, on, heads)
    with reporter.bar(len(jobs), "predict", done=len(jobs) - len(todo)) as bar:
        _do(work, manifest, bar)
    whole = manifest.close()
    return Prediction(
        _summary(whole, jobs, heads),
        dict(net.heads.items()),
        config,
        found,
        _places(place, folders, scores=settings.scores),
    )


def _do(work: _Work, manifest: Manifest, bar: Progress) -> None:
    """Have images done; what came of them is noted also where the work ends too soon."""
    try:
        with closing(work.tables()) as tables:
            for table in tables:
                manifest.add(table)
                _tell(table, bar)
    finally:
        manifest.flush()


def _require(settings: PredictSettings) -> None:
    """Refuse what is for one machine only; and see that Ray is there."""
    if isinstance(settings.model, FCN) or is_export(settings.model):
        raise FullconvError("--ray labels by model folders; give one, not a net or an export")
    refused = {
        "films": any(map(is_film, settings.inputs)),
        f"--format {settings.format}": settings.format != "png",
        "--input": bool(settings.further),
    }
    for what in (name for name, given in refused.items() if given):
        raise FullconvError(f"{what}: not with --ray; leave out one of them")
    check(settings.engine, settings.precision, settings.device)
    missing = [name for name in ("ray", "pyarrow") if find_spec(name) is None]
    if missing:
        raise FullconvError(f"--ray needs {' and '.join(missing)}: pip install 'fullconv[ray]'")


def _jobs(
    settings: PredictSettings, on: RaySettings, heads: tuple[str, ...], reporter: Reporter
) -> tuple[Job, ...]:
    """Plan a job for each image; its folders are made where they are of this machine."""
    jobs = plan(
        settings.inputs,
        settings.out,
        scores=settings.scores,
        heads=heads,
        elsewhere=on.elsewhere,
        reporter=reporter,
    )
    if on.elsewhere is None:
        make_folders(jobs)
    return jobs


def _model_files(model: str | Path | FCN) -> dict[str, bytes]:
    """Return what a model folder holds of its net, by name."""
    folder = find_folder(str(model))
    paths = (folder / name for name in (CONFIG, METRICS, WEIGHTS))
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _require_writable(store: Store) -> None:
    """Raise FullconvError where no file can be written."""
    store.write(".fullconv", b"")
    store.remove(".fullconv")


def _about(settings: PredictSettings, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what labels depend on, besides the engine."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update(files.get(name, b""))
    tiling = "" if settings.tiling == Tiling() else repr(settings.tiling)
    return {"model": digest.hexdigest(), "tta": settings.tta, "tiling": tiling}


def _require_same(earlier: Mapping[str, Any], about: Mapping[str, Any], place: str) -> None:
    """Refuse to put results beside those of another model."""
    unlike = [key for key, value in about.items() if earlier and earlier.get(key) != value]
    if unlike:
        raise FullconvError(
            f"{place}/{NAME}: the results there were made with another {' and '.join(unlike)}; "
            "choose another --out, or remove them"
        )


def _missing(jobs: Sequence[Job], earlier: Known, names: set[str]) -> list[Job]:
    """Return the images that are not done.

    Raises:
        FullconvError: results of another image would be replaced.
    """
    done, missing = earlier.done(), []
    for job in jobs:
        whole = all(path.relative_to(job.out).as_posix() in names for path in job.outputs)
        if not whole or job.name not in done:
            missing.append(job)
        elif done[job.name] != _path(job):
            raise FullconvError(
                f"{_path(job)}: its results would take the place of those of {done[job.name]}; "
                "choose another --out, or remove them"
            )
    return missing


def _engine(
    net: FCN, settings: PredictSettings, earlier: Known, todo: Sequence[Job]
) -> tuple[EngineConfig, Verification | None, Sequence[Pixels]]:
    """Return the engine for all actors, what it is worth, and what it is calibrated on.

    It is that of an earlier run of the job; else chosen here, once: machines may differ.

    Raises:
        FullconvError: another one is asked for than the results there were made with.
    """
    reader = net.preprocessing.reader(settings.reader)
    memory = Memory(net, settings.memory, tta=settings.tta, tiling=settings.tiling)

    def first(count: int) -> list[Pixels]:
        return first_images(todo, net.inputs, count, reader, memory)

    asked = Asked(
        len(todo),
        settings.engine,
        settings.precision,
        folder_of(settings.model),
        compiled=False,  # each actor would compile it anew
    )
    if "engine" in earlier.about:
        config, found = EngineConfig(**earlier.about["engine"]), None
        pairs = (settings.engine, config.engine), (settings.precision, config.precision)
        if any(given not in ("auto", own) for given, own in pairs):
            raise FullconvError(f"the results there were made by {config}; choose another --out")
    else:
        choice = choose(net, asked, first)
        config, found = choice.config, choice.verification
    return config, found, first(asked.samples) if config.precision == "int8" and todo else ()


def _orders(
    settings: PredictSettings,
    files: Mapping[str, bytes],
    engine: tuple[EngineConfig, Sequence[Pixels]],
    net: FCN,
    place: str,
) -> Orders:
    return Orders(
        model=files,
        trust=settings.trust,
        device=net.device.type,
        config=engine[0],
        samples=engine[1],
        tta=settings.tta,
        scores=settings.scores,
        heads=several(net),
        reader=settings.reader,
        memory=settings.memory,
        tiling=settings.tiling,
        out=place,
        a_node=1,
        version=version("fullconv"),
    )


class _Work:
    """The images that are missing, on their way through a cluster."""

    def __init__(self, todo: Sequence[Job], orders: Orders, on: RaySettings, heads: Heads) -> None:
        self._todo, self._orders, self._on, self._heads = todo, orders, on, heads

    def tables(self) -> Generator[pa.Table]:
        """Yield rows of the manifest, as images are done.

        Raises:
            FullconvError: the cluster has no room for the actors.
            WorkFailedError: it fails, or nothing comes for too long.
        """
        if not self._todo:
            return
        left = {job.name for job in self._todo}
        unnamed = [job for job in self._todo if printable(_path(job)) != _path(job)]
        if unnamed:
            left.difference_update(job.name for job in unnamed)
            yield table_of([_unnamed(job, self._heads) for job in unnamed], self._heads)
        able = [job for job in self._todo if job.name in left]
        with connected(self._on.address) as nodes:
            pool = pool_for(nodes, self._on.actors, gpus=self._orders.device == "cuda")
            try:
                for table in watched(self._from_pool(able, pool), self._on.patience):
                    left.difference_update(table.column("name").to_pylist())
                    yield table
            except TimeoutError:
                raise WorkFailedError(self._stalled(left)) from None
            except FullconvError:
                raise
            except Exception as error:  # of Ray, whose errors have no one class
                raise WorkFailedError(f"the Ray job failed: {reason_of(error)}") from error
        if left:
            raise WorkFailedError(f"of {len(left)} images nothing came; start the job again")

    def _from_pool(self, able: Sequence[Job], pool: Pool) -> Iterator[pa.Table]:
        """Have files read by tasks and labelled by actors."""
        import pyarrow as pa
        import ray
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        columns = pa.schema({"name": pa.string(), "path": pa.string()})
        tables = [
            pa.Table.from_pylist([{"name": job.name, "path": _path(job)} for job in batch], columns)
            for batch in batches(able, pool.actors)
        ]
        orders = ray.put(replace(self._orders, a_node=pool.a_node))
        whole = {"batch_size": None, "batch_format": "pyarrow"}
        dataset = (
            ray.data.from_arrow(tables)
            .map_batches(
                read_files, compute=TaskPoolStrategy(size=pool.readers), num_cpus=READING, **whole
            )
            .map_batches(
                Actor,
                fn_constructor_args=([orders],),  # in a list, else Ray takes it out itself
                compute=ActorPoolStrategy(size=pool.actors, enable_true_multi_threading=True),
                max_concurrency=CALLS,
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                **whole,
            )
        )
        yield from dataset.iter_batches(**whole)

    def _stalled(self, left: set[str]) -> str:
        """Say that nothing comes any more, and of what."""
        import ray

        free = ray.available_resources().get("CPU", 0.0)
        alive = [node for node in ray.nodes() if node["Alive"]]
        return (
            f"no image was done for {self._on.patience:g} s, and {len(left)} are left, such as "
            f"{few_named(sorted(left))}; {len(alive)} nodes of the Ray cluster are alive, "
            f"{free:g} of their CPUs free: 'ray status' tells more. Started again, the job does "
            "what is missing"
        )


def _path(job: Job) -> str:
    """Return an image's address, or its whole path."""
    if isinstance(job.source, Path):
        return os.path.abspath(job.source)  # noqa: PTH100 (links stay)
    return str(job.source)


def _unnamed(job: Job, heads: Heads) -> dict[str, Any]:
    """Return the row of an image whose name is no text, which Parquet can't hold."""
    path = printable(_path(job))
    return row(path, printable(job.name), f"{path}: its name is no text; rename it", 0.0, heads)


def _tell(table: pa.Table, bar: Progress) -> None:
    """Show that images are done, and say which failed."""
    for reason in table.column("reason").to_pylist():
        if reason is not None:
            bar.say(reason)
        bar.advance()


def _summary(whole: pa.Table, jobs: Sequence[Job], heads: Heads) -> Summary:
    """Sum up what a manifest says of the images of a job."""
    by_name = {printable(job.name): job for job in jobs}
    pixels = {name: np.zeros(len(classes), np.int64) for name, classes in heads.items()}
    unsure: dict[str, list[tuple[str, float]]] = {}
    failures = []
    for each in (found for found in whole.to_pylist() if found["name"] in by_name):
        if each["status"] != DONE:
            failures.append(Failure(by_name[each["name"]].source, each["reason"]))
            continue
        for head in heads:
            several = len(heads) > 1
            shares = each["shares"][head] if several else each["shares"]
            pixels[head] += np.rint(np.array([*shares.values()]) * each["pixels"]).astype(np.int64)
            share = each["unsure"][head] if several else each["unsure"]
            unsure.setdefault(head, []).append((each["name"], share))
    return Summary(len(jobs), len(failures), pixels, unsure, tuple(failures))


def _places(place: str, heads: tuple[str, ...], *, scores: bool) -> Places:
    below = f"{place}/{{{','.join(heads)}}}" if heads else place
    return Places(below, f"{below}/overlay", f"{place}/{NAME}", f"{below}/scores" * scores or None)
