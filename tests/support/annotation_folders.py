"""Folders of annotations that tests write, and what is converted of them."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from fullconv.base.images import ImageReader
from fullconv.datasets.convert import ConvertSettings, convert

LABELS = np.array([[0, 1, 2, 2], [255, 1, 1, 0]], np.uint8)
SIZE = LABELS.shape


def save_image(path, size=SIZE, colour=(1, 2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], colour).save(path)


def save_mask(path, labels=LABELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def converted(source, tmp_path, **settings):
    """Convert and return what it says, and the labels by SPLIT/NAME."""
    out = tmp_path / "out"
    done = convert(source, out, ConvertSettings(**settings))
    masks = {
        path.relative_to(out / "masks").with_suffix("").as_posix(): ImageReader().mask(path)
        for path in sorted((out / "masks").rglob("*.png"))
    }
    assert len(masks) == sum(done.counts.values())
    return done, masks


def coco(annotations, categories=("car", "road"), **image):
    numbered = [{"id": at + 1, "name": name} for at, name in enumerate(categories)]
    about = {"id": 7, "file_name": "x.png", "height": 6, "width": 8, **image}
    return {"images": [about], "annotations": annotations, "categories": numbered}


def square(category, x, y, side, **more):
    points = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"image_id": 7, "category_id": category, "segmentation": [points], **more}


def labelme_source(source, shapes, size=(20, 20), **more):
    save_image(source / "x.png", size)
    content = {"imagePath": "x.png", "imageHeight": 20, "imageWidth": 20, "shapes": shapes}
    save_json(source / "x.json", {"version": "6.3.1", "flags": {}, **content, **more})
    return source


def shape(label, kind, *points, **more):
    return {"label": label, "shape_type": kind, "points": points, **more}
