"""What annotations say is found where it is, taken for what it is, or told: never mixed up."""

from __future__ import annotations

import numpy as np
import pytest
from annotation_folders import coco, converted, labelme_source, save_image, save_json, shape, square


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("where", [".", ".."])
@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_a_file_by_a_relative_path(source, tmp_path, monkeypatch, kind, where):
    if kind == "coco":
        save_image(source / "x.png", (6, 8))
        save_json(source / "x.json", coco([square(1, 1, 1, 2)]))
    else:
        labelme_source(source, [shape("car", "rectangle", [1, 1], [3, 3])])
    monkeypatch.chdir(source if where == "." else tmp_path)
    file = (source / "x.json").relative_to(source if where == "." else tmp_path)
    done, found = converted(file, tmp_path)
    assert done.counts == {"train": 1}
    assert np.argwhere(found["train/x"] == 1).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
