"""Five small datasets that have little in common, to try on them what was tuned on none.

    python -m benchmarks.datasets.unlike_sets --out runs/unlike

writes five dataset folders, and `contact.png` to look at, three images of each with their masks:

- street: fullconv's synthetic streets; ten classes, large surfaces to thin poles.
- cells: what a microscope shows, in grey; only 20 images are for training. Cells touch and
  overlap, some are out of focus, debris looks like small nuclei, the lamp lights unevenly.
- fields: farmland from above. Crops share their colours and differ in the texture of their rows;
  trees and vehicles are 4 to 10 pixels small and rare.
- defect: scratches and pits on brushed metal and on cloth, about 1% of the pixels; some images
  have none.
- vessels: the back of the eye; 20 images for training, larger than those of the others. Vessels
  branch until they are fainter than the ground's grain, most of them 2 to 4 pixels wide; bleedings
  and pale spots are none.

Every scene follows from (seed, split, index) alone. What is there already is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.frame import arguments
from fullconv.base import files
from fullconv.base.palette import default_palette
from fullconv.base.progress import Progress, Reporter
from fullconv.data.folder import SPLITS, DatasetFolder
from fullconv.data.info import DatasetInfo
from fullconv.demo.canvas import Floats, Labels, mix, noise_tile
from fullconv.demo.streets import CLASSES, PALETTE, draw_scene
from fullconv.predict.pictures import save_label_image
from fullconv.predict.scenes import photograph
from fullconv.report.contact import side_by_side
from fullconv.report.page import Example, Report, ReportedHead

Size = tuple[int, int]
Drawn = tuple[NDArray[np.uint8], Labels]
TURN = 2 * np.pi
FINE = 4  # thin lines are drawn so many times finer than the picture
SHADE = 0.6  # of the light reaches the ground beside what stands on it


@dataclass(frozen=True)
class SmallSet:
    """A dataset folder to be.

    Attributes:
        info: its dataset.yaml; its name is also the folder's.
        counts: how many images are in train, val and test.
        size: height and width of the images in pixels.
        draw: returns image (H, W, 3) and labels (H, W), uint8, of a seed, split, index and size.
    """

    info: DatasetInfo
    counts: tuple[int, int, int]
    size: Size
    draw: Callable[[int, str, int, Size], Drawn]

    def write(self, folder: Path, seed: int = 0, bar: Progress | None = None) -> None:
        """Write the dataset folder; dataset.yaml comes last, so that half of one is no dataset."""
        palette = self.info.palette
        assert palette is not None
        for split, count in zip(SPLITS, self.counts, strict=True):
            for index in range(count):
                image, labels = self.draw(seed, split, index, self.size)
                name = f"{self.info.name}_{index:04d}.png"
                with files.replacing(folder / "images" / split / name) as temporary:
                    Image.fromarray(image).save(temporary, "PNG")
                save_label_image(folder / "masks" / split / name, labels, palette)
                if bar is not None:
                    bar.advance()
        text = yaml.safe_dump(self.info.to_dict(), sort_keys=False, default_flow_style=None)
        files.write_text(folder / "dataset.yaml", text)


def unlike_sets() -> tuple[SmallSet, ...]:
    """Return the five sets as they are meant to be."""
    return (
        SmallSet(
            DatasetInfo.plain("street", CLASSES, PALETTE), (120, 30, 60), (160, 240), draw_scene
        ),
        SmallSet(_info("cells", Tissue.__members__), (20, 8, 40), (256, 256), _seeded(draw_cells)),
        SmallSet(_info("fields", Land.__members__), (60, 16, 32), (384, 384), _seeded(draw_fields)),
        SmallSet(
            _info("defect", ("sound", "defect")), (48, 16, 48), (320, 320), _seeded(draw_defect)
        ),
        SmallSet(
            _info("vessels", ("ground", "vessel")), (20, 6, 20), (584, 564), _seeded(draw_vessels)
        ),
    )


def main() -> None:
    """Write the sets that are not there yet, and the contact sheet."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/unlike"), help="gets a folder a set")
    out = parser.parse_args().out
    write_missing(out)
    sheet = contact_sheet([DatasetFolder(out / each.info.name) for each in unlike_sets()])
    with files.replacing(out / "contact.png") as temporary:
        sheet.save(temporary, "PNG")


