"""The drawing board of the synthetic streets: camera, light, and polygons that carry a label.

World coordinates are metres: x to the right, y up, z ahead; the camera stands at x = 0, z = 0.
Colours are linear (not gamma-encoded) RGB, float32, about 0..1. Pixels are those of the canvas,
which is `SUPERSAMPLING` times finer than the picture that comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating[Any]]  # float32 in fact, which numpy's types cannot follow
Labels = NDArray[np.uint8]
SUPERSAMPLING = 2
NEAREST = 0.5  # metres; nothing is drawn closer to the camera
SHADOWS_END = 75.0  # metres; farther shadows are too flat to be seen


class Kind(IntEnum):
    """The classes of the synthetic set, from background to foreground; the value is the label."""

    SKY = 0
    BUILDING = 1
    ROAD = 2
    PAVEMENT = 3
    MARKING = 4
    TREE = 5
    CAR = 6
    PERSON = 7
    POLE = 8
    SIGN = 9


def vector(*values: Any) -> Floats:
    """Return numbers, or rows of numbers, as a float32 array."""
    return np.array(values, np.float32)


def colour(red: int, green: int, blue: int) -> Floats:
    """Return an 8-bit sRGB colour as linear RGB."""
    linear: Floats = (vector(red, green, blue) / np.float32(255)) ** np.float32(2.2)
    return linear


def mix(first: Any, second: Any, share: Any) -> Any:
    """Blend from `first` (share 0) to `second` (share 1)."""
    return first + (second - first) * share


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera with a shifted lens, so that upright things stay upright.

    Attributes:
        height: rows of the canvas.
        width: columns of the canvas.
        focal: focal length in pixels.
        horizon: the row of the vanishing point.
        centre: the column of the vanishing point.
        eye: metres above the ground.
    """

    height: int
    width: int
    focal: float
    horizon: float
    centre: float
    eye: float

    def project(self, points: Floats) -> Floats:
        """Return the columns and rows, (n, 2), of world points (n, 3)."""
        scale = np.float32(self.focal) / np.maximum(points[:, 2:], np.float32(NEAREST))
        eye = vector(0, self.eye)
        return (points[:, :2] - eye) * scale * vector(1, -1) + vector(self.centre, self.horizon)


@dataclass(frozen=True)
class Light:
    """The sun, the sky and the air of one moment.

    Attributes:
        to_sun: unit vector from the ground towards the sun.
        sun: colour of direct sunlight.
        ambient: colour of the light from the whole sky.
        zenith: colour of the sky overhead.
        horizon: colour of the sky at the horizon, which is also the colour of distance.
        visibility: metres over which all but 1/e of a colour is lost in the haze.
        clouds: share of the sky under cloud, 0..1.
        lamps: brightness of lit windows and lamps, 0..1.
    """

    to_sun: Floats
    sun: Floats
    ambient: Floats
    zenith: Floats
    horizon: Floats
    visibility: float
    clouds: float
    lamps: float

    def on(self, normal: Floats, lit: Any = 1.0) -> Any:
        """Return the light that falls on a surface; `lit` is the share of sun that reaches it."""
        direct = max(float(normal @ self.to_sun), 0.0)
        open_sky = 0.72 + 0.28 * float(normal[1])
        return self.ambient * np.float32(open_sky) + self.sun * np.float32(direct) * lit

    def through_air(self, rgb: Any, distance: Any) -> Any:
        """Return a colour as seen through `distance` metres of haze."""
        return mix(rgb, self.horizon, 1 - np.exp(-np.float32(distance) / self.visibility))


