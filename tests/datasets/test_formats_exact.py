"""What annotations say is found where it is, taken for what it is, or told: never mixed up."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from annotation_folders import coco, converted, labelme_source, save_image, save_json, shape, square

from fullconv.datasets.formats.classes import ClassSettings


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


def test_labels_of_cvat_are_not_called_as_their_attributes(source, tmp_path):
    save_image(source / "x.png", (6, 8))
    attribute = "<attribute><name>occlusion</name><values>no\nyes</values></attribute>"
    (source / "annotations.xml").write_text(
        "<annotations><meta><task><labels>"
        "<label><name>car</name><color>#ff0000</color><type>any</type>"
        f"<attributes>{attribute}</attributes></label>"
        "<label><name>road</name><color>#00ff00</color><attributes></attributes></label>"
        '</labels></task></meta><image id="0" name="x.png" width="8" height="6">'
        '<box label="car" xtl="1" ytl="1" xbr="3" ybr="3" z_order="0">'
        '<attribute name="occlusion">no</attribute></box></image></annotations>'
    )
    done, found = converted(source, tmp_path, classes=ClassSettings(background="ignore"))
    assert done.classes == ("car", "road")
    assert found["train/x"][1, 1] == 0
    info = yaml.safe_load((tmp_path / "out" / "dataset.yaml").read_text())
    assert info["palette"] == [[255, 0, 0], [0, 255, 0]]