def write_missing(out: Path) -> None:
    """Write each of the five sets as a folder in `out`, unless it is there."""
    for each in unlike_sets():
        folder = out / each.info.name
        if not (folder / "dataset.yaml").exists():
            with Reporter().bar(sum(each.counts), f"draw {each.info.name}") as bar:
                each.write(folder, bar=bar)


def contact_sheet(folders: list[DatasetFolder], rows: int = 3) -> Image.Image:
    """Show the first images of each dataset's train, and their masks beside them."""
    parts = [Image.fromarray(side_by_side(_pictures(folder, rows))) for folder in folders]
    size = sum(part.width for part in parts), max(part.height for part in parts)
    sheet, left = Image.new("RGB", size, "white"), 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width
    return sheet


def _pictures(folder: DatasetFolder, rows: int) -> Report:
    info, train = folder.info, folder.split("train")
    head = ReportedHead("labels", info.classes, info.palette or default_palette(len(info.classes)))
    scenes = []
    for index in range(min(rows, len(train))):
        name, image, (labels,) = train[index]
        scenes.append(Example(name, "", photograph(image, {"color": 3}), {head.name: labels}, ()))
    return Report(info.name, "", (head,), info.ignore_index, (), tuple(scenes), ())


def _info(name: str, classes: Iterable[str]) -> DatasetInfo:
    names = [each.lower() for each in classes]
    return DatasetInfo.plain(name, names, default_palette(len(names)))


def _seeded(
    draw: Callable[[np.random.Generator, Size], Drawn],
) -> Callable[[int, str, int, Size], Drawn]:
    """Let a scene follow from seed, split and index."""

    def drawn(seed: int, split: str, index: int, size: Size) -> Drawn:
        return draw(np.random.default_rng([seed, SPLITS.index(split), index]), size)

    return drawn