class Shadows:
    """The shadows that things cast on the ground, drawn before the ground is painted."""

    def __init__(self, camera: Camera, light: Light) -> None:
        """Start with none."""
        self._camera = camera
        self._slide = -light.to_sun[[0, 2]] / max(float(light.to_sun[1]), 0.12)
        size = (camera.width, camera.height)
        self._sun, self._contact = Image.new("L", size), Image.new("L", size)
        self._draw_sun, self._draw_contact = map(ImageDraw.Draw, (self._sun, self._contact))

    def cast(self, footprint: Floats, low: float, high: float) -> None:
        """Add the shadow of an upright convex prism: footprint (n, 2) of x and z, low to high.

        It is the hull of the shadows of the prism's bottom and top.
        """
        if footprint[0, 1] < SHADOWS_END:
            ends = footprint + self._slide * low, footprint + self._slide * high
            self._draw_sun.polygon(_hull(self._seen(np.concatenate(ends))), fill=255)

    def cast_flat(self, rings: Floats, heights: Floats) -> None:
        """Add the shadows of level polygons (k, n, 2) of x and z that hang at heights (k,)."""
        if rings[0, 0, 1] < SHADOWS_END:
            ground = rings + self._slide * heights[:, None, None]
            corners = self._seen(ground.reshape(-1, 2)).reshape(len(rings), -1)
            for ring in corners.tolist():
                self._draw_sun.polygon(ring, fill=255)

    def touch(self, footprint: Floats) -> None:
        """Add the dim ground right under a thing, which even an overcast sky leaves dark."""
        if footprint[0, 1] < SHADOWS_END:
            self._draw_contact.polygon(self._seen(footprint).ravel().tolist(), fill=255)

    def sunlit(self) -> Floats:
        """Return the share of sunlight that things let through, (height, width), 0..1."""
        return 1 - np.asarray(self._sun, np.float32) / 255

    def exposed(self) -> Floats:
        """Return the share of skylight that things let through, (height, width), 0..1."""
        blurred = self._contact.reduce(2).resize(self._contact.size, Image.Resampling.BILINEAR)
        return 1 - np.asarray(blurred, np.float32) / 255

    def _seen(self, ground: Floats) -> Floats:
        """Return the columns and rows of points on the ground (n, 2) of x and z."""
        x, z = ground.T
        return self._camera.project(np.stack([x, np.zeros_like(x), z], axis=1))


class Patch(NamedTuple):
    """The part of the canvas that a polygon covers."""

    rows: slice
    columns: slice
    mask: NDArray[np.bool_]

    def pixels(self) -> tuple[Floats, Floats]:
        """Return the columns and rows of the covered pixels' centres, (n,) each."""
        rows, columns = np.nonzero(self.mask)
        return (
            (columns + (self.columns.start + 0.5)).astype(np.float32),
            (rows + (self.rows.start + 0.5)).astype(np.float32),
        )


