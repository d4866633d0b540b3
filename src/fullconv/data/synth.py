"""Procedural street scenes with exact labels: the dataset that the demo trains on.

Every scene follows from (seed, split, index) alone. A scene is a little world in metres (a street
with its houses, cars, people, trees, poles and signs, under one sun), seen through a camera.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from fullconv import files
from fullconv.data.synth_canvas import (
    IGNORE,
    SUPERSAMPLING,
    Camera,
    Canvas,
    Kind,
    Light,
    Shadows,
    colour,
    vector,
)
from fullconv.data.synth_objects import (
    FOLIAGE,
    METALS,
    Car,
    Person,
    Pole,
    Thing,
    Tree,
    lamp_post,
    sign_post,
    traffic_light,
)
from fullconv.data.synth_scenery import (
    STREET_END,
    Building,
    Street,
    Surface,
    paint_ground,
    paint_sky,
    paint_skyline,
    pick,
)
from fullconv.errors import FullconvError

if TYPE_CHECKING:
    from fullconv.progress import Progress

CLASSES = tuple(kind.name.lower() for kind in Kind)
PALETTE = (
    (70, 130, 180),
    (92, 88, 98),
    (128, 64, 128),
    (232, 120, 200),
    (255, 255, 255),
    (107, 142, 35),
    (24, 40, 172),
    (220, 20, 60),
    (190, 190, 180),
    (240, 214, 0),
)
SPLITS = ("train", "val", "test")
SMALLEST_SIDE = 32


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
        folder: Made here; may exist if it is empty.
        train: How many scenes for training.
        val: How many for validation.
        test: How many for the test.
        size: Height and width in pixels.
        seed: Another seed, other scenes.
        bar: Advanced by one a scene.

    Raises:
        FullconvError: `folder` is in use, or a count or the size is out of range.
    """
    counts = dict(zip(SPLITS, (train, val, test), strict=True))
    _check(folder, counts, size)
    for split, count in counts.items():
        for index in range(count):
            image, labels = draw_scene(seed, split, index, size)
            name = f"street_{index:04d}.png"
            _save(folder / "images" / split / name, Image.fromarray(image))
            mask = Image.fromarray(labels)
            mask.putpalette(np.array(PALETTE, np.uint8).tobytes())
            _save(folder / "masks" / split / name, mask)
            if bar is not None:
                bar.advance()
    info = {
        "name": "synthetic streets",
        "classes": list(CLASSES),
        "palette": [list(rgb) for rgb in PALETTE],
        "ignore_index": IGNORE,
    }
    files.write_text(folder / "dataset.yaml", yaml.safe_dump(info, sort_keys=False))