class Blob(NamedTuple):
    """A wobbly disc: the part of the picture around it, and there 1 in its middle, 0 at its rim."""

    window: tuple[slice, slice]
    depth: Floats

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Where in the window the disc is."""
        return self.depth > 0


def blob(
    rng: np.random.Generator, size: Size, centre: Any, radius: float, wobble: float = 0.25
) -> Blob:
    """Return a disc around `centre` (row, column), which may lie outside the picture."""
    reach = radius * (1 + 1.3 * wobble) + 1
    low = [min(max(int(at - reach), 0), side) for at, side in zip(centre, size, strict=True)]
    high = [max(min(int(at + reach) + 1, side), 0) for at, side in zip(centre, size, strict=True)]
    rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
    down, right = rows - centre[0], columns - centre[1]
    angle = np.arctan2(down, right)
    rim = np.full(angle.shape, radius)
    for k in range(2, 6):
        swing = radius * wobble / k * rng.uniform(-1, 1)
        rim += swing * np.sin(k * angle + rng.uniform(0, TURN))
    return Blob((slice(low[0], high[0]), slice(low[1], high[1])), 1 - np.hypot(down, right) / rim)


def noise(rng: np.random.Generator, size: Size, roughness: float) -> Floats:
    """Return 1/f^roughness noise (H, W), standard deviation 0.5: 0 is white, 3 one great slope."""
    return noise_tile(rng, max(size), roughness)[: size[0], : size[1]]


def _picture(light: Floats) -> NDArray[np.uint8]:
    """Return grey (H, W) or coloured (H, W, 3) light, 0..1, as an 8-bit colour picture."""
    encoded = (light * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return encoded if encoded.ndim == 3 else np.repeat(encoded[..., None], 3, axis=2)


def _somewhere(rng: np.random.Generator, size: Size) -> NDArray[np.float64]:
    """Return a random row and column."""
    return rng.uniform(0, size)


class Tissue(IntEnum):
    """The classes of "cells"."""

    BACKGROUND = 0
    CYTOPLASM = 1
    NUCLEUS = 2
    DEBRIS = 3


class Cell(NamedTuple):
    """Where a cell lies (row, column) and its radius, in pixels."""

    centre: NDArray[np.float64]
    radius: float


def draw_cells(rng: np.random.Generator, size: Size) -> Drawn:
    """Draw stained cells in transmitted light; what they swallow is added up in three depths."""
    labels = np.zeros(size, np.uint8)
    depths = np.zeros((3, *size))
    grain = noise(rng, size, 0.6)
    share, stain = size[0] * size[1] / 256**2, rng.uniform(0.6, 1.3)
    for cell in _crowd(rng, size, 1 + rng.poisson(rng.uniform(8, 34) * share)):
        _add_cell(rng, depths[rng.choice(3, p=(0.6, 0.25, 0.15))], labels, stain * grain, cell)
    for _ in range(1 + rng.poisson(13 * share)):
        speck = blob(rng, size, _somewhere(rng, size), rng.uniform(1.6, 6.5), 0.6)
        thick = rng.uniform(0.4, 1) * stain * (1 + grain[speck.window])
        depths[rng.choice(2, p=(0.8, 0.2))][speck.window] += thick * speck.inside
        labels[speck.window][speck.inside] = Tissue.DEBRIS
    for _ in range(rng.poisson(3 * share)):  # dust on the lens: dim rings, no class
        ring = blob(rng, size, _somewhere(rng, size), rng.uniform(6, 22), 0.03)
        depths[1][ring.window] += rng.uniform(0.05, 0.3) * np.exp(-((10 * ring.depth - 2) ** 2))
    blurs = rng.uniform((0.7, 1.8, 3.5), (1.3, 2.6, 5))
    swallowed = sum(ndimage.gaussian_filter(*each) for each in zip(depths, blurs, strict=True))
    lamp = 1 + 0.28 * noise(rng, size, 2.6) + 0.08 * noise(rng, size, 1.5)
    light = rng.uniform(0.55, 0.85) * lamp.clip(0.3, 1.7) * np.exp(-swallowed)
    photons = rng.uniform(80, 350)
    return _picture(rng.poisson(photons * light) / photons), labels


def _crowd(rng: np.random.Generator, size: Size, count: int) -> list[Cell]:
    """Place cells; every other one touches or overlaps one before it."""
    usual = rng.uniform(12, 20)
    placed: list[Cell] = []
    for _ in range(count):
        cell = Cell(_somewhere(rng, size), usual * rng.uniform(0.7, 1.4))
        if placed and rng.random() < 0.5:
            other, angle = placed[rng.integers(len(placed))], rng.uniform(0, TURN)
            away = (cell.radius + other.radius) * rng.uniform(0.75, 1)
            cell = cell._replace(
                centre=other.centre + away * np.array([np.sin(angle), np.cos(angle)])
            )
        placed.append(cell)
    return placed


def _add_cell(
    rng: np.random.Generator, swallows: Floats, labels: Labels, grain: Floats, cell: Cell
) -> None:
    """Add a cell: a granular body, thin at its rim, and a nucleus off its middle."""
    body = blob(rng, labels.shape, cell.centre, cell.radius, 0.45)
    thick = 0.45 + 0.55 * np.sqrt(body.depth.clip(0, 1))
    swallows[body.window] += rng.uniform(0.12, 0.5) * body.inside * thick * (1 + grain[body.window])
    ground = labels[body.window] == Tissue.BACKGROUND
    labels[body.window][body.inside & ground] = Tissue.CYTOPLASM
    aside = cell.centre + rng.uniform(-0.25, 0.25, 2) * cell.radius
    core = blob(rng, labels.shape, aside, cell.radius * rng.uniform(0.32, 0.52), 0.25)
    swallows[core.window] += rng.uniform(0.25, 0.7) * core.inside * (1 + 0.7 * grain[core.window])
    labels[core.window][core.inside] = Tissue.NUCLEUS


class Land(IntEnum):
    """The classes of "fields"; the first four are plots, told apart by their texture."""

    MEADOW = 0
    GRAIN = 1
    MAIZE = 2
    ORCHARD = 3
    ROAD = 4
    TREE = 5
    VEHICLE = 6


class Plot(NamedTuple):
    """A rectangle of land in turned coordinates, a road if it has a direction.

    Attributes:
        spans: low and high of the first and of the second coordinate.
        across: the coordinate that runs across a road; None: no road.
    """

    spans: tuple[tuple[float, float], ...]
    across: int | None = None


class Farmland:
    """Farmland as it is painted: colours and labels, and coordinates that follow its borders."""

    def __init__(self, rng: np.random.Generator, size: Size) -> None:
        """Start with rough grass all over."""
        self.rng, self.size = rng, size
        self.labels = np.full(size, Land.MEADOW, np.uint8)
        self.grain, self.patches = noise(rng, size, 0.4), noise(rng, size, 1.6)
        rows, columns = np.indices(size) - np.reshape(size, (2, 1, 1)) / 2
        angle = rng.uniform(0, TURN)
        bent = 0.03 * min(size) * np.stack([noise(rng, size, 2.5) for _ in range(2)])
        turned = np.cos(angle) * columns - np.sin(angle) * rows
        self.at = bent + np.stack((turned, np.sin(angle) * columns + np.cos(angle) * rows))
        cover = (0.6 + 0.4 * self.patches + 0.2 * self.grain).clip(0, 1)[..., None]
        self.rgb = mix(self.soil(), self.plants(), cover)
        self.shadow = rng.uniform(-4, 4, 2)

    def soil(self) -> Floats:
        """Return a colour of bare ground."""
        tint: Floats = self.rng.uniform((0.46, 0.38, 0.27), (0.6, 0.5, 0.4))
        return tint * self.rng.uniform(0.75, 1.2)

    def plants(self) -> Floats:
        """Return a colour of leaves, between fresh and ripe."""
        fresh, ripe = np.array((0.29, 0.4, 0.19)), np.array((0.66, 0.58, 0.33))
        tint: Floats = mix(fresh, ripe, self.rng.random() ** 1.5)
        return tint * self.rng.uniform(0.8, 1.2)

    def lay_out(self) -> None:
        """Divide the land into plots and roads, and paint them."""
        half = 0.75 * max(self.size)
        for plot in _divided(self.rng, ((-half, half), (-half, half))):
            margin = 0 if plot.across is not None else self.rng.choice((0, 0, 1.5))
            inside = np.ones(self.size, np.bool_)
            for at, (low, high) in zip(self.at, plot.spans, strict=True):
                inside &= (at >= low + margin) & (at < high - margin)
            if not inside.any():
                continue
            if plot.across is None:
                self._plant(inside)
            else:
                self._pave(inside, plot.across, *plot.spans[plot.across])

    def _plant(self, inside: NDArray[np.bool_]) -> None:
        """Paint one crop."""
        crop = Land(int(self.rng.integers(Land.ROAD)))
        first, second = self.at[:, inside] if self.rng.random() < 0.5 else self.at[::-1, inside]
        tilt = self.rng.normal(0, 0.05)
        rows = _rows(self.rng, crop, first + tilt * second, second, self.grain[inside])
        uneven = self.patches[inside] * self.rng.uniform(0.1, 0.4)
        depth = self.rng.uniform(0.2, 0.45)
        cover = self.rng.uniform(0.35, 0.75) + depth * rows + uneven + 0.15 * self.grain[inside]
        shade = (1 + 0.1 * rows)[:, None]
        self.rgb[inside] = shade * mix(self.soil(), self.plants(), cover.clip(0, 1)[:, None])
        self.labels[inside] = crop

    def _pave(self, inside: NDArray[np.bool_], across: int, low: float, high: float) -> None:
        """Paint a road of asphalt or of trodden earth, and the vehicles on it."""
        aside = (self.at[across] - (low + high) / 2) / (high - low)
        grey = np.full(3, self.rng.uniform(0.38, 0.6))
        tone = grey if self.rng.random() < 0.6 else self.soil()
        wheels = 1 + 0.08 * np.cos(2 * TURN * aside) + 0.08 * self.grain + 0.1 * self.patches
        self.rgb[inside] = (tone * wheels[..., None])[inside]
        self.labels[inside] = Land.ROAD
        lanes = inside & (np.abs(np.abs(aside) - 0.24) < 0.06)
        for row, column in self.spots(lanes, self.rng.poisson(inside.sum() / 1400)):
            self._park(row, column, across)

    def _park(self, row: int, column: int, across: int) -> None:
        """Paint a car or van along a road; wide and long in pixels."""
        wide, long = self.rng.uniform(3.6, 4.8), self.rng.uniform(6.5, 10)
        offsets = self.at - self.at[:, row, column][:, None, None]
        aside, ahead = offsets[across], offsets[1 - across] * self.rng.choice((-1, 1))
        body = (np.abs(aside) < wide / 2) & (np.abs(ahead) < long / 2)
        self.rgb[ndimage.shift(body, self.shadow / 2.5, order=0)] *= SHADE
        glass = body & (np.abs(ahead - long * 0.2) < 0.8)
        paint = self.rng.uniform(0.12, 0.95) + self.rng.normal(0, 0.07, 3)
        self.rgb[body], self.rgb[glass] = paint, (0.2, 0.22, 0.25)
        self.labels[body] = Land.VEHICLE

    def stand(self) -> None:
        """Paint what stands about: tractors, bales (which are no class) and trees."""
        share = self.size[0] * self.size[1] / 384**2
        fields, roads = self.labels <= Land.ORCHARD, self.labels == Land.ROAD
        for row, column in self.spots(fields, self.rng.poisson(1.5 * share)):
            self._park(row, column, int(self.rng.integers(2)))
        for spot in self.spots(fields, self.rng.poisson(7 * share)):
            bale = blob(self.rng, self.size, spot, self.rng.uniform(2, 3.2), 0.1)
            self._cast(bale, spot, 0.5)
            straw = np.array((0.75, 0.68, 0.48)) * self.rng.uniform(0.8, 1.15)
            self.rgb[bale.window][bale.inside] = straw
        verge = ndimage.binary_dilation(roads, iterations=7)
        verge &= ~ndimage.binary_dilation(roads, iterations=3)
        hedge = self.spots(verge, 1 + self.rng.poisson(verge.sum() / 350))
        for spot in (*hedge, *self.spots(fields, 1 + self.rng.poisson(8 * share))):
            self._grow(spot)

    def _grow(self, spot: tuple[int, int]) -> None:
        """Paint a tree or bush."""
        crown = blob(self.rng, self.size, spot, self.rng.uniform(2.2, 5.2), 0.3)
        self._cast(crown, spot, 1)
        lit = 0.75 + 0.4 * crown.depth.clip(0, 1) + 0.3 * self.grain[crown.window]
        leaves = self.plants() * self.rng.uniform(0.5, 0.95) * lit[..., None]
        self.rgb[crown.window][crown.inside] = leaves[crown.inside]
        self.labels[crown.window][crown.inside] = Land.TREE

    def _cast(self, thing: Blob, spot: tuple[int, int], length: float) -> None:
        """Darken the ground beside a thing."""
        radius = np.sqrt(thing.inside.sum() / np.pi)
        fallen = blob(self.rng, self.size, spot + length * self.shadow, radius, 0.1)
        self.rgb[fallen.window][fallen.inside] *= SHADE

    def spots(self, where: NDArray[np.bool_], count: int) -> list[tuple[int, int]]:
        """Return random places (row, column) where an array (H, W) is true."""
        places = np.argwhere(where)
        chosen = places[self.rng.integers(len(places), size=count if len(places) else 0)]
        return [(int(row), int(column)) for row, column in chosen]


def draw_fields(rng: np.random.Generator, size: Size) -> Drawn:
    """Draw farmland from above, under the shadows of clouds, in the haze of the day."""
    farm = Farmland(rng, size)
    farm.lay_out()
    farm.stand()
    clouds = 1 - rng.uniform(0, 0.4) * (2 * noise(rng, size, 2.4)).clip(0, 1)
    light = farm.rgb * (clouds * rng.uniform(0.75, 1.2))[..., None] * rng.normal(1, 0.025, 3)
    blur = rng.uniform(0.5, 0.85)
    seen = ndimage.gaussian_filter(light, (blur, blur, 0))
    seen = mix(seen, 0.7, rng.uniform(0, 0.25)) + rng.normal(0, rng.uniform(0.01, 0.03), seen.shape)
    return _picture(seen), farm.labels


def _divided(
    rng: np.random.Generator, spans: tuple[tuple[float, float], ...], cuts: int = 0
) -> list[Plot]:
    """Cut land in two, and its parts again, until they are plots; the first cuts are roads."""
    sides = [high - low for low, high in spans]
    longer = int(sides[1] > sides[0])
    if sides[longer] < rng.uniform(75, 150):
        return [Plot(spans)]
    low, high = spans[longer]
    middle = low + (high - low) * rng.uniform(0.35, 0.65)
    half = rng.uniform(4, 6.5) if cuts == 0 or (cuts < 4 and rng.random() < 0.5) else 0.0

    def part(start: float, end: float) -> tuple[tuple[float, float], ...]:
        return (*spans[:longer], (start, end), *spans[longer + 1 :])

    road = [Plot(part(middle - half, middle + half), longer)] if half else []
    sides_of_it = part(low, middle - half), part(middle + half, high)
    return road + [plot for each in sides_of_it for plot in _divided(rng, each, cuts + 1)]


def _rows(
    rng: np.random.Generator, crop: Land, across: Floats, along: Floats, grain: Floats
) -> Floats:
    """Return how a crop's plants stand, about -1 (soil) to 1 (leaves), at points of a plot (n,)."""

    def wave(at: Floats, period: float) -> Floats:
        swing: Floats = np.cos(at * (TURN / period) + rng.uniform(0, TURN))
        return swing

    if crop == Land.MEADOW:  # perhaps it was mown, or was a field once
        return 0.9 * grain + rng.uniform(0, 0.3) * wave(across, rng.uniform(3, 10))
    if crop == Land.GRAIN:
        tracks = np.mod(across, rng.uniform(20, 30)) < 1.7
        return np.where(tracks, -1.2, wave(across, rng.uniform(3.2, 4.5)))
    if crop == Land.MAIZE:
        return np.sign(wave(across, rng.uniform(6, 8.5)) + 0.8 * grain)
    period = rng.uniform(9, 13)
    crowns = wave(across, period) + wave(along, period * rng.uniform(0.9, 1.2))
    return np.sign(crowns - 0.4 + 0.6 * grain)