class Canvas:
    """Colours and labels, painted together from far to near."""

    def __init__(self, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        """Start black, with random textures."""
        self.camera, self.light = camera, light
        side = 1 << int(np.ceil(np.log2(max(camera.width / 2, 64))))
        self._grain, self._clouds = noise_tile(rng, side, 0.7), noise_tile(rng, side, 1.7)
        self.rgb = np.zeros((camera.height, camera.width, 3), np.float32)
        self.labels = np.zeros((camera.height, camera.width), np.uint8)
        self._free = np.ones_like(self.labels, np.bool_)

    def grain(self, first: Any, second: Any) -> Any:
        """Return fine noise, about -1..1, at two coordinates in texture pixels."""
        return _repeating(self._grain, first, second)

    def clouds(self, first: Any, second: Any) -> Any:
        """Return billowing noise, about -1..1, at two coordinates in texture pixels."""
        return _repeating(self._clouds, first, second)

    def patch(self, corners: Floats) -> Patch | None:
        """Return what a polygon of corners (n, 2) in columns and rows covers, None if nothing."""
        points = corners.tolist()
        columns, rows = zip(*points, strict=True)
        left, top = max(int(min(columns)), 0), max(int(min(rows)), 0)
        right = min(int(max(columns)) + 2, self.camera.width)
        bottom = min(int(max(rows)) + 2, self.camera.height)
        if right <= left or bottom <= top:
            return None
        stencil = Image.new("L", (right - left, bottom - top))
        x0, y0 = left + 0.5, top + 0.5  # Pillow counts from the middle of the first pixel
        ImageDraw.Draw(stencil).polygon([(x - x0, y - y0) for x, y in points], fill=1)
        mask = np.asarray(stencil).view(np.bool_)
        if not mask.any():
            return None
        return Patch(slice(top, bottom), slice(left, right), mask)

    def claim(self, corners: Floats) -> Patch | None:
        """Return what a polygon covers of what no one has claimed so far, None if nothing.

        Large things that are dear to paint are thus painted from near to far, each pixel once.
        """
        patch = self.patch(corners)
        if patch is None:
            return None
        free = self._free[patch.rows, patch.columns]
        mask = patch.mask & free
        free[mask] = False
        return patch._replace(mask=mask) if mask.any() else None

    def paint(self, patch: Patch, rgb: Floats, kind: int) -> None:
        """Give a patch its colour, (3,) or (n, 3), and its label."""
        self.rgb[patch.rows, patch.columns][patch.mask] = rgb
        self.labels[patch.rows, patch.columns][patch.mask] = kind

    def face(
        self, points: Floats, albedo: Floats, normal: Floats, kind: int, lit: float = 1.0
    ) -> None:
        """Paint a flat polygon of world points (n, 3)."""
        self.glow(points, albedo * self.light.on(normal, lit), kind)

    def limb(self, points: Floats, albedo: Floats, kind: int, lit: float = 1.0) -> None:
        """Paint a polygon of world points at one depth, shaded as an upright cylinder is."""
        patch = self.patch(self.camera.project(points))
        if patch is None:
            return
        columns, _ = patch.pixels()
        first, last = columns.min(), columns.max()
        turn = (columns - (first + last) / 2) / (last - first + 1) * np.float32(2.2)
        facing = np.sin(turn) * self.light.to_sun[0] - np.cos(turn) * self.light.to_sun[2]
        direct = np.maximum(facing, 0)[:, None] * self.light.sun * np.float32(lit)
        rgb = albedo * (self.light.ambient * np.float32(0.72) + direct)
        self.paint(patch, self.light.through_air(rgb, float(points[0, 2])), kind)

    def glow(self, points: Floats, rgb: Floats, kind: int) -> None:
        """Paint a polygon of world points that shines by itself."""
        patch = self.patch(self.camera.project(points))
        if patch is not None:
            self.paint(patch, self.light.through_air(rgb, float(points[:, 2].mean())), kind)

    def reduced_rgb(self) -> Floats:
        """Return the colours at the picture's size, each the mean of its samples."""
        mean: Floats = sum(self._samples(self.rgb)) / np.float32(SUPERSAMPLING**2)
        return mean

    def reduced_labels(self) -> Labels:
        """Return the labels at the picture's size: of four samples the commonest.

        A tie goes to the higher label, that is to the foreground.
        """
        a, b, c, d = np.sort(self._samples(self.labels), axis=0)
        labels: Labels = np.where(c == d, d, np.where((a == b) | (b == c), b, d))
        return labels

    @staticmethod
    def _samples(fine: Any) -> list[Any]:
        """Return the four arrays of the picture's size that make up one of the canvas's."""
        return [fine[i::2, j::2] for i in (0, 1) for j in (0, 1)]


def noise_tile(rng: np.random.Generator, side: int, roughness: float) -> Floats:
    """Return a repeating (side, side) tile of 1/f^roughness noise, standard deviation 0.5."""
    white = np.fft.rfft2(rng.standard_normal((side, side), np.float32))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf
    tile: Floats = np.fft.irfft2(white / frequency**roughness, (side, side)).astype(np.float32)
    return tile * np.float32(0.5 / tile.std())


def _repeating(tile: Floats, first: Any, second: Any) -> Any:
    wrap = len(tile) - 1  # the side is a power of two
    return tile[first.astype(np.int32) & wrap, second.astype(np.int32) & wrap]


def _hull(points: Floats) -> list[tuple[float, float]]:
    """Return the convex hull of points (n, 2), by Andrew's monotone chain."""

    def chain(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
        hull: list[tuple[float, float]] = []
        for x, y in ordered:
            while len(hull) > 1:
                (ax, ay), (bx, by) = hull[-2:]
                if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                    break
                hull.pop()
            hull.append((x, y))
        return hull[:-1]

    ordered = sorted(map(tuple, points.tolist()))
    return chain(ordered) + chain(ordered[::-1])


def box(x: float, y: float, z: float, width: float, height: float) -> Floats:
    """Return an upright rectangle's corners (4, 3): bottom centre at (x, y), depth z."""
    half = width / 2
    return np.array(
        [(x - half, y, z), (x + half, y, z), (x + half, y + height, z), (x - half, y + height, z)],
        np.float32,
    )


def disc(x: float, y: float, z: float, radius: float, corners: int = 14) -> Floats:
    """Return an upright regular polygon's corners (n, 3) around (x, y) at depth z."""
    angles = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
    across, up = x + radius * np.sin(angles), y + radius * np.cos(angles)
    return np.stack([across, up, np.full(corners, z)], axis=1).astype(np.float32)