def draw_scene(
    seed: int, split: str, index: int, size: tuple[int, int] = (160, 240)
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the image (H, W, 3) and the labels (H, W) of one scene, both uint8."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    light = _light(rng)
    street = _street(rng)
    camera = _camera(rng, size)
    canvas = Canvas(camera, light, rng)
    things = sorted(_furnish(rng, street), key=lambda thing: -thing.z)
    shadows = Shadows(camera, light)
    for thing in things:
        thing.cast(shadows)
    paint_sky(canvas, rng.uniform(0, 9))
    paint_skyline(canvas, rng)
    paint_ground(canvas, street, Surface.some(rng), shadows.sunlit(), shadows.exposed())
    for building in sorted(street.buildings, key=lambda building: -building.start):
        building.paint(canvas, street)
    for thing in things:
        thing.paint(canvas, float(street.sunlit(light, thing.x, 1.0, thing.z)))
    if rng.random() < 0.3:
        _paint_bonnet(canvas, rng)
    image, labels = _develop(canvas, rng), canvas.reduced_labels()
    if rng.random() < 0.5:  # where one drives on the left
        image, labels = image[:, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _check(folder: Path, counts: dict[str, int], size: tuple[int, int]) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FullconvError(f"{folder}: exists and is not an empty folder; name another one")
    for split, count in counts.items():
        if count < 0:
            raise FullconvError(f"{split}: {count} scenes cannot be made; give 0 or more")
    if counts["train"] == 0:
        raise FullconvError("train: a dataset needs at least one scene to learn from")
    if min(size) < SMALLEST_SIDE:
        raise FullconvError(
            f"size {size[0]}x{size[1]}: too small for a street; give at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )


def _save(path: Path, image: Image.Image) -> None:
    with files.replacing(path) as temporary:
        image.save(temporary, format="PNG", compress_level=4)


def _camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    return Camera(
        height,
        width,
        focal=width * rng.uniform(0.78, 0.98),
        horizon=height * rng.uniform(0.42, 0.53),
        centre=width * rng.uniform(0.36, 0.64),
        eye=rng.uniform(1.5, 2.3),
    )


def _light(rng: np.random.Generator) -> Light:
    """Choose the hour and the weather."""
    hour = rng.choice(["noon", "morning", "evening", "overcast", "dusk"], p=[0.3, 0.2, 0.2, 0.2, 0.1])
    low, high = {"noon": (42, 62), "morning": (22, 38), "evening": (10, 18)}.get(hour, (30, 60))
    sun, ambient, zenith, horizon = {
        "noon": ((255, 246, 230), (170, 184, 206), (62, 120, 200), (186, 212, 236)),
        "morning": ((255, 232, 200), (166, 176, 200), (92, 142, 204), (224, 226, 222)),
        "evening": ((255, 196, 128), (150, 152, 184), (84, 122, 184), (248, 208, 158)),
        "overcast": ((90, 92, 96), (206, 208, 212), (170, 176, 184), (206, 209, 212)),
        "dusk": ((20, 20, 26), (118, 124, 168), (52, 66, 124), (226, 158, 134)),
    }[hour]
    brightness = {"noon": 2.1, "morning": 2.0, "evening": 2.2}.get(hour, 1.0)
    elevation = np.radians(rng.uniform(low, high))
    up = np.sin(elevation)
    sideways = min(up * rng.uniform(0.25, 1.3), np.cos(elevation) * 0.98) * rng.choice([-1, 1])
    ahead = np.sqrt(max(1 - up * up - sideways * sideways, 0)) * rng.choice([-1, 1])
    return Light(
        vector(sideways, up, ahead),
        sun=colour(*sun) * np.float32(brightness),
        ambient=colour(*ambient) * np.float32(1.15),
        zenith=colour(*zenith),
        horizon=colour(*horizon),
        visibility=rng.uniform(90, 420),
        clouds=rng.uniform(0.0, 0.75) if hour != "overcast" else rng.uniform(0.8, 1.2),
        lamps=1.0 if hour == "dusk" else 0.0,
    )


def _street(rng: np.random.Generator) -> Street:
    """Plan the street: lanes, kerbs, crossings and the buildings on both sides."""
    lane = rng.uniform(3.0, 3.5)
    right = lane / 2 + rng.choice([0.5, 2.4])
    left = -1.5 * lane - rng.choice([0.5, 2.4])
    walls = left - rng.uniform(2.6, 4.6), right + rng.uniform(2.6, 4.6)
    lines = [(-lane / 2, 0.08, float(rng.choice([2.5, 3.0, 99.0])), 7.0)]
    lines += [(lane / 2 + 0.1, 0.07, 99.0, 7.0)] * int(rng.random() < 0.6)
    lines += [(-1.5 * lane - 0.1, 0.07, 99.0, 7.0)] * int(rng.random() < 0.6)
    crossings = ()
    if rng.random() < 0.5:
        start = rng.uniform(8, 24)
        crossings = ((start, start + 3.2),)
    openings: list[tuple[float, float, float]] = []
    buildings: list[Building] = []
    usual = rng.uniform(6, 15)
    for side, wall in zip((-1.0, 1.0), walls, strict=True):
        place = rng.uniform(-12, -4)
        while place < STREET_END:
            width = rng.uniform(8, 20)
            if place > 12 and rng.random() < 0.16:
                width = rng.uniform(9, 13)
                openings.append((side, place, place + width))
            else:
                height = max(usual * rng.uniform(0.6, 1.5), 4)
                setback = wall + side * rng.choice([0, 0, rng.uniform(0, 1.5)])
                buildings.append(Building.some(rng, setback, place, place + width, height))
            place += width
    return Street(left, right, walls, crossings, tuple(openings), tuple(lines), tuple(buildings))


def _furnish(rng: np.random.Generator, street: Street) -> list[Thing]:
    """Put trees, lamps, signs, cars and people where they belong."""
    things: list[Thing] = []
    for side, kerb, wall in ((-1, street.left, street.walls[0]), (1, street.right, street.walls[1])):
        edge = kerb + 0.55 * side
        things += _row_of_trees(rng, edge + 0.2 * side)
        things += _poles(rng, edge)
        things += _passers_by(rng, kerb + 0.9 * side, wall - 0.4 * side)
    for start, end in street.crossings:
        if rng.random() < 0.6:
            things += traffic_light(rng, street.right + 0.5, start - 0.6)
            things += traffic_light(rng, street.left - 0.5, end + 0.6)
        for _ in range(rng.integers(0, 4)):
            things.append(Person.some(rng, rng.uniform(street.left, street.right),
                                      rng.uniform(start + 0.3, end - 0.3)))  # fmt: skip
    return things + _cars(rng, street)


def _row_of_trees(rng: np.random.Generator, x: float) -> list[Thing]:
    if rng.random() < 0.35:
        return []
    leaf, gap = pick(rng, FOLIAGE), rng.uniform(7, 15)
    places = np.arange(rng.uniform(8, 22), STREET_END * 0.8, gap)
    kept = places[rng.random(len(places)) < 0.75]
    return [Tree.some(rng, x + rng.uniform(-0.2, 0.2), float(z), leaf) for z in kept]


def _poles(rng: np.random.Generator, x: float) -> list[Thing]:
    things: list[Thing] = []
    metal = pick(rng, METALS)
    if rng.random() < 0.75:
        for z in np.arange(rng.uniform(7, 20), 110, rng.uniform(14, 24)):
            things.append(lamp_post(rng, x, float(z), metal))
    if rng.random() < 0.3:
        start = rng.uniform(6, 20)
        for z in np.arange(start, start + rng.uniform(8, 25), 2.0):
            things.append(Pole(x, float(z), 0.95, 0.11, 0, metal))
    for _ in range(rng.integers(1, 4)):
        things += sign_post(rng, x, rng.uniform(7, 55))
    return things


def _passers_by(rng: np.random.Generator, first: float, second: float) -> list[Thing]:
    people: list[Thing] = []
    for _ in range(rng.integers(1, 7)):
        x, z = rng.uniform(min(first, second), max(first, second)), rng.uniform(5.5, 60)
        people.append(Person.some(rng, x, z))
        if rng.random() < 0.3:
            people.append(Person.some(rng, x + rng.uniform(0.5, 0.8), z + rng.uniform(-0.3, 0.3)))
    return people


def _cars(rng: np.random.Generator, street: Street) -> list[Thing]:
    """Park cars along the kerbs and send others down both lanes."""
    cars: list[Thing] = []
    lane = -street.lanes[0][0] * 2
    for kerb, edge, oncoming in ((street.left, -1.5 * lane, True), (street.right, lane / 2, False)):
        if abs(kerb - edge) > 2:
            place = rng.uniform(5.5, 12)
            while place < 100:
                if rng.random() < 0.6:
                    inward = -np.sign(kerb) * 1.1
                    cars.append(Car.some(rng, kerb + inward, place, oncoming))
                place += rng.uniform(5.6, 6.6)
    for x, first, oncoming in ((0.0, rng.uniform(9, 40), False), (-lane, rng.uniform(7, 50), True)):
        place = first
        while place < 110:
            cars.append(Car.some(rng, x + rng.uniform(-0.25, 0.25), place, oncoming))
            place += rng.uniform(9, 45)
    return cars


def _paint_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the edge of the camera's own car, which has no label."""
    width, height = canvas.camera.width, canvas.camera.height
    columns = np.linspace(-0.05, 1.05, 17)
    crest = height * (1 - rng.uniform(0.035, 0.075) * (1 - (2 * columns - 1) ** 4 * 0.55))
    top = np.stack([columns * width, crest], axis=1)
    outline = np.concatenate([top, [[width * 1.05, height + 2.0], [-width * 0.05, height + 2.0]]])
    patch = canvas.patch(outline.astype(np.float32))
    if patch is not None:
        _, rows = patch.pixels()
        deep = ((rows - crest.min()) / (height - crest.min()))[:, None]
        body = pick(rng, ((40, 42, 48), (150, 152, 156), (120, 36, 36), (40, 64, 110)))
        rgb = body * canvas.light.ambient + canvas.light.horizon * 0.35 * (1 - deep) ** 2
        canvas.paint(patch, rgb.astype(np.float32), IGNORE)


def _develop(canvas: Canvas, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn light into an 8-bit picture: exposure, vignette, film curve, sensor noise."""
    light: Any = canvas.reduced_rgb()
    height, width, _ = light.shape
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    vignette = 1 - np.float32(rng.uniform(0.05, 0.22)) * (rows**2 + columns**2) / 2
    light = light * (vignette * np.float32(rng.uniform(0.62, 0.78)))[..., None]
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    encoded = np.clip(film, 0, 1) ** np.float32(1 / 2.2)
    grain = rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(0.003, 0.014))
    return np.clip((encoded + grain) * 255 + 0.5, 0, 255).astype(np.uint8)