def draw_defect(rng: np.random.Generator, size: Size) -> Drawn:
    """Draw a sheet of brushed metal or a piece of cloth, four of five with scratches and pits."""
    surface = _brushed(rng, size) if rng.random() < 0.5 else _woven(rng, size)
    surface *= 1 + rng.uniform(0.1, 0.3) * noise(rng, size, 2)  # smudges, folds
    labels = np.zeros(size, np.uint8)
    budget = size[0] * size[1] * rng.uniform(0.003, 0.02) * (rng.random() < 0.8)
    while labels.sum() < budget:
        (_scratch if rng.random() < 0.4 else _pit)(rng, surface, labels)
    for _ in range(rng.poisson(size[0] * size[1] / 6000)):  # dust, which is no defect
        speck = blob(rng, size, _somewhere(rng, size), rng.uniform(0.8, 1.5))
        surface[speck.window][speck.inside] *= rng.uniform(0.75, 1.3)
    glare = 1 + rng.uniform(0.1, 0.35) * noise(rng, size, 3)
    blurred = ndimage.gaussian_filter(surface * glare, rng.uniform(0.4, 0.9))
    tint = rng.uniform(0.3, 0.6) * rng.normal(1, 0.06, 3)
    seen = blurred[..., None] * tint + rng.normal(0, rng.uniform(0.01, 0.03), (*size, 1))
    return _picture(seen + rng.normal(0, 0.006, seen.shape)), labels


