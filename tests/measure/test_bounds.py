"""Upper bounds of mean IU by coarsened truth, against hand calculation, theory and real scenes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from dataset_folders import add_sample, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.folder import DatasetFolder
from fullconv.data.thinness import coarsened
from fullconv.demo.streets import write_synthetic
from fullconv.measure.bounds import PUBLISHED, upper_bounds
from fullconv.measure.metrics import ConfusionMatrix

IGNORE = 255


def _by_definition(labels: NDArray[np.uint8], factor: int, classes: int) -> NDArray[np.uint8]:
    """Coarsen pixel by pixel, as the docstring says it."""
    result = np.full_like(labels, IGNORE)
    height, width = labels.shape
    for y, x in np.ndindex(height, width):
        top, left = y // factor * factor, x // factor * factor
        centre = np.array([top, left]) + (factor - 1) / 2
        inside = [
            (i, j)
            for i in range(top, min(top + factor, height))
            for j in range(left, min(left + factor, width))
            if labels[i, j] < classes
        ]
        if inside:  # min takes the first of several
            result[y, x] = labels[min(inside, key=lambda at: ((np.array(at) - centre) ** 2).sum())]
    return result


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    factor=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_coarsened_follows_its_definition(size: tuple[int, int], factor: int, seed: int) -> None:
    ids = np.array([0, 1, 2, IGNORE, IGNORE], np.uint8)
    labels = np.random.default_rng(seed).choice(ids, size)
    result, expected = coarsened(labels, factor, 3), _by_definition(labels, factor, 3)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(np.minimum(result, 3), np.minimum(expected, 3))


def test_a_cell_takes_the_label_of_its_centre() -> None:
    labels = np.array([[0, 0, 0, 1], [0, 2, 0, 1], [0, 0, 0, 1]], np.uint8)
    expected = [[2, 2, 2, 1], [2, 2, 2, 1], [2, 2, 2, 1]]
    np.testing.assert_array_equal(coarsened(labels, 3, 3), expected)


def test_factor_one_and_cells_of_one_label_lose_nothing() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (6, 9), dtype=np.uint8)
    np.testing.assert_array_equal(coarsened(labels, 1, 5), labels)
    large = labels.repeat(4, 0).repeat(4, 1)
    for factor in (1, 2, 4):
        np.testing.assert_array_equal(coarsened(large, factor, 5), large)


def test_a_straight_edge_is_moved_by_a_quarter_of_a_cell_on_average() -> None:
    """An edge at offset t of a cell of f pixels snaps to 0 or f: by min(t, f - t) columns."""
    factor, moved = 16, []
    for offset in range(factor):
        labels = np.zeros((factor, 4 * factor), np.uint8)
        labels[:, factor + offset :] = 1
        moved.append((coarsened(labels, factor, 2) != labels).sum() / factor)
    assert moved == [min(offset, factor - offset) for offset in range(factor)]
    assert np.mean(moved) == factor / 4


def _disc_scenes(count: int = 40) -> list[NDArray[np.uint8]]:
    """Scenes of VOC's size with one or two large ellipses, each of one of three classes."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:375, :500]
    scenes = []
    for index in range(count):
        labels = np.zeros((375, 500), np.uint8)
        for _ in range(random.integers(1, 3)):
            centre, radii = random.uniform((60, 80), (315, 420)), random.uniform(30, 150, 2)
            inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
            labels[inside] = 1 + index % 3
        scenes.append(labels)
    return scenes


def test_large_smooth_objects_come_near_the_published_bounds() -> None:
    """Objects of VOC's size lose what VOC loses; the loss halves with the factor, as lengths do."""
    scenes, bounds = _disc_scenes(), {}
    for factor in PUBLISHED:
        count = ConfusionMatrix(4)
        for labels in scenes:
            count.update(labels, coarsened(labels, factor, 4))
        bounds[factor] = count.metrics().mean_iu
    assert bounds == pytest.approx(dict(PUBLISHED), abs=0.12)
    losses = [1 - value for value in bounds.values()]
    ratios = [fine / coarse for coarse, fine in itertools.pairwise(losses)]
    published = [1 - value for value in PUBLISHED.values()]
    theirs = [fine / coarse for coarse, fine in itertools.pairwise(published)]
    assert ratios == pytest.approx(theirs, abs=0.15)


