"""Procedural street scenes with exact labels: the dataset that the demo trains on.

Every scene follows from (seed, split, index) alone. A scene is a little world in metres (a street
with its houses, cars, people, trees, poles and signs, under one sun), seen through a camera.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from fullconv.base import files
from fullconv.base.errors import FullconvError
from fullconv.base.palette import palette_image
from fullconv.data.folder import SPLITS
from fullconv.data.info import IGNORE, DatasetInfo
from fullconv.demo.canvas import Canvas, Floats, Kind, Labels, Shadows
from fullconv.demo.choices import choose_camera, choose_light, choose_street, furnish
from fullconv.demo.scenery import paint_ground, paint_sky, paint_skyline, pick

if TYPE_CHECKING:
    from fullconv.base.progress import Progress

CLASSES = tuple(kind.name.lower() for kind in Kind)
PALETTE = (
    (70, 130, 180),
    (92, 88, 98),
    (128, 64, 128),
    (232, 120, 200),
    (250, 226, 178),
    (107, 142, 35),
    (24, 40, 172),
    (220, 20, 60),
    (190, 190, 180),
    (240, 214, 0),
)
SMALLEST_SIDE = 32
BONNETS = ((40, 42, 48), (150, 152, 156), (120, 36, 36), (40, 64, 110))


def write_synthetic(
    folder: Path,
    *,
    train: int = 64,
    val: int = 16,
    test: int = 16,
    size: tuple[int, int] = (160, 240),
    seed: int = 0,
    bar: Progress | None = None,
) -> None:
    """Write a dataset folder of procedural street scenes.

    dataset.yaml comes last, so that an interrupted folder is no dataset.

    Args:
        folder: made here; may exist if it is empty.
        train: how many scenes for training, at least 1.
        val: how many for validation.
        test: how many for the test.
        size: height and width in pixels, at least 32 each.
        seed: 0 or more; another seed, other scenes.
        bar: advanced by one a scene.

    Raises:
        FullconvError: `folder` is in use, or a number is out of range.
    """
    counts = dict(zip(SPLITS, (train, val, test), strict=True))
    _check(folder, counts, size, seed)
    for split, count in counts.items():
        for index in range(count):
            image, labels = draw_scene(seed, split, index, size)
            name = f"street_{index:04d}.png"
            _save(folder / "images" / split / name, Image.fromarray(image))
            _save(folder / "masks" / split / name, palette_image(labels, PALETTE, IGNORE))
            if bar is not None:
                bar.advance()
    info = DatasetInfo.plain("synthetic streets", CLASSES, PALETTE, ignore_index=IGNORE)
    text = yaml.safe_dump(info.to_dict(), sort_keys=False, default_flow_style=None)
    files.write_text(folder / "dataset.yaml", text)


def draw_scene(
    seed: int, split: str, index: int, size: tuple[int, int] = (160, 240)
) -> tuple[NDArray[np.uint8], Labels]:
    """Return the image (H, W, 3) and the labels (H, W) of one scene, both uint8."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    light, camera, street = choose_light(rng), choose_camera(rng, size), choose_street(rng)
    things, sunshine = furnish(rng, street), street.sunshine(light)
    shadows = Shadows(camera, light)
    for thing in things:
        thing.cast(shadows)
    canvas = Canvas(camera, light, rng)
    paint_sky(canvas, drift=rng.uniform(0, 9))
    paint_skyline(canvas, rng)
    paint_ground(canvas, street, sunshine, shadows)
    for building in sorted(street.buildings, key=lambda building: building.start):
        building.paint(canvas, sunshine)
    for thing in things:
        thing.paint(canvas, float(sunshine.reaches(thing.x, 1.0, thing.z)))
    if rng.random() < 0.3:
        _paint_bonnet(canvas, rng)
    image, labels = _develop(canvas.reduced_rgb(), rng), canvas.reduced_labels()
    if rng.random() < 0.5:  # where one drives on the left
        image, labels = image[:, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _check(folder: Path, counts: dict[str, int], size: tuple[int, int], seed: int) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FullconvError(f"{folder}: exists and is not an empty folder; name another one")
    for split, count in counts.items():
        least = 1 if split == "train" else 0
        if count < least:
            raise FullconvError(f"{split}: cannot make {count} scenes; give {least} or more")
    if min(size) < SMALLEST_SIDE:
        raise FullconvError(
            f"size {size[0]}x{size[1]}: too small for a street; give {SMALLEST_SIDE}x"
            f"{SMALLEST_SIDE} or more"
        )
    if seed < 0:
        raise FullconvError(f"seed {seed}: cannot be negative; give 0 or more")


def _save(path: Path, image: Image.Image) -> None:
    with files.replacing(path) as temporary:
        image.save(temporary, format="PNG", compress_level=1)


def _paint_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the edge of the camera's own car, which has no label."""
    width, height = canvas.camera.width, canvas.camera.height
    across = np.linspace(-1.1, 1.1, 17)
    crest = height * (1 - rng.uniform(0.035, 0.075) * (1 - 0.55 * across**4))
    top = np.stack([(across + 1) / 2 * width, crest], axis=1)
    patch = canvas.patch(np.concatenate([top, [[1.1 * width, height + 2], [-width, height + 2]]]))
    if patch is not None:
        _, rows = patch.pixels()
        shine = ((height - rows) / (height - crest.min()))[:, None] ** 2
        body, light = pick(rng, BONNETS), canvas.light
        canvas.paint(patch, body * light.ambient + np.float32(0.35) * shine * light.horizon, IGNORE)


def _develop(light: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn light (H, W, 3) into an 8-bit picture: vignette, exposure, film curve, sensor noise."""
    height, width, _ = light.shape
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    vignette = 1 - np.float32(rng.uniform(0.05, 0.22)) * (rows**2 + columns**2) / 2
    light = light * (vignette * np.float32(rng.uniform(0.62, 0.78)))[..., None]
    # Narkowicz's fit of the ACES film curve, which keeps bright skies and dark shade both readable
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    encoded = np.clip(film, 0, 1) ** np.float32(1 / 2.2)
    noise = rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(0.002, 0.009))
    picture: NDArray[np.uint8] = np.clip((encoded + noise) * 255 + 0.5, 0, 255).astype(np.uint8)
    return picture