def _brushed(rng: np.random.Generator, size: Size) -> Floats:
    """Return brushed metal, about 1: streaks in one direction, a few of them strong."""
    side = int(1.5 * max(size))
    white = rng.standard_normal((2, side, side))
    long, short = (
        ndimage.gaussian_filter1d(each, sigma, axis=1)
        for each, sigma in zip(white, (60, 9), strict=True)
    )
    streaks = long / long.std() + 0.7 * short / short.std()
    turned = ndimage.rotate(streaks, rng.uniform(0, 180), reshape=False, order=1, mode="reflect")
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    part = turned[top : top + size[0], left : left + size[1]]
    brushed: Floats = 1 + rng.uniform(0.03, 0.07) * np.sign(part) * np.abs(part) ** 1.4
    return brushed


def _woven(rng: np.random.Generator, size: Size) -> Floats:
    """Return cloth, about 1: threads over and under one another, some thicker than others."""
    angle, period = rng.uniform(0, TURN), rng.uniform(4, 7)
    rows, columns = np.indices(size)
    bent = [0.01 * max(size) * noise(rng, size, 2.6) for _ in range(2)]
    first = (np.cos(angle) * columns - np.sin(angle) * rows + bent[0]) / period
    second = (np.sin(angle) * columns + np.cos(angle) * rows + bent[1]) / period
    i, j = np.floor((first, second)).astype(int)
    over = (i + j) % 2 == 0
    shape = np.sin(TURN / 2 * np.where(over, first - i, second - j))
    threads = rng.normal(0, rng.uniform(0.02, 0.08), (2, 512))
    slubs = np.where(over, threads[0, i % 512], threads[1, j % 512])
    cloth: Floats = 0.8 + rng.uniform(0.12, 0.3) * shape + slubs + 0.05 * noise(rng, size, 0.3)
    return cloth


