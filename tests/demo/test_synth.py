from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Progress
from fullconv.cli import main
from fullconv.data.folder import DatasetFolder
from fullconv.demo.canvas import Camera, Canvas, Kind, Light, Shadows, noise_tile, vector
from fullconv.demo.objects import Car, Person, Pole
from fullconv.demo.streets import CLASSES, PALETTE, draw_scene, write_synthetic
from fullconv.measure.metrics import ConfusionMatrix

SIZE = (128, 192)
SCENES = 24


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_scene(0, "train", i, SIZE) for i in range(SCENES)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "streets"
    write_synthetic(folder, train=4, val=2, test=1, size=(48, 72), seed=3)
    return folder


def empty_canvas(focal: float = 400.0, rng_seed: int = 0) -> Canvas:
    camera = Camera(height=320, width=480, focal=focal, horizon=150, centre=240, eye=1.6)
    grey = vector(0.5, 0.5, 0.5)
    light = Light(vector(0.6, 0.8, 0), grey, grey, grey, grey, 200.0, 0.5, 0.0)
    return Canvas(camera, light, np.random.default_rng(rng_seed))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_lengths(rows: np.ndarray) -> np.ndarray:
    """Lengths of the runs of True along the rows."""
    edges = np.diff(np.pad(rows, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    return np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]


def blob_heights(labels: np.ndarray, kind: Kind) -> np.ndarray:
    mask = (labels == kind).astype(np.uint8)
    return cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, cv2.CC_STAT_HEIGHT]


@pytest.mark.slow
def test_the_same_call_writes_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    np.random.seed(1)  # numpy's global state must not matter
    write_synthetic(tmp_path / "again", train=4, val=2, test=1, size=(48, 72), seed=3)
    assert files_of(tmp_path / "again") == files_of(dataset)


@pytest.mark.slow
def test_a_scene_depends_on_its_own_seed_split_and_index_only(dataset: Path) -> None:
    image, labels = draw_scene(3, "train", 2, (48, 72))
    assert np.array_equal(image, Image.open(dataset / "images/train/street_0002.png"))
    assert np.array_equal(labels, Image.open(dataset / "masks/train/street_0002.png"))


@pytest.mark.parametrize("other", [(4, "train", 2), (3, "val", 2), (3, "test", 2), (3, "train", 1)])
def test_seeds_splits_and_indices_give_different_scenes(other: tuple[int, str, int]) -> None:
    _, labels = draw_scene(3, "train", 2, (48, 72))
    _, others = draw_scene(*other, (48, 72))
    assert (labels != others).mean() > 0.1


def test_the_folder_is_a_dataset(dataset: Path) -> None:
    folder = DatasetFolder(dataset)
    assert folder.info.classes == CLASSES and folder.info.palette == PALETTE
    assert not folder.held_out
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        assert [sample.name for sample in folder.split(split).samples] == [
            f"street_{i:04d}" for i in range(count)
        ]
        for item in folder.split(split):
            assert item.image.shape == (48, 72, 3) and item.labels.shape == (1, 48, 72)
            assert not folder.info.foreign(item.labels).any()
    raw = yaml.safe_load((dataset / "dataset.yaml").read_text())
    assert set(raw) == {"name", "classes", "palette", "ignore_index"}


def test_masks_are_8_bit_palette_pngs(dataset: Path) -> None:
    for path in (dataset / "masks").rglob("*.png"):
        header = path.read_bytes()[:26]
        assert header[12:16] == b"IHDR" and tuple(header[24:26]) == (8, 3)
        shown = np.asarray(Image.open(path).convert("RGB"))
        labels = np.asarray(Image.open(path))
        known = labels < len(CLASSES)
        assert np.array_equal(shown[known], np.array(PALETTE)[labels[known]])


