from __future__ import annotations

import numpy as np
import pytest

from fullconv.base.errors import FullconvError
from fullconv.base.stores import LocalStore
from fullconv.predict import manifest
from fullconv.predict.manifest import DONE, FAILED, NAME, PARTS, Manifest, known, row, table_of
from fullconv.predict.stream import Done

pytest.importorskip("pyarrow")
ONE = {"labels": ("road", "sky")}
TWO = {"sem": ("road", "sky"), "geo": ("near", "far")}


def done(name, heads=ONE):
    counts = {head: np.array([1, 3]) for head in heads}
    return row(f"/in/{name}.jpg", name, Done(counts, dict.fromkeys(heads, 0.5), ()), 0.1, heads)


def failed(name):
    return row(f"/in/{name}.jpg", name, "damaged", 0.0, ONE)


def read(folder):
    import pyarrow.parquet as pq

    return pq.read_table(folder / NAME).to_pylist()


def test_a_row_says_what_came_of_an_image(tmp_path):
    noted = Manifest(LocalStore(tmp_path), ONE, {})
    noted.add(table_of([failed("b"), done("a")], ONE))
    noted.close()
    first, second = read(tmp_path)
    assert first == {
        "path": "/in/a.jpg",
        "name": "a",
        "status": DONE,
        "reason": None,
        "pixels": 4,
        "shares": {"road": 0.25, "sky": 0.75},
        "unsure": 0.5,
        "seconds": 0.1,
    }
    assert (second["status"], second["reason"], second["shares"]) == (FAILED, "damaged", None)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_shares_of_several_heads(tmp_path):
    noted = Manifest(LocalStore(tmp_path), TWO, {})
    noted.add(table_of([done("a", TWO)], TWO))
    (found,) = noted.close().to_pylist()
    assert found["shares"]["geo"] == {"near": 0.25, "far": 0.75}
    assert found["unsure"] == {"sem": 0.5, "geo": 0.5}


def test_an_interrupted_run_is_gone_on_with(tmp_path):
    """The last row of a name counts; an earlier run's stay."""
    store, about = LocalStore(tmp_path), {"model": "1"}
    Manifest(store, ONE, about).add(table_of([], ONE))
    first = Manifest(store, ONE, about)
    first.add(table_of([done("a"), failed("b")], ONE))
    first.flush()
    assert len(list((tmp_path / PARTS).iterdir())) == 1
    earlier = known(store, store.names())
    assert (earlier.about, earlier.done()) == (about, {"a": "/in/a.jpg"})
    second = Manifest(store, ONE, about)
    second.add(table_of([done("b"), done("c")], ONE))
    second.close()
    third = Manifest(store, ONE, about)
    third.close()
    assert [(each["name"], each["status"]) for each in read(tmp_path)] == [
        (name, DONE) for name in "abc"
    ]


def test_parts_are_written_as_rows_come(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "PART_ROWS", 2)
    noted = Manifest(LocalStore(tmp_path), ONE, {})
    for name in "abcde":
        noted.add(table_of([done(name)], ONE))
    assert len(list((tmp_path / PARTS).iterdir())) == 2


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / NAME).write_text("no Parquet")
    with pytest.raises(FullconvError, match=rf"{NAME}: can't be read as a manifest"):
        known(LocalStore(tmp_path), {NAME})
    assert known(LocalStore(tmp_path), set()).done() == {}
