"""Verification: agreement and speed, by a clock of our own; and where it is noted."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from colour_net import ColourNet

from fullconv.base.files import cache_folder
from fullconv.export.verification import MOST_NOTES, SECONDS, Notes, verify
from fullconv.export.verified import REFERENCE, EngineConfig, Verification

FOUND = Verification(config=EngineConfig("openvino"), build=1.5, seconds=0.25, agreement=0.75)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def notes(net=None, shape=(100, 100, 3), kind="uint8", folder=None):
    return Notes(net or ColourNet(), shape, kind, folder)


# What is measured


def labels(*rows):
    return {"labels": np.array(rows, np.uint8)}


def test_speed_and_agreement():
    """Two seconds to get ready, the first image included; then half a second an image."""
    now = [0.0]
    samples = [np.zeros((1, 4, 3), np.uint8)] * 3

    def start():
        now[0] += 1.5

        def label_all(images):
            for _ in images:
                now[0] += 0.5
                yield labels([0, 1, 2, 2])

        return label_all

    expected = [labels([0, 1, 2, 2]), labels([0, 1, 2, 0]), labels([1, 1, 2, 0])]
    found = verify(EngineConfig("openvino"), start, samples, lambda: expected, lambda: now[0])
    assert (found.build, found.seconds, found.failure) == (2.0, 0.5, None)
    assert found.agreement == pytest.approx(9 / 12)
    assert SECONDS < 0.5  # a round was not needed


def test_one_sample_is_enough_to_measure():
    now = [0.0]

    def label_all(images):
        for _ in images:
            now[0] += 0.1
            yield labels([0])

    samples = [np.zeros((1, 1, 3), np.uint8)]
    found = verify(REFERENCE, lambda: label_all, samples, lambda: [labels([0])], lambda: now[0])
    assert found.seconds == pytest.approx(0.1)
    assert found.agreement == 1


@pytest.mark.parametrize("where", ["start", "label", "expected"])
def test_whatever_goes_wrong_is_a_failure_in_one_line(where):
    def fail(*_):
        raise OSError("no\nsuch layer")

    def label_all(images):
        return (labels([0]) for _ in images)

    found = verify(
        REFERENCE,
        fail if where == "start" else lambda: fail if where == "label" else label_all,
        [np.zeros((1, 1, 3), np.uint8)],
        fail if where == "expected" else lambda: [labels([0])],
    )
    assert found == Verification(config=REFERENCE, failure="no such layer")


# Where it is noted


def test_notes_lie_in_the_model_folder(tmp_path, own_cache):
    notes(folder=tmp_path).keep([FOUND])
    assert (tmp_path / "engines.json").is_file() and not own_cache.exists()
    assert notes(folder=tmp_path).recall() == [FOUND]
    assert notes().recall() == []
    other = Verification(config=REFERENCE, agreement=1)
    notes(shape=(5, 7, 3), folder=tmp_path).keep([other])
    assert notes(folder=tmp_path).recall() == [FOUND]
    assert notes(shape=(5, 7, 3), folder=tmp_path).recall() == [other]


@pytest.mark.parametrize("folder", ["file", "missing/file", None])
def test_elsewhere_they_lie_in_the_cache(tmp_path, own_cache, folder):
    """As of a folder that can't be written, and of nets from the Hub."""
    (tmp_path / "file").touch()
    where = tmp_path / folder if folder == "file" else None
    notes(folder=where).keep([FOUND])
    assert len(list((own_cache / "engines").iterdir())) == 1
    assert notes(folder=where).recall() == [FOUND]


def test_without_any_place_nothing_is_noted(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "file"))
    notes().keep([FOUND])
    assert notes().recall() == []


@pytest.mark.slow
def test_notes_do_not_grow_without_bound(tmp_path):
    for width in range(MOST_NOTES + 3):
        notes(shape=(1, width, 3), folder=tmp_path).keep([FOUND])
    kept = [notes(shape=(1, w, 3), folder=tmp_path).recall() for w in range(MOST_NOTES + 3)]
    assert kept == [[]] * 3 + [[FOUND]] * MOST_NOTES


def test_each_net_size_and_setting_has_its_own_note(monkeypatch):
    def about(net=None, shape=(100, 100, 3), kind="uint8"):
        return str(notes(net, shape, kind).about)

    others = [about(shape=(100, 101, 3)), about(kind="float32")]
    changed = ColourNet()
    with torch.no_grad():
        changed.score.weight[2, 2] += 1e-6
    others.append(about(changed))
    strided = ColourNet()
    strided.arguments = strided.arguments.changed(stride=16)
    others.append(about(strided))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 99)
        others.append(about())
    with monkeypatch.context() as patch:
        patch.setattr("fullconv.export.verified.version", lambda _: "99.0")
        others.append(about())
    assert len({about(), *others}) == 1 + len(others)
    channels_last = ColourNet().to(memory_format=torch.channels_last)
    assert about() == about() == about(channels_last)


def test_where_caches_lie(monkeypatch, tmp_path):
    def found(platform):
        monkeypatch.setattr("sys.platform", platform)
        monkeypatch.delitem(sys.modules, "platformdirs", raising=False)
        return cache_folder()

    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FULLCONV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert found("linux") == tmp_path / "xdg" / "fullconv"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found("linux") == tmp_path / ".cache" / "fullconv"
    assert found("darwin") == tmp_path / "Library" / "Caches" / "fullconv"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without a home
    assert found("linux") is None
