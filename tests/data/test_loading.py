from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from coloured_scenes import write_scenes
from dataset_folders import write_dataset, write_rich
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.data import loading
from fullconv.data.folder import DatasetFolder, LabelledImage, Split
from fullconv.data.loading import (
    Batch,
    Batches,
    CachedSplit,
    TrainingDataset,
    cache_budget,
    default_workers,
    mixed_seed,
    steps_per_epoch,
    training_batches,
)
from fullconv.data.transforms import training_transform

CPU = torch.device("cpu")
PLENTY = 1 << 30


@given(
    images=st.integers(1, 40),
    size=st.integers(1, 17),
    seed=st.integers(0, 99),
    start=st.integers(0, 30),
)
@settings(max_examples=100, deadline=None)
def test_order(images: int, size: int, seed: int, start: int) -> None:
    per_epoch = steps_per_epoch(images, size)
    steps = 3 * per_epoch + 1
    batches = list(islice(Batches(images, size, seed), steps))
    assert len(batches) == steps
    assert all(len(batch) == size for batch in batches)
    for epoch in range(3):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        shown = Counter(draw.image for batch in part for draw in batch)
        assert set(shown) <= set(range(images))
        if images >= size:  # each at most once, and only what makes no whole batch is left out
            assert set(shown.values()) == {1}
            assert len(shown) == images - images % size
        else:  # as evenly as can be
            assert len(shown) == images
            assert max(shown.values()) - min(shown.values()) <= 1
    seeds = [draw.seed for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds)
    resumed = islice(Batches(images, size, seed, start), max(steps - start, 0))
    assert list(resumed) == batches[start:]


def test_epochs_and_seeds_differ() -> None:
    first, second = ([d.image for d in batch] for batch in islice(Batches(64, 64, 0), 2))
    other = [d.image for d in next(iter(Batches(64, 64, 1)))]
    assert first != second
    assert first != other
    assert mixed_seed(1, 2) != mixed_seed(2, 1)


class Counted(Split):
    """A split that counts how often it reads each sample."""

    def __init__(self, split: Split) -> None:
        self.__dict__ |= split.__dict__
        self.reads: Counter[int] = Counter()

    def __getitem__(self, index: int) -> LabelledImage:
        self.reads[index] += 1
        return super().__getitem__(index)


@pytest.fixture
def split(tmp_path: Path) -> Counted:
    root = write_dataset(tmp_path, train=3)
    for kind, shape in (("images", (5, 13, 3)), ("masks", (5, 13))):  # one of another size
        Image.fromarray(np.full(shape, 2, np.uint8)).save(root / kind / "train" / "train1.png")
    return Counted(DatasetFolder(root).split("train"))


def test_each_image_is_decoded_once(split: Counted) -> None:
    kept = CachedSplit(split, PLENTY)
    assert (len(kept), kept.name, kept.samples) == (3, "train", split.samples)
    assert kept.kept_bytes == (8 * 10 + 5 * 13 + 8 * 10) * 4
    for _ in range(2):
        for index in (2, 0, 1):
            found, fresh = kept[index], Split.__getitem__(split, index)
            assert found.name == fresh.name
            np.testing.assert_array_equal(found.image, fresh.image)
            np.testing.assert_array_equal(found.labels, fresh.labels)
    assert split.reads == {0: 1, 1: 1, 2: 1}


def test_nothing_is_kept_beyond_the_budget(split: Counted) -> None:
    needed = CachedSplit(split, PLENTY).kept_bytes
    kept = CachedSplit(split, needed - 1)
    assert kept.kept_bytes == 0
    for _ in range(2):
        assert kept[1].image.shape == (5, 13, 3)
    assert split.reads == {1: 2}
    assert CachedSplit(split, needed).kept_bytes == needed


def test_what_a_worker_decodes_is_there_for_all(split: Counted) -> None:
    kept = CachedSplit(split, PLENTY, shared=True)
    dataset = TrainingDataset(kept, training_transform((8, 8)))
    next(training_batches(dataset, Batches(3, 3, 0), part=3, workers=1, device=CPU))
    assert [kept[index].name for index in range(3)] == ["train0", "train1", "train2"]
    assert not split.reads  # by this process


def test_a_file_that_fails_is_read_again_next_time(split: Counted) -> None:
    kept = CachedSplit(split, PLENTY)
    mask = split.samples[0].masks[0]
    whole = mask.read_bytes()
    mask.write_bytes(whole[:60])
    with pytest.raises(FullconvError, match="train0"):
        kept[0]
    mask.write_bytes(whole)
    assert kept[0].labels.max() == 255


