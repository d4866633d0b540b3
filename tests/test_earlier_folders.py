"""Model and run folders that an earlier version wrote: they load, label alike, and go on.

tests/fixtures/e8a2da3 holds folders that the commit of this name wrote, with what it made of an
image. The run was stopped in its third epoch of four.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fullconv
from fullconv.demo.streets import write_synthetic

FOLDERS = Path(__file__).parent / "fixtures" / "e8a2da3"


@pytest.mark.parametrize("name", ["plain", "magnified", "reduced", "two-heads"])
def test_a_model_folder_labels_as_it_did(name: str) -> None:
    net = fullconv.load(FOLDERS / name)
    with np.load(FOLDERS / name / "labels.npz") as kept:
        found = net.label(kept["image"])
        assert {f"labels_{head}" for head in found} == set(kept) - {"image"}
        for head, labels in found.items():
            np.testing.assert_array_equal(labels, kept[f"labels_{head}"])
    assert [head.temperature for head in net.heads.values()] == [1.25, 2.25][: len(net.heads)]


def test_a_model_folder_is_written_as_it_was(tmp_path: Path) -> None:
    """So that folders of this version load in that one, too."""
    for name in ("plain", "magnified", "reduced", "two-heads"):
        fullconv.load(FOLDERS / name).save_pretrained(tmp_path / name, {"mean_iu": 0.5})
        for file in ("config.json", "model.safetensors"):
            assert (tmp_path / name / file).read_bytes() == (FOLDERS / name / file).read_bytes()


@pytest.mark.slow
def test_a_run_that_was_cut_short_goes_on(tmp_path: Path, command_line: Callable[..., int]) -> None:
    pytest.importorskip("timm")
    out, data = tmp_path / "run", tmp_path / "streets"
    shutil.copytree(FOLDERS / "run", out)
    with np.load(FOLDERS / "run" / "labels.npz") as kept:
        image, midway, expected = kept["image"], kept["midway"], kept["labels"]
    assert (fullconv.load(out / "fcn8s").predict(image) == midway).mean() > 0.999
    write_synthetic(data, train=6, val=2, test=0, size=(64, 96), seed=3)
    assert command_line("train", "--out", out, "--resume", "--data", data, "--quiet") == 0
    # Another processor rounds otherwise, and a training carries that on.
    assert (fullconv.load(out / "fcn8s").predict(image) == expected).mean() > 0.99
    log = (out / "fcn8s" / "log.csv").read_text().splitlines()
    assert len(log) == 1 + 4 and log[:3] == (
        (FOLDERS / "run" / "fcn8s" / "log.csv").read_text().splitlines()
    )
