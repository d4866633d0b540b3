"""NYUDv2, from the labelled set as it was published and from the layout of the authors' layers."""

from __future__ import annotations

import io

import h5py
import numpy as np
import public_archives as packed
import pytest
from file_server import serving
from PIL import Image

from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetFolder
from fullconv.datasets.nyud import NYUD, read_class_table, read_split
from fullconv.datasets.public import get_dataset
from fullconv.papers.classes import NYUD as CLASSES

# the 894 classes' ids among the 40; 0 is none of them
MAPPING = np.random.default_rng(1).integers(0, 41, 894).astype(np.uint8)
SPLITS = {"train": [1, 3, 4], "test": [2]}
CROP = np.s_[45:470, 40:600]  # MATLAB's I(46:470, 41:600)


def mapping(names=CLASSES, table=MAPPING):
    cells = np.empty((1, len(names)), object)
    cells[0] = names
    return packed.mat({"mapClass": table[None], "className": cells})


def splits(lists):
    columns = {f"{split}Ndxs": np.array(n, np.uint16)[:, None] for split, n in lists.items()}
    return packed.mat(columns)


FILES = {
    "nyu_depth_v2_labeled.mat": packed.nyud_labeled(4),
    "splits.mat": splits(SPLITS),
    "classMapping40.mat": mapping(),
}


@pytest.fixture
def nyud():
    """The dataset, served by this machine."""
    with serving() as server:
        yield packed.served(NYUD, server, FILES)


def expected(index):
    """Colours, millimetres and labels of picture `index` (from 0), pixel by pixel as defined."""
    colours, metres, ids = packed.nyud_picture(index)
    stored = np.array([0, *MAPPING])[ids]
    labels = np.where(stored == 0, 255, stored - 1)
    return colours[CROP], np.rint(metres[CROP].astype(float) * 1000), labels[CROP]


def read(folder, split, inputs):
    """Every sample, those of train that are held out as val included, by name."""
    dataset = DatasetFolder(folder)
    names = ["train", "val"] if split == "train" else [split]
    samples = [sample for name in names for sample in dataset.split(name, inputs)]
    return {sample.name: sample for sample in samples}


def test_colour_depth_and_labels(tmp_path, nyud, command_line):
    result = get_dataset(nyud, tmp_path / "nyud")
    assert result.counts == {"train": 3, "test": 1}
    for split, numbers in SPLITS.items():
        found = read(tmp_path / "nyud", split, ("color", "depth"))
        assert sorted(found) == [f"img_{5000 + number}" for number in numbers]
        for number in numbers:
            sample = found[f"img_{5000 + number}"]
            colours, depths, labels = expected(number - 1)
            np.testing.assert_array_equal(sample.image[..., :3], colours)
            np.testing.assert_array_equal(sample.image[..., 3], depths)
            np.testing.assert_array_equal(sample.labels[0], labels)
    info = DatasetFolder(tmp_path / "nyud").info
    assert info.classes == CLASSES and len(info.classes) == 40
    assert dict(info.inputs) == {"color": "images", "depth": "depth"}
    with Image.open(tmp_path / "nyud" / "depth" / "test" / "img_5002.png") as image:
        assert image.mode == "I;16"
    assert command_line("data", "check", tmp_path / "nyud", "--quiet") == 0


def test_the_note_on_val_names_the_folders_that_are_there(tmp_path, nyud):
    folder = tmp_path / "ny ud"
    (told,) = [note for note in get_dataset(nyud, folder).notes if "there is no val" in note]
    loop = "for kind in images depth masks; do ln -s test $kind/val; done"
    assert f"cd '{folder}' && {loop}" in told


def test_what_to_do_about_hha(tmp_path, nyud):
    """It has no public address: say what to make, where to put it, and how to go on; then go on."""
    notes = get_dataset(nyud, tmp_path / "nyud").notes
    (told,) = [note for note in notes if "HHA" in note]
    assert "saveHHA.m" in told and str(tmp_path / "nyud.downloads" / "hha") in told
    assert "img_5001.png" in told and "same command" in told


def hha(size):
    """HHA images of all four, in `size`, by file name."""
    pictures = {i: packed.pixels(f"hha {i}", (*size, 3)).astype(np.uint8) for i in range(4)}
    return {f"img_{5001 + i}.png": packed.png(array) for i, array in pictures.items()}, pictures


@pytest.mark.slow
@pytest.mark.parametrize("size", [(425, 560), (480, 640)])
def test_hha_images_of_ones_own(tmp_path, nyud, command_line, size):
    """Cropped as Gupta's, or whole as made from the published depths."""
    files, pictures = hha(size)
    packed.write_files(tmp_path / "nyud.downloads" / "hha", files)
    result = get_dataset(nyud, tmp_path / "nyud")
    assert not [note for note in result.notes if "HHA" in note]
    sample = read(tmp_path / "nyud", "test", ("color", "hha"))["img_5002"]
    colours, _, labels = expected(1)
    np.testing.assert_array_equal(sample.image[..., :3], colours)
    whole = size == (480, 640)
    np.testing.assert_array_equal(
        sample.image[..., 3:], pictures[1][CROP] if whole else pictures[1]
    )
    np.testing.assert_array_equal(sample.labels[0], labels)
    assert command_line("data", "check", tmp_path / "nyud", "--quiet") == 0