def _scratch(rng: np.random.Generator, surface: Floats, labels: Labels) -> None:
    """Add a thin bent line, bright or dark, faint in places."""
    steps = 24
    height, width = labels.shape
    bend = np.linspace(0, rng.uniform(-0.7, 0.7), steps)
    turns = rng.uniform(0, TURN) + bend + np.cumsum(rng.normal(0, 0.05, steps))
    step = min(height, width) * rng.uniform(0.08, 0.45) / steps
    column, row = np.cumsum([np.cos(turns), np.sin(turns)], axis=1) * step
    start = _somewhere(rng, labels.shape)
    points = zip(FINE * (column + start[1]), FINE * (row + start[0]), strict=True)
    drawing = Image.new("L", (width * FINE, height * FINE))
    thick = round(FINE * rng.uniform(1.6, 3.2))
    ImageDraw.Draw(drawing).line(list(points), fill=255, width=thick, joint="curve")
    covered = np.asarray(drawing.reduce(FINE), np.float64) / 255
    ridge = ndimage.shift(covered, rng.permutation((0, 1)), order=0)
    fading = (0.7 + 0.7 * noise(rng, labels.shape, 1.2)).clip(0.35, 1)
    contrast = rng.uniform(0.2, 0.55) * rng.choice((-1, 1))
    surface *= 1 + contrast * fading * (covered - 0.5 * ridge)
    labels[covered > 0.4] = 1