def test_the_budget_fits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    free = loading._available_memory()
    assert 1 << 26 < free < 1 << 44
    assert cache_budget(shared=False) == pytest.approx(free / 4, rel=0.1)
    monkeypatch.setattr(loading, "_free_shared_memory", lambda: 64 << 20)  # as in many a container
    assert cache_budget(shared=True) == 32 << 20
    assert cache_budget(shared=False) == pytest.approx(free / 4, rel=0.1)
    assert default_workers(CPU) == default_workers(torch.device("cuda")) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(tmp_path: Path, workers: int) -> None:
    split = DatasetFolder(write_scenes(tmp_path)).split("train")
    dataset = TrainingDataset(split, training_transform((16, 24), (0.5, 2.0), 0.5, 0.5))

    def made(count: int) -> list[object]:
        feed = training_batches(dataset, Batches(6, 4, 0), part=2, workers=count, device=CPU)
        return [
            ([each.tolist() for part in batch.parts for each in part], batch.names)
            for batch in islice(feed, 3)
        ]

    assert made(workers) == made(0)


def test_batches(tmp_path: Path) -> None:
    split = DatasetFolder(write_scenes(tmp_path, train=3)).split("train")
    dataset = TrainingDataset(split, training_transform((16, 24)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batch = next(training_batches(dataset, Batches(3, 2, 0), part=2, workers=0, device=CPU))
    assert torch.equal(torch.get_rng_state(), before)  # dropout's random numbers are its own
    ((images, labels),) = batch.parts
    assert (images.shape, images.dtype) == ((2, 3, 16, 24), torch.uint8)
    assert (labels.shape, labels.dtype) == ((2, 1, 16, 24), torch.uint8)
    assert type(images) is type(labels) is torch.Tensor
    assert len(set(batch.names)) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    root = write_scenes(tmp_path)
    (root / "images" / "train" / "train4.png").write_bytes(b"\x89PNG\r\n")
    dataset = TrainingDataset(DatasetFolder(root).split("train"), training_transform((16, 24)))
    feed = training_batches(dataset, Batches(6, 6, 0), part=6, workers=workers, device=CPU)
    with pytest.raises(FullconvError, match=r"train4\.png") as caught:
        next(feed)
    assert "\n" not in str(caught.value)


# Several inputs and heads, parts, replacement, whole images ------------------------------------


@pytest.fixture
def rich(tmp_path: Path) -> DatasetFolder:
    return DatasetFolder(write_rich(tmp_path))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("inputs", "heads", "bytes_per_pixel"),
    [
        (("color", "depth"), ("geo", "sem"), 4 * 2 + 2),
        (("depth",), ("sem",), 1 * 2 + 1),
        (("hha", "color"), ("sem", "geo"), 6 + 2),
        (("color",), None, 3 + 2),
    ],
)
def test_inputs_and_heads_are_kept_as_they_are_read(
    rich: DatasetFolder,
    inputs: tuple[str, ...],
    heads: tuple[str, ...] | None,
    bytes_per_pixel: int,
    shared: bool,
) -> None:
    split = Counted(rich.split("train", inputs, heads))
    kept = CachedSplit(split, PLENTY, shared=shared)
    assert kept.kept_bytes == (8 * 10 + 5 * 13 + 8 * 10) * bytes_per_pixel
    assert list(kept.inputs) == list(inputs)
    assert list(kept.heads) == list(heads or ("sem", "geo"))
    for _ in range(2):
        for index in (1, 2, 0):
            found, fresh = kept[index], Split.__getitem__(split, index)
            assert found.image.dtype == fresh.image.dtype
            np.testing.assert_array_equal(found.image, fresh.image)
            np.testing.assert_array_equal(found.labels, fresh.labels)
            assert found.labels.shape[0] == len(kept.heads)
    assert split.reads == {0: 1, 1: 1, 2: 1}
    assert CachedSplit(split, kept.kept_bytes - 1).kept_bytes == 0
    assert CachedSplit(split, kept.kept_bytes).kept_bytes == kept.kept_bytes


@pytest.mark.parametrize(
    ("dtype", "bands", "bytes_per_pixel"),
    [
        (np.float32, 1, 4),
        (np.float32, 4, 16),
        (np.int16, 1, 4),
        (np.uint16, 5, 10),
        (np.uint8, 4, 4),
        (np.int32, 1, 4),
    ],
)
def test_measurements_of_any_type_are_kept_as_they_are_read(
    tmp_path: Path, dtype: type, bands: int, bytes_per_pixel: int
) -> None:
    """Heights below zero, fractions and many bands, none of which fits 16 bits or 8."""
    root = write_rich(tmp_path)
    for at, path in enumerate(sorted((root / "depth").rglob("*.png"))):
        with Image.open(path) as image:
            shape = (image.height, image.width, bands)
        values = np.random.default_rng(at).integers(-200, 200, shape) / 8
        values = values if np.dtype(dtype).kind == "f" else abs(values)
        layout = {"planarconfig": 1} if bands > 1 else {}
        path.unlink()
        target, stored = path.with_suffix(".tif"), values.astype(dtype)
        tifffile.imwrite(target, stored, photometric="minisblack", **layout)
    split = DatasetFolder(root).split("train", ("depth",), ("sem",))
    kept = CachedSplit(split, PLENTY)
    assert kept.kept_bytes == (8 * 10 + 5 * 13 + 8 * 10) * (bytes_per_pixel + 1)
    for _ in range(2):
        for index in range(3):
            np.testing.assert_array_equal(kept[index].image, split[index].image)


def test_a_file_of_another_type_than_the_first_is_read_rightly(tmp_path: Path) -> None:
    root = write_rich(tmp_path)
    path = root / "depth/train/train1.png"
    path.unlink()
    heights = np.random.default_rng(0).normal(0, 9, (5, 13)).astype(np.float32)
    tifffile.imwrite(path.with_suffix(".tif"), heights)
    kept = CachedSplit(DatasetFolder(root).split("train", ("color", "depth"), ("sem",)), PLENTY)
    for _ in range(2):
        np.testing.assert_array_equal(kept[1].image[..., 3], heights)


@pytest.mark.slow
def test_max_pixels_of_the_folder_holds_for_what_is_kept(tmp_path: Path) -> None:
    root = write_dataset(tmp_path)
    split = DatasetFolder(root, ImageReader(79)).split("train")
    with pytest.raises(FullconvError, match="more than the 79 allowed"):
        CachedSplit(split, PLENTY)
    big = Image.new("1", (20_001, 10_000))
    big.save(root / "images/train/train0.png")
    big.save(root / "masks/train/train0.png")
    raised = DatasetFolder(root, ImageReader(300_000_000)).split("train")
    assert CachedSplit(raised, 1000).kept_bytes == 0  # known from the header, not refused


@given(
    images=st.integers(1, 40),
    size=st.integers(1, 9),
    seed=st.integers(0, 99),
    start=st.integers(0, 20),
)
@settings(max_examples=50, deadline=None)
def test_draws_with_replacement_are_pure_functions_of_seed_and_step(
    images: int, size: int, seed: int, start: int
) -> None:
    batches = list(islice(Batches(images, size, seed, replacement=True), start + 5))
    assert [len(batch) for batch in batches] == [size] * (start + 5)
    assert all(0 <= draw.image < images for batch in batches for draw in batch)
    resumed = Batches(images, size, seed, start, replacement=True)
    assert list(islice(resumed, 5)) == batches[start:]
    seeds = [draw.seed for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds)


def test_draws_with_replacement_are_uniform_and_independent() -> None:
    count, steps = 10, 4000
    drawn = islice(Batches(count, 2, 0, replacement=True), steps)
    pairs = np.zeros((count, count), np.int64)
    for first, second in ([draw.image for draw in batch] for batch in drawn):
        pairs[first, second] += 1
    expected = steps / count**2
    chi_squared = float(((pairs - expected) ** 2 / expected).sum())
    assert 50 < chi_squared < 161  # 99 degrees of freedom: below 1e-4 in either direction
    one, other = (islice(Batches(count, 1, seed, replacement=True), count) for seed in (0, 1))
    stream = [draw.image for (draw,) in one]
    assert len(set(stream)) < count  # an epoch of a shuffle would show each once
    assert stream != [draw.image for (draw,) in other]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_comes_in_parts(rich: DatasetFolder, workers: int) -> None:
    split = rich.split("val", ("color", "depth"))
    inputs = {name: each.channels for name, each in split.inputs.items()}
    dataset = TrainingDataset(split, training_transform((6, 7), inputs=inputs))

    def batch(part: int) -> Batch:
        feed = training_batches(dataset, Batches(2, 5, 0), part=part, workers=workers, device=CPU)
        return next(feed)

    whole, parted = batch(5), batch(2)
    assert [len(part.images) for part in whole.parts] == [5]
    assert [len(part.images) for part in parted.parts] == [2, 2, 1]
    assert [len(part.labels) for part in parted.parts] == [2, 2, 1]
    assert len(parted.names) == 5 and parted.names == whole.names
    for kind, shape, dtype in (
        ("images", (5, 4, 6, 7), torch.float32),
        ("labels", (5, 2, 6, 7), torch.uint8),
    ):
        joined = torch.cat([getattr(part, kind) for part in parted.parts])
        assert torch.equal(joined, getattr(whole.parts[0], kind))
        assert (joined.shape, joined.dtype) == (shape, dtype)


def test_whole_images_of_different_sizes_pass_one_by_one(rich: DatasetFolder) -> None:
    split = rich.split("train", ("hha", "depth"), ("geo",))
    dataset = TrainingDataset(split, training_transform(None, inputs={"hha": 3, "depth": 1}))
    feed = training_batches(dataset, Batches(3, 3, 0), part=1, workers=0, device=CPU)
    batch = next(feed)
    assert sorted(batch.names) == ["train0", "train1", "train2"]
    for name, (images, labels) in zip(batch.names, batch.parts, strict=True):
        original = split[int(name.removeprefix("train"))]
        np.testing.assert_array_equal(images[0].permute(1, 2, 0), original.image)
        np.testing.assert_array_equal(labels[0], original.labels)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_sizes_in_one_part_are_refused(
    rich: DatasetFolder, workers: int
) -> None:
    dataset = TrainingDataset(rich.split("train"), training_transform(None))
    feed = training_batches(dataset, Batches(3, 3, 0), part=3, workers=workers, device=CPU)
    with pytest.raises(FullconvError, match=r"differ in size.*batch_size=1") as caught:
        next(feed)
    assert "train1" in str(caught.value) and "\n" not in str(caught.value)
