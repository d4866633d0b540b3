"""An actor without Ray: what it writes is what plain `predict` writes."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

import pytest
from prediction import picture

from fullconv.base.errors import WorkFailedError
from fullconv.base.images import ImageReader
from fullconv.export.verified import REFERENCE
from fullconv.predict.actor import Actor, Orders
from fullconv.predict.reading import read_files
from fullconv.predict.room import Tiling
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings

pa = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.usefixtures("one_thread")


def orders(model, out, **changes):
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    plain = Orders(
        model=files,
        trust=False,
        device="cpu",
        config=REFERENCE,
        samples=(),
        tta=False,
        scores=True,
        heads=(),
        reader=ImageReader(),
        memory=None,
        tiling=Tiling(),
        out=str(out),
        a_node=1,
        version=version("fullconv"),
    )
    return replace(plain, **changes)


def batch(*paths):
    columns = {"name": [path.stem for path in paths], "path": [str(path) for path in paths]}
    return read_files(pa.table(columns))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_actor_writes_what_predict_does(tmp_path, random_model, scheme):
    for at, size in enumerate([(70, 50), (33, 41), (70, 50)]):
        picture(tmp_path / f"in/{at}.png", size, at)
    (tmp_path / "in/bad.png").write_bytes((tmp_path / "in/0.png").read_bytes()[:500])
    actor = Actor(orders(random_model, f"{scheme}{tmp_path}/actor"), lambda: 1)
    files = [*sorted((tmp_path / "in").iterdir()), tmp_path / "none.png"]
    rows = {row["name"]: row for row in actor(batch(*files)).to_pylist()}
    settings = PredictSettings(
        random_model, (str(tmp_path / "in"),), tmp_path / "plain", engine="torch",
        precision="fp32", scores=True,
    )  # fmt: skip
    plain = run(settings)
    written = [path for path in (tmp_path / "plain").rglob("*.*") if path.suffix != ".csv"]
    assert len(written) == 9
    for path in written:
        own = tmp_path / "actor" / path.relative_to(tmp_path / "plain")
        assert own.read_bytes() == path.read_bytes()
    assert sum(path.is_file() for path in (tmp_path / "actor").rglob("*")) == 9
    assert {name: row["status"] for name, row in rows.items()} == {
        "0": "done", "1": "done", "2": "done", "bad": "failed", "none": "failed"
    }  # fmt: skip
    assert rows["bad"]["reason"].startswith(f"{tmp_path}/in/bad.png: is damaged or truncated")
    assert rows["none"]["reason"] == f"{tmp_path}/none.png: no such file"
    labelled = [row for row in rows.values() if row["shares"]]
    counts = sum(row["pixels"] * row["shares"]["[blue]"] for row in labelled)
    assert counts == pytest.approx(plain.summary.pixels[next(iter(plain.heads))][2])
    told = dict(plain.summary.unsure[next(iter(plain.heads))])
    assert {name: row["unsure"] for name, row in rows.items() if row in labelled} == told


def test_what_is_unexpected_of_an_image_stops_no_other(tmp_path, random_model, monkeypatch):
    for name in "ab":
        picture(tmp_path / f"{name}.png", (40, 40))
    actor = Actor(orders(random_model, tmp_path / "out", scores=False), lambda: 1)
    do = actor._do

    def failing(job):
        if job.name == "a":
            raise ZeroDivisionError("by zero")
        return do(job)

    monkeypatch.setattr(actor, "_do", failing)
    rows = actor(batch(tmp_path / "a.png", tmp_path / "b.png")).to_pylist()
    assert [(row["name"], row["status"], row["reason"]) for row in rows] == [
        ("a", "failed", f"{tmp_path}/a.png: ZeroDivisionError: by zero"),
        ("b", "done", None),
    ]


def test_machines_have_one_version(tmp_path, random_model):
    with pytest.raises(WorkFailedError, match=r"and the job is of 0\.0\.0; install one version"):
        Actor(orders(random_model, tmp_path, version="0.0.0"), lambda: 1)