def test_hha_images_that_do_not_fit(tmp_path, nyud):
    files, _ = hha((100, 100))
    folder = packed.write_files(tmp_path / "nyud.downloads" / "hha", files)
    with pytest.raises(FullconvError, match=r"img_5001: its image and masks differ in size"):
        get_dataset(nyud, tmp_path / "nyud")
    (folder / "img_5001.png").unlink()
    with pytest.raises(FullconvError, match=r"hha/img_5001.png: is missing"):
        get_dataset(nyud, tmp_path / "nyud")


def test_hha_images_that_are_cut_short(tmp_path, nyud):
    files, _ = hha((480, 640))
    files["img_5002.png"] = files["img_5002.png"][:5000]
    folder = packed.write_files(tmp_path / "nyud.downloads" / "hha", files)
    with pytest.raises(FullconvError) as caught:
        get_dataset(nyud, tmp_path / "nyud")
    assert str(caught.value).startswith(f"{folder / 'img_5002.png'}: is damaged or truncated")


def authors(folder, *, lists=True):
    """The layout that the authors' data layers read, with HHA."""
    files = {}
    for index in range(4):
        colours, depths, labels = expected(index)
        name = f"img_{5001 + index}"
        files[f"data/images/{name}.png"] = packed.png(np.ascontiguousarray(colours))
        files[f"data/depth/{name}.png"] = packed.png(depths.astype(np.uint16))
        stored = np.where(labels == 255, 0, labels + 1).astype(np.uint8)
        files[f"segmentation/{name}.mat"] = packed.mat({"segmentation": stored})
    made, pictures = hha((425, 560))
    files |= {f"data/hha/{name}": content for name, content in made.items()}
    if lists:
        files |= {"trainval.txt": b"5001\n5003\nimg_5004\n", "test.txt": b"5002\n"}
    return packed.write_files(folder, files), pictures


@pytest.mark.slow
@pytest.mark.parametrize("lists", [True, False])
def test_the_authors_layout(tmp_path, nyud, command_line, lists):
    given, pictures = authors(tmp_path / "own", lists=lists)
    result = get_dataset(nyud, tmp_path / "nyud", given)
    assert result.counts == {"train": 3, "test": 1}
    fetched = {path.name for path in (tmp_path / "nyud.downloads").glob("*")}
    assert fetched == (set() if lists else {"splits.mat"})
    for split, numbers in SPLITS.items():
        found = read(tmp_path / "nyud", split, ("color", "depth", "hha"))
        assert sorted(found) == [f"img_{5000 + number}" for number in numbers]
        for number in numbers:
            sample = found[f"img_{5000 + number}"]
            colours, depths, labels = expected(number - 1)
            np.testing.assert_array_equal(sample.image[..., :3], colours)
            np.testing.assert_array_equal(sample.image[..., 3], depths)
            np.testing.assert_array_equal(sample.image[..., 4:], pictures[number - 1])
            np.testing.assert_array_equal(sample.labels[0], labels)
    assert command_line("data", "check", tmp_path / "nyud", "--quiet") == 0


def test_a_list_that_is_none(tmp_path, nyud):
    given, _ = authors(tmp_path / "own")
    (given / "test.txt").write_text("5002 kitchen")
    with pytest.raises(FullconvError, match=r"test.txt: 'kitchen' is no number"):
        get_dataset(nyud, tmp_path / "nyud", given)


def written(path, content):
    path.write_bytes(content)
    return path


def test_the_table_of_classes(tmp_path):
    table = read_class_table(written(tmp_path / "a.mat", mapping()))
    assert table.shape == (895,) and table[0] == 255
    for number, stored in enumerate(MAPPING, 1):
        assert table[number] == (stored - 1 if stored else 255)
    spelled = [
        {"refridgerator": "refrigerator", "floor mat": "floor-mat"}.get(c, c) for c in CLASSES
    ]
    np.testing.assert_array_equal(
        read_class_table(written(tmp_path / "a.mat", mapping(spelled))), table
    )
    swapped = (CLASSES[1], CLASSES[0], *CLASSES[2:])
    for content, problem in (
        (mapping(swapped), "are not the 40 classes"),
        (mapping(table=np.full(894, 41, np.uint8)), "ids outside 0..40"),
        (packed.mat({"className": np.zeros((1, 3))}), "are not the 40 classes"),
    ):
        with pytest.raises(FullconvError, match=problem):
            read_class_table(written(tmp_path / "a.mat", content))


def test_the_split(tmp_path):
    found = read_split(written(tmp_path / "a.mat", splits({"train": [1449, 2], "test": [1]})))
    assert found == {6449: "train", 5002: "train", 5001: "test"}
    with pytest.raises(FullconvError, match="into both train and test"):
        read_split(written(tmp_path / "a.mat", splits({"train": [1, 2], "test": [2]})))


def hdf5(**arrays):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no HDF5", "can't be read as a MATLAB file"),
        (FILES["nyu_depth_v2_labeled.mat"][:5000], "can't be read as a MATLAB file"),
        (hdf5(images=np.zeros((4, 3, 640, 480), np.uint8)), "lacks a variable"),
        (packed.nyud_labeled(3), "has 3 pictures; splits.mat names more"),
        (
            hdf5(
                images=np.zeros((4, 3, 640, 480), np.uint8),
                depths=np.ones((4, 640, 480)),
                labels=np.full((4, 640, 480), 895, np.uint16),
            ),
            "895",
        ),
    ],
)
def test_a_labelled_set_that_is_damaged(tmp_path, content, problem):
    with serving() as server:
        nyud = packed.served(NYUD, server, {**FILES, "nyu_depth_v2_labeled.mat": content})
        with pytest.raises(FullconvError) as caught:
            get_dataset(nyud, tmp_path / "nyud")
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "nyud").exists()