def _rises(values: Sequence[float]) -> bool:
    return all(coarse < fine for coarse, fine in itertools.pairwise(values))


@pytest.mark.slow
def test_bounds_of_the_synthetic_streets_rise_as_cells_shrink(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "streets", train=1, val=4, test=0, size=(160, 240), seed=3)
    split = DatasetFolder(tmp_path / "streets").split("val")
    found = upper_bounds(split, (*PUBLISHED, 2, 1))
    assert list(found) == ["labels"]
    values = [metrics.mean_iu for metrics in found["labels"].values()]
    assert _rises(values)
    assert values[-1] == 1.0
    assert _rises([metrics.pixel_accuracy for metrics in found["labels"].values()])
    # streets are full of poles and people far off: below VOC at every factor
    assert all(value < PUBLISHED[f] for f, value in zip(PUBLISHED, values, strict=False))


def test_each_head_has_its_own_bounds_and_unscored_classes_stay_out(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "two", train=1, val=0, test=0)
    heads = {
        "sem": {"masks": "masks", "classes": ["road", "tree", "sky"], "unscored": ["tree"]},
        "flat": {"masks": "masks_flat", "classes": ["all"]},
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "two", "heads": heads}))
    add_sample(root, "train", "train1", 7)
    for mask in sorted((root / "masks/train").iterdir()):
        flat = root / "masks_flat/train" / mask.name
        flat.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(flat)
    found = upper_bounds(DatasetFolder(root).split("train"), [4])
    assert set(found) == {"sem", "flat"}
    assert found["flat"][4].mean_iu == 1.0
    iu = found["sem"][4].iu
    assert found["sem"][4].mean_iu == pytest.approx((iu[0] + iu[2]) / 2)
    assert found["sem"][4].mean_iu < 0.9


def test_command_prints_the_bounds_beside_the_published(
    tmp_path: Path, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_dataset(tmp_path / "tiny")
    assert command_line("data", "bounds", root, "--factors", "32,2,1", "--quiet") == 0
    text = capsys.readouterr().out
    assert "val: 2 images" in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    found = upper_bounds(DatasetFolder(root).split("val"), [32, 2, 1])["labels"]
    for factor in (32, 2, 1):
        assert f"{found[factor].mean_iu:.3f}" in rows[str(factor)]
    assert "0.861" in rows["32"]
    assert "1.000" in rows["1"]


def test_photographs_are_not_decoded(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "tiny")
    whole = upper_bounds(DatasetFolder(root).split("val"), [2])["labels"][2]
    for path in (root / "images" / "val").iterdir():
        path.write_bytes(path.read_bytes()[:60])  # the header and no pixel
    found = upper_bounds(DatasetFolder(root).split("val"), [2])["labels"][2]
    assert np.array_equal(found.confusion, whole.confusion)


@pytest.mark.parametrize("factors", ["", "8,", "0", "-4", "8;4", "4.5", "9999999"])
def test_command_refuses_factors_that_are_none(
    factors: str, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line("data", "bounds", "nowhere", f"--factors={factors}") == 2
    assert "such as 32,16,8" in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.realdata
@pytest.mark.skipif("FULLCONV_SHARED" not in os.environ, reason="FULLCONV_SHARED is not set")
def test_bounds_of_camvid_val() -> None:
    root = Path(os.environ["FULLCONV_SHARED"]) / "data" / "camvid"
    found = upper_bounds(DatasetFolder(root).split("val"))["labels"]
    values = {factor: round(metrics.mean_iu, 3) for factor, metrics in found.items()}
    assert _rises(list(values.values()))
    assert values == {128: 0.303, 64: 0.439, 32: 0.573, 16: 0.701, 8: 0.805, 4: 0.883}