def _pit(rng: np.random.Generator, surface: Floats, labels: Labels) -> None:
    """Add a dent: dark, lit on the side away from the light."""
    centre, radius = _somewhere(rng, labels.shape), 2 + rng.gamma(2, 1.1)
    pit = blob(rng, labels.shape, centre, radius, 0.35)
    lit = blob(rng, labels.shape, centre + rng.uniform(-1, 1, 2) * radius / 2, radius, 0.2)
    surface[lit.window][lit.inside] *= 1 + rng.uniform(0, 0.12)
    depth = np.sqrt(pit.depth.clip(0, 1))
    surface[pit.window] *= 1 - rng.uniform(0.25, 0.65) * depth
    labels[pit.window][pit.inside] = 1


class Vessels:
    """Vessels as they are drawn: how much of each pixel they cover, and how dark they are there."""

    def __init__(self, rng: np.random.Generator, size: Size) -> None:
        """Start without any."""
        self.rng, self.size = rng, size
        self.covered, self.dark = (
            Image.new("L", (size[1] * FINE, size[0] * FINE)) for _ in range(2)
        )

    def grow(self, at: NDArray[np.float64], heading: float, width: float) -> None:
        """Draw a vessel from a place (row, column) on, and what branches off, till it is thin.

        Args:
            at: where it begins.
            heading: its direction in radians.
            width: its width there in pixels.
        """
        while width > 1.3:
            turns = heading + np.cumsum(self.rng.normal(0, 0.12, 8))
            step = min(self.size) * self.rng.uniform(0.005, 0.015)
            path = at + np.cumsum(np.stack((np.sin(turns), np.cos(turns)), axis=1) * step, axis=0)
            points = [(FINE * column, FINE * row) for row, column in (at, *path)]
            # Thin vessels swallow less light.
            shade = round(255 * min(0.2 + 0.09 * width, 0.9) * self.rng.uniform(0.7, 1))
            for drawing, fill in ((self.covered, 255), (self.dark, shade)):
                ImageDraw.Draw(drawing).line(points, fill, round(FINE * width), joint="curve")
            at, heading = path[-1], turns[-1]
            if self.rng.random() < 0.5:
                side = self.rng.choice((-1, 1)) * self.rng.uniform(0.4, 1.1)
                self.grow(at, heading + side, width * self.rng.uniform(0.45, 0.8))
            width *= self.rng.uniform(0.86, 0.97)


