"""A job on a cluster of two nodes, of which one is killed midway; photographs and results on S3."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import pytest
from prediction import picture
from s3_server import s3_served

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Progress, Reporter
from fullconv.base.stores import RemoteStore
from fullconv.predict.ray import RaySettings, run_on_ray
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings

PACKAGES = ("ray", "pyarrow", "moto", "s3fs")  # not imported: Ray reads variables when it is
pytestmark = pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="they aren't installed")

COUNT, SIZES = 24, ((60, 90), (90, 60), (33, 47))
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300}


@contextmanager
def two_nodes() -> Iterator[tuple[str, object]]:
    """Start a cluster of two nodes of a CPU each; yield its address, and what kills the second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        node["node_ip_address"] = "127.0.0.1"
        cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": QUICK})
        try:
            second = cluster.add_node(**node)
            cluster.wait_for_nodes()
            assert cluster.address.startswith("127.0.0.1:")
            yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
        finally:
            cluster.shutdown()


class Watching(Reporter):
    """Does something once the first images are done, and remembers what was told."""

    def __init__(self, midway=None):
        super().__init__()
        # of what is frozen
        vars(self).update(midway=[midway] if midway else [], told=[], starts=[])

    @contextmanager
    def bar(self, total, what, *, unit="images", done=0):
        self.starts.append(total - done)
        yield _Bar(self, total, what, unit, done)


class _Bar(Progress):
    def __init__(self, watching, *words):
        super().__init__(*words)
        self._watching = watching

    def say(self, line):
        self._watching.told.append(line)

    def _show(self):
        while self._watching.midway:
            assert self.done < self.total / 2
            self._watching.midway.pop()()


def stamps(url):
    """Return when each of the results was written, and what it holds."""
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    found = files.find(url, detail=True)
    return {path.removeprefix(url + "/"): each["LastModified"] for path, each in found.items()}


def manifest(url):
    import io

    import pyarrow.parquet as pq

    rows = pq.read_table(io.BytesIO(RemoteStore(url).read("manifest.parquet"))).to_pylist()
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


@pytest.mark.slow
def test_a_job_outlives_a_node_and_is_gone_on_with(tmp_path, random_model):
    photos, out = tmp_path / "photos", "s3://results/run"
    for at in range(COUNT):
        picture(photos / f"{at % 3}/{at}.png", SIZES[at % 3], at)
    damaged = (photos / "0/0.png").read_bytes()[:900]
    (photos / "damaged.png").write_bytes(damaged)
    plain = PredictSettings(random_model, (str(photos),), tmp_path / "plain", engine="torch",
                            precision="fp32")  # fmt: skip
    run(plain)
    expected = {
        path.relative_to(plain.out).as_posix(): path.read_bytes()
        for path in plain.out.rglob("*.*")
        if path.suffix in (".png", ".jpg")
    }
    assert len(expected) == 2 * COUNT
    settings = PredictSettings(random_model, ("s3://photos",), tmp_path / "unused", engine="torch",
                               precision="fp32")  # fmt: skip
    with s3_served("photos", "results"), two_nodes() as (address, kill):
        store = RemoteStore("s3://photos")
        for path in photos.rglob("*.png"):
            store.write(path.relative_to(photos).as_posix(), path.read_bytes())
        on = RaySettings(address, elsewhere=out, patience=300)
        watching = Watching(midway=kill)
        first = run_on_ray(settings, on, watching)
        results = RemoteStore(out)
        assert {name: results.read(name) for name in expected} == expected
        assert results.names() == {*expected, "manifest.parquet"}
        assert (first.done, watching.starts) == (COUNT, [COUNT + 1])
        (failure,) = first.failures
        assert failure.reason.startswith("s3://photos/damaged.png: is damaged or truncated")
        assert watching.told == [failure.reason]
        rows = manifest(out)
        assert {name for name, row in rows.items() if row["status"] == "done"} == {
            f"{at % 3}/{at}" for at in range(COUNT)
        }
        assert rows["damaged"]["reason"] == failure.reason
        # Again: what failed is mended, and what was lost is made; nothing else is touched.
        store.write("damaged.png", store.read("1/1.png"))
        results.remove("2/5.png")
        before = stamps("results/run")
        again = Watching()
        second = run_on_ray(settings, on, again)
        assert (second.done, second.failures, again.starts) == (COUNT + 1, (), [2])
        after = stamps("results/run")
        redone = {"2/5.png", "overlay/2/5.jpg", "damaged.png", "overlay/damaged.jpg"}
        assert {name for name in after if after[name] != before.get(name)} <= {
            *redone,
            "manifest.parquet",
        }
        assert results.read("2/5.png") == expected["2/5.png"]
        assert results.read("damaged.png") == expected["1/1.png"]
        assert {row["status"] for row in manifest(out).values()} == {"done"}
        # Nothing is missing: no cluster is asked for. Another model's results are not mixed in.
        third = run_on_ray(settings, RaySettings("127.0.0.1:1", elsewhere=out), Watching())
        assert third.done == COUNT + 1
        assert third.summary.pixels["labels"].sum() == sum(
            row["pixels"] for row in manifest(out).values()
        )
        with pytest.raises(FullconvError, match="were made with another tta; choose another"):
            run_on_ray(replace(settings, tta=True), on, Watching())