@pytest.mark.slow
def test_every_class_is_common_enough(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    labels = np.stack([labels for _, labels in scenes])
    assert set(np.unique(labels)) <= {*range(len(CLASSES)), 255}
    for kind in Kind:
        present = [(scene == kind).sum() >= 12 for scene in labels]
        assert np.mean(present) >= 0.6, CLASSES[kind]
        assert (labels == kind).mean() >= 0.004, CLASSES[kind]
    assert (labels == 255).mean() < 0.03
    assert (labels == Kind.BUILDING).mean() < 0.5


@pytest.mark.slow
def test_poles_are_thin(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    widths = np.concatenate([run_lengths(labels == Kind.POLE) for _, labels in scenes])
    assert np.median(widths) <= 2
    assert (widths <= 3).mean() > 0.85


@pytest.mark.parametrize("kind", [Kind.CAR, Kind.PERSON, Kind.SIGN, Kind.TREE])
def test_things_come_near_and_far(kind: Kind, scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    heights = np.concatenate([blob_heights(labels, kind) for _, labels in scenes])
    small = (heights <= 6).sum()
    assert small >= SCENES / 3  # parked rows merge into one blob, so cars have the fewest
    assert heights.max() >= (16 if kind == Kind.SIGN else 32)


def test_colour_alone_does_not_tell_the_class(
    scenes: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    """The best label for each of 16x16x16 colours, learnt on most scenes, fails on the rest."""
    votes = np.zeros((4096, len(CLASSES)), np.int64)
    confusion = ConfusionMatrix(len(CLASSES))
    for i, (image, labels) in enumerate(scenes):
        colours = (image // 16).astype(np.int64) @ (256, 16, 1)
        if i < SCENES - 6:
            known = labels < len(CLASSES)
            np.add.at(votes, (colours[known], labels[known]), 1)
        else:
            confusion.update(labels, votes.argmax(axis=1)[colours])
    assert confusion.metrics().mean_iu < 0.3


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (200, 64), (40, 260)])
def test_any_size(size: tuple[int, int]) -> None:
    image, labels = draw_scene(0, "test", 0, size)
    assert image.shape == (*size, 3) and labels.shape == size
    assert image.dtype == labels.dtype == np.uint8
    assert len(np.unique(labels)) >= 5


def test_labels_shrink_to_the_commonest_and_ties_to_the_foreground() -> None:
    canvas = empty_canvas()
    canvas.labels[:] = np.random.default_rng(0).integers(0, 4, canvas.labels.shape)
    reduced = canvas.reduced_labels()
    for row in range(0, 160, 7):
        for column in range(240):
            block = canvas.labels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            votes = Counter(block.ravel().tolist())
            most = max(votes.values())
            assert reduced[row, column] == max(k for k, n in votes.items() if n == most)


def test_colours_shrink_to_their_mean() -> None:
    canvas = empty_canvas()
    canvas.rgb[:] = np.random.default_rng(0).random(canvas.rgb.shape)
    expected = cv2.resize(canvas.rgb, (240, 160), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(canvas.reduced_rgb(), expected, atol=1e-5)


@pytest.mark.parametrize("depth", [8.0, 16.0, 64.0])
def test_a_pole_is_as_large_as_perspective_says(depth: float) -> None:
    canvas = empty_canvas()
    Pole(0.0, depth, 3.0, 0.2, 0, vector(0.5, 0.5, 0.5)).paint(canvas, 1.0)
    covered = canvas.labels == Kind.POLE
    scale = 400 / depth
    assert covered.any(axis=1).sum() == pytest.approx(3.0 * scale, abs=2.5)
    assert np.median(covered.sum(axis=1)[covered.any(axis=1)]) == pytest.approx(
        0.18 * scale, abs=2.5
    )  # the outline is painted, too
    bottom = np.nonzero(covered.any(axis=1))[0].max()
    assert bottom == pytest.approx(150 + 1.6 * scale, abs=1.5)


@pytest.mark.parametrize("x", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize("oncoming", [False, True])
def test_a_car_covers_its_box(x: float, oncoming: bool) -> None:
    canvas = empty_canvas()
    car = Car.some(np.random.default_rng(1), x, 12.0, oncoming)
    car.paint(canvas, 1.0)
    length, width, height = car.size
    corners = [
        (x + side * width / 2, up, 12.0 + along)
        for side in (-1, 1)
        for up in (0, height)
        for along in (0, length)
    ]
    box = cv2.convexHull(canvas.camera.project(vector(*corners)).astype(np.float32))
    inside = np.zeros(canvas.labels.shape, np.uint8)
    cv2.fillConvexPoly(inside, np.round(box).astype(np.int32), 1)
    covered = canvas.labels == Kind.CAR
    assert covered.sum() > 0.7 * inside.sum()
    assert (covered & (cv2.dilate(inside, np.ones((5, 5), np.uint8)) == 0)).sum() == 0


def test_near_things_hide_far_ones() -> None:
    canvas = empty_canvas()
    rng = np.random.default_rng(0)
    Person.some(rng, 0.0, 30.0).paint(canvas, 1.0)
    far = (canvas.labels == Kind.PERSON).sum()
    assert far > 0
    Car.some(rng, 0.0, 8.0, False).paint(canvas, 1.0)
    assert (canvas.labels == Kind.PERSON).sum() < 0.5 * far


def test_a_cast_shadow_is_the_hull_of_the_shadows_of_both_ends() -> None:
    canvas = empty_canvas()
    camera, light = canvas.camera, canvas.light
    shadows = Shadows(camera, light)
    foot = vector((-1, 10), (1, 10), (1, 12), (-1, 12))
    shadows.cast(foot, 0.5, 2.0)
    slide = -light.to_sun[[0, 2]] / light.to_sun[1]
    ground = np.concatenate([foot + slide * 0.5, foot + slide * 2.0])
    seen = camera.project(np.insert(ground, 1, 0, axis=1))
    expected = np.zeros(canvas.labels.shape, np.uint8)
    cv2.fillConvexPoly(expected, np.round(cv2.convexHull(seen)).astype(np.int32), 1)
    dark = shadows.sunlit() == 0
    assert dark.sum() > 500
    assert (dark != (expected == 1)).sum() < 0.06 * dark.sum()
    left = ground[:, 0].min()
    assert left < -1, "the sun stands on the right, so the shadow falls to the left"


def test_the_noise_repeats_without_a_seam() -> None:
    tile = noise_tile(np.random.default_rng(0), 64, 1.0)
    assert tile.shape == (64, 64) and tile.dtype == np.float32
    assert tile.std() == pytest.approx(0.5, rel=1e-3)
    jump = np.abs(tile[:, 0] - tile[:, -1]).mean()
    inner = np.abs(np.diff(tile, axis=1)).mean()
    assert jump < 1.5 * inner


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FullconvError, match="not an empty folder"):
        write_synthetic(tmp_path, train=1, val=0, test=0, size=(32, 32))
    assert files_of(tmp_path) == {"note.txt": b"mine"}
    with pytest.raises(FullconvError, match=r"note\.txt"):
        write_synthetic(tmp_path / "note.txt", train=1, val=0, test=0, size=(32, 32))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train": 0}, "train"),
        ({"val": -1}, "val"),
        ({"size": (31, 64)}, "31x64"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    wrong: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(FullconvError, match=said):
        write_synthetic(tmp_path / "new", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_an_interrupted_run_leaves_whole_files_and_no_dataset(tmp_path: Path) -> None:
    class Interrupted(Progress):
        def advance(self, steps: int = 1, note: str = "") -> None:
            super().advance(steps, note)
            if self.done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path, train=4, size=(32, 48), bar=Interrupted(4, "draw", "scenes"))
    names = sorted(files_of(tmp_path))
    assert names == [
        f"{kind}/train/street_000{i}.png" for kind in ("images", "masks") for i in (0, 1)
    ]
    for name in names:
        Image.open(tmp_path / name).load()


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fullconv", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_the_command_makes_a_dataset_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "streets")
    order = ("data", "synth", folder, "--train", "2", "--val", "1", "--test", "1")
    assert run_cli(monkeypatch, *order, "--size", "32x48", "--seed", "5", "--quiet") == 0
    assert len(DatasetFolder(Path(folder)).split("train")) == 2
    capsys.readouterr()
    assert run_cli(monkeypatch, *order) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and folder in error


@pytest.mark.parametrize("size", ["32", "0x48", "axb", "32x48x3"])
def test_the_command_refuses_what_is_no_size(
    size: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli(monkeypatch, "data", "synth", str(tmp_path / "new"), "--size", size) == 2
    assert "HxW" in capsys.readouterr().err