def draw_vessels(rng: np.random.Generator, size: Size) -> Drawn:
    """Draw the back of an eye through a round opening, lit unevenly."""
    middle, side = np.array(size) / 2, min(size)
    nerve = middle + side * np.array((rng.uniform(-0.08, 0.08), rng.choice((-0.3, 0.3))))
    vessels = Vessels(rng, size)
    for heading in TURN / 8 * (np.arange(8) + rng.uniform(-0.4, 0.4, 8)):
        vessels.grow(nerve, heading, rng.uniform(3.5, 7.5) * side / 564)  # as wide as on 564 pixels
    covered, dark = (
        np.asarray(each.reduce(FINE), np.float64) / 255 for each in (vessels.covered, vessels.dark)
    )
    ground = np.array((0.62, 0.32, 0.17)) * rng.normal(1, 0.08, 3)
    light = np.repeat(
        (1 + 0.06 * noise(rng, size, 0.9) + 0.25 * noise(rng, size, 2))[..., None], 3, 2
    )
    disc = blob(rng, size, nerve, side * rng.uniform(0.06, 0.09), 0.1)
    light[disc.window] *= 1 + rng.uniform(0.4, 0.9) * np.sqrt(disc.depth.clip(0, 1))[..., None]
    for _ in range(rng.poisson(30)):
        spot = blob(rng, size, _somewhere(rng, size), 1.5 + rng.gamma(1.5, 1.5), 0.4)
        light[spot.window][spot.inside] *= rng.choice(
            (rng.uniform(0.6, 0.85), rng.uniform(1.1, 1.3))
        )
    light *= 1 - dark[..., None] * rng.uniform((0.2, 0.5, 0.4), (0.35, 0.75, 0.6))
    blurred = ndimage.gaussian_filter(light, (*(rng.uniform(0.6, 1.1),) * 2, 0))
    lamp = (1 + 0.35 * noise(rng, size, 3)).clip(0.4, 1.6)[..., None]
    seen = ground * blurred * lamp + rng.normal(0, rng.uniform(0.01, 0.025), (*size, 3))
    rows, columns = np.indices(size) - np.reshape(middle, (2, 1, 1))
    open_ = np.hypot(rows, columns) < 0.48 * side
    return _picture(np.where(open_[..., None], seen, 0.02)), ((covered > 0.5) & open_).astype(
        np.uint8
    )


if __name__ == "__main__":
    main()
