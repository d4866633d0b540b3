"""The things that stand or move in a synthetic street: trees, cars, people, poles and signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fullconv.demo.canvas import (
    Canvas,
    Floats,
    Kind,
    Shadows,
    box,
    colour,
    disc,
    mix,
    vector,
)
from fullconv.demo.scenery import TOWARDS_CAMERA, pick

PAINTS = (
    (178, 34, 38), (32, 60, 118), (228, 228, 226), (196, 198, 202), (96, 100, 106), (30, 32, 36),
    (54, 92, 72), (214, 170, 60), (120, 48, 52), (86, 134, 166), (216, 202, 172), (168, 84, 44),
)  # fmt: skip
CLOTHES = (
    (40, 44, 60), (170, 48, 44), (52, 84, 140), (212, 206, 196), (96, 96, 98), (60, 104, 72),
    (222, 178, 66), (30, 30, 32), (148, 92, 128), (132, 96, 66), (74, 138, 150), (226, 132, 84),
)  # fmt: skip
SKINS = ((236, 196, 168), (214, 164, 128), (168, 118, 84), (108, 74, 54))
HAIRS = ((34, 28, 26), (74, 50, 36), (150, 112, 66), (150, 148, 146), (112, 54, 32))
METALS = ((120, 124, 128), (70, 74, 78), (46, 70, 60), (186, 188, 188), (98, 92, 86))
CLOSE = 26.0  # metres; details of farther things would be smaller than a pixel


class Thing(Protocol):
    """Something that stands on the ground at depth `z` and x."""

    @property
    def x(self) -> float:
        """Metres to the right."""

    @property
    def z(self) -> float:
        """Depth in metres: things are painted from far to near."""

    def cast(self, shadows: Shadows) -> None:
        """Add its shadow on the ground."""

    def paint(self, canvas: Canvas, lit: float) -> None:
        """Paint it; `lit` is the share of sun that the buildings let through to it."""


@dataclass(frozen=True)
class Tree:
    """A trunk and a crown of round puffs of leaves.

    Attributes:
        x: metres to the right.
        z: depth.
        trunk: metres from the ground to the crown's middle.
        girth: width of the trunk in metres.
        puffs: centre (sideways, up from the ground) and radius of each puff, (n, 3).
        leaf: colour of the leaves.
        seed: where in the noise its leaves are found.
    """

    x: float
    z: float
    trunk: float
    girth: float
    puffs: Floats
    leaf: Floats
    seed: float

    @classmethod
    def some(cls, rng: np.random.Generator, x: float, z: float, leaf: Floats) -> Tree:
        """Return a tree of random shape: broad, tall or pointed."""
        broad, tall = rng.uniform(1.4, 2.3), rng.uniform(1.3, 2.4)
        trunk = 2.1 + tall + rng.uniform(0, 0.9)
        count = 15
        angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0.1, 1, count))
        aside, up = broad * reach * np.cos(angle) * 0.75, tall * reach * np.sin(angle) * 0.8
        radius = rng.uniform(0.34, 0.56, count) * broad
        if rng.random() < 0.2:  # a pointed one
            up = np.linspace(-tall, tall * 1.3, count)
            radius = np.linspace(0.62, 0.12, count) * broad
            aside = rng.normal(0, 0.05, count) * broad
        puffs = np.stack([aside, trunk + up, radius], axis=1).astype(np.float32)
        shade = leaf * np.float32(rng.uniform(0.85, 1.15))
        return cls(x, z, trunk, rng.uniform(0.2, 0.38), puffs, shade, rng.uniform(0, 256))

    def cast(self, shadows: Shadows) -> None:
        """Add the shadows of the trunk and of every puff."""
        shadows.cast(_square(self.x, self.z, self.girth), 0, self.trunk)
        shadows.touch(_square(self.x, self.z, self.girth * 3))
        ring = disc(0, 0, 0, 1.1, 9)[:, :2]
        middles = np.stack([self.puffs[:, 0] + self.x, np.full(len(self.puffs), self.z)], axis=1)
        rings = ring * self.puffs[:, 2, None, None] + middles[:, None].astype(np.float32)
        shadows.cast_flat(rings, self.puffs[:, 1])

    def paint(self, canvas: Canvas, lit: float) -> None:
        """Paint the trunk, then the crown."""
        bark = mix(colour(84, 66, 50), colour(120, 112, 100), self.seed / 256)
        half, top = self.girth / 2, self.girth / 3.2
        stem = [(-half * 1.3, 0), (half * 1.3, 0), (half, 0.5), (top, self.trunk),
                (-top, self.trunk), (-half, 0.5)]  # fmt: skip
        points = vector(*[(self.x + aside, up, self.z) for aside, up in stem])
        canvas.limb(points, bark, Kind.TREE, 0.7 * lit)
        self._paint_crown(canvas, lit)

    def _paint_crown(self, canvas: Canvas, lit: float) -> None:
        camera, light = canvas.camera, canvas.light
        middle, reach = self.puffs[:, :2], self.puffs[:, 2:] * 1.2
        left, low = (middle - reach).min(axis=0).tolist()
        right, high = (middle + reach).max(axis=0).tolist()
        height = high - low
        frame = box(self.x + (left + right) / 2, low, self.z, right - left, height)
        patch = canvas.patch(camera.project(frame))
        if patch is None:
            return
        rows = np.arange(patch.rows.start, patch.rows.stop, dtype=np.float32)[:, None] + 0.5
        columns = np.arange(patch.columns.start, patch.columns.stop, dtype=np.float32)[None] + 0.5
        metre = np.float32(self.z / camera.focal)
        aside = (columns - np.float32(camera.centre)) * metre - np.float32(self.x)
        up = np.float32(camera.eye) - (rows - np.float32(camera.horizon)) * metre
        bulge, glance = self._bulge(aside, up, light.to_sun)
        leaves = canvas.grain(up * 11 + self.seed, aside * 11 + self.seed)
        mask = bulge + 0.40 * leaves > 0.16
        direct = np.maximum(glance, 0) * np.float32(lit)
        ambient = 0.40 + 0.35 * np.clip((up - low) / height, 0, 1)
        fall = ambient[..., None] * light.ambient + direct[..., None] * light.sun
        rgb = self.leaf * (1 + 0.42 * leaves)[..., None] * fall
        rgb = light.through_air(rgb, self.z)
        canvas.paint(patch._replace(mask=mask), rgb[mask], Kind.TREE)

    def _bulge(self, aside: Floats, up: Floats, to_sun: Floats) -> tuple[Any, Any]:
        """Return how far each point is inside the puff it shows, and how that faces the sun."""
        best = np.full((len(up), aside.shape[1]), -1, np.float32)
        glance = np.zeros_like(best)
        for middle, height, radius in self.puffs:
            right, top = (aside - middle) / radius, (up - height) / radius
            inside = 1 - right * right - top * top
            nearer = inside > best
            best = np.where(nearer, inside, best)
            facing = right * to_sun[0] + top * to_sun[1] - np.float32(0.5) * to_sun[2]
            glance = np.where(nearer, facing, glance)
        return best, glance


def _square(x: float, z: float, width: float) -> Floats:
    half = width / 2
    return vector((x - half, z - half), (x + half, z - half), (x + half, z + half),
                  (x - half, z + half))  # fmt: skip


# Side views of cars: share of the length from the tail, share of the height.
HATCHBACK = vector(
    (0, 0.2), (0, 0.58), (0.02, 0.66), (0.09, 0.94), (0.16, 1), (0.52, 1), (0.70, 0.65),
    (0.96, 0.55), (1, 0.44), (1, 0.2),
)  # fmt: skip
SEDAN = vector(
    (0, 0.2), (0, 0.56), (0.02, 0.66), (0.17, 0.69), (0.31, 0.97), (0.38, 1), (0.55, 1),
    (0.72, 0.65), (0.97, 0.55), (1, 0.44), (1, 0.2),
)  # fmt: skip
VAN = vector(
    (0, 0.15), (0, 0.60), (0.01, 0.64), (0.03, 0.96), (0.06, 1), (0.72, 1), (0.86, 0.62),
    (0.98, 0.50), (1, 0.42), (1, 0.15),
)  # fmt: skip
WAIST = 0.64  # share of the height where the windows begin


@dataclass(frozen=True)
class Car:
    """A car that stands along the street.

    Attributes:
        x: its middle.
        z: the end nearer to the camera.
        oncoming: whether it shows its front.
        size: length, width and height in metres.
        profile: its side view, one of those above.
        body: colour of the paint.
    """

    x: float
    z: float
    oncoming: bool
    size: tuple[float, float, float]
    profile: Floats
    body: Floats

    @classmethod
    def some(cls, rng: np.random.Generator, x: float, z: float, oncoming: bool) -> Car:
        """Return a car of random make and colour."""
        paint = pick(rng, PAINTS)
        model = rng.random()
        if model < 0.15:
            size = (rng.uniform(4.6, 5.4), 1.95, rng.uniform(2.0, 2.4))
            return cls(x, z, oncoming, size, VAN, paint)
        if model < 0.55:
            size = (rng.uniform(4.4, 4.8), 1.82, rng.uniform(1.42, 1.5))
            return cls(x, z, oncoming, size, SEDAN, paint)
        size = (rng.uniform(3.8, 4.4), 1.78, rng.uniform(1.45, 1.72))
        return cls(x, z, oncoming, size, HATCHBACK, paint)

    def cast(self, shadows: Shadows) -> None:
        """Add the shadow of the body and the dark beneath it."""
        length, width, height = self.size
        half = width / 2
        foot = [(self.x - half, self.z), (self.x + half, self.z)]
        foot += [(self.x + half, self.z + length), (self.x - half, self.z + length)]
        shadows.cast(vector(*foot), 0.2, height * WAIST)
        middle = vector(self.x, self.z + length * 0.5)
        shadows.cast((vector(*foot) - middle) * vector(0.8, 0.55) + middle, height * WAIST, height)
        shadows.touch(vector(*foot))

    def paint(self, canvas: Canvas, lit: float) -> None:
        """Paint wheels, hull, windows, then lights and plate."""
        if self.z < CLOSE:
            self._paint_far_wheels(canvas, lit)
        self._paint_hull(canvas, lit)
        if abs(self.x) > self.size[1] / 2:
            self._paint_side(canvas, lit)
        self._paint_end(canvas, lit)

    @property
    def _near_side(self) -> float:
        return -1.0 if self.x > 0 else 1.0

    def _solid(self, outline: Floats, side: float) -> Floats:
        """Return world points of side-view points; the cabin is narrower than the body."""
        length, width, height = self.size
        along = outline[:, 0] if not self.oncoming else 1 - outline[:, 0]
        inset = np.clip((outline[:, 1] - WAIST) / (1 - WAIST), 0, 1) * (0.13 * width)
        x = self.x + side * (width / 2 - inset)
        return np.stack([x, outline[:, 1] * height, self.z + along * length], axis=1)

    def _paint_hull(self, canvas: Canvas, lit: float) -> None:
        """Sweep the profile across the width, strip by strip from far to near."""
        left, right = self._solid(self.profile, -1), self._solid(self.profile, 1)
        strips = range(len(self.profile) - 1)
        eye = vector(0, canvas.camera.eye, 0)
        glass = colour(34, 42, 50) + canvas.light.horizon * np.float32(0.10)
        for i in sorted(strips, key=lambda i: -float(left[i, 2] + left[i + 1, 2])):
            quad = np.stack([left[i], right[i], right[i + 1], left[i + 1]])
            step = left[i + 1] - left[i]
            normal = vector(0, step[2], -step[1]) / max(float(np.hypot(step[1], step[2])), 1e-6)
            normal = -normal if self.oncoming else normal
            if float(normal @ (eye - quad.mean(axis=0))) <= 0:
                continue
            canvas.face(quad, self.body, normal, Kind.CAR, lit)
            rises = self.profile[[i, i + 1], 1]
            if rises.min() < WAIST + 0.07 and rises.max() > 0.9:
                middle = quad.mean(axis=0)
                canvas.face((quad - middle) * vector(0.86, 0.8, 0.8) + middle, glass, normal,
                            Kind.CAR, lit)  # fmt: skip

    def _paint_side(self, canvas: Canvas, lit: float) -> None:
        side = self._near_side
        normal = vector(side, 0, 0)
        canvas.face(self._solid(self.profile, side), self.body, normal, Kind.CAR, lit)
        for place in (0.19, 0.80) if self.z < 2 * CLOSE else ():
            hub = vector(self.x + side * self.size[1] / 2, 0.31, self.z + self.size[0] * place)
            for radius, shade in ((0.33, colour(34, 34, 36)), (0.19, colour(150, 152, 156))):
                tyre = hub + disc(0, 0, 0, radius, 12)[:, [2, 1, 0]]
                canvas.face(tyre, shade, normal, Kind.CAR, lit)
        roof = self.profile[self.profile[:, 1] > 0.9]
        rear, front = float(roof[:, 0].min()), float(roof[:, 0].max())
        pillar = (rear + front) / 2 + 0.03
        glass = colour(30, 38, 46) + canvas.light.horizon * np.float32(0.07)
        rear_pane = (rear - 0.06, 0.68), (rear + 0.01, 0.93), (pillar, 0.93), (pillar, 0.68)
        pillar += 0.025
        front_pane = (pillar, 0.68), (pillar, 0.93), (front, 0.93), (front + 0.13, 0.68)
        for pane in (rear_pane, front_pane):
            canvas.face(self._solid(vector(*pane), side), glass, normal, Kind.CAR, lit)

    def _paint_far_wheels(self, canvas: Canvas, lit: float) -> None:
        """Paint the wheels of the other side, of which little shows below the body."""
        for place in (0.19, 0.80):
            x = self.x - self._near_side * (self.size[1] / 2 - 0.1)
            wheel = box(x, 0, self.z + self.size[0] * place, 0.2, 0.5)
            canvas.face(wheel, colour(36, 36, 38), TOWARDS_CAMERA, Kind.CAR, lit)

    def _paint_end(self, canvas: Canvas, lit: float) -> None:
        """Paint bumper, lights and number plate on the end that faces the camera."""
        _, width, height = self.size
        z, light = self.z, canvas.light
        canvas.face(box(self.x, 0.18 * height, z, width, 0.12 * height),
                    self.body * np.float32(0.35), TOWARDS_CAMERA, Kind.CAR, lit)  # fmt: skip
        if z > 2 * CLOSE:
            return
        lamp = colour(250, 246, 226) if self.oncoming else colour(196, 26, 24)
        shine = lamp * np.float32(0.45 + light.lamps)
        for side in (-1, 1):
            x = self.x + side * width * 0.40
            canvas.glow(box(x, 0.43 * height, z, 0.16 * width, 0.10 * height), shine, Kind.CAR)
        if z > CLOSE:
            return
        if self.oncoming:
            grille = box(self.x, 0.30 * height, z, 0.5 * width, 0.12 * height)
            canvas.face(grille, colour(30, 30, 32), TOWARDS_CAMERA, Kind.CAR, lit)
        plate = box(self.x, 0.33 * height, z, 0.5, 0.12)
        canvas.face(plate, colour(228, 226, 216), TOWARDS_CAMERA, Kind.CAR, lit)


@dataclass(frozen=True)
class Person:
    """Someone who walks or stands.

    Attributes:
        x: metres to the right.
        z: depth.
        height: metres.
        stride: how far apart the feet are, as a share of the height; may be negative.
        coat: how far down the coat reaches, as a share of the height.
        looks: colours of coat, trousers, skin and hair, (4, 3).
    """

    x: float
    z: float
    height: float
    stride: float
    coat: float
    looks: Floats

    @classmethod
    def some(cls, rng: np.random.Generator, x: float, z: float) -> Person:
        """Return a grown-up, or now and then a child."""
        height = rng.uniform(1.1, 1.4) if rng.random() < 0.12 else rng.uniform(1.58, 1.88)
        looks = [pick(rng, which) for which in (CLOTHES, CLOTHES, SKINS, HAIRS)]
        coat = rng.choice([0.48, 0.44, 0.30], p=[0.5, 0.3, 0.2])
        return cls(x, z, height, rng.uniform(-0.16, 0.16), float(coat), np.stack(looks))

    def cast(self, shadows: Shadows) -> None:
        """Add the shadows of the legs and of the upper body."""
        shadows.cast(_square(self.x, self.z, 0.2), 0, self.height * 0.5)
        shadows.cast(_square(self.x, self.z, 0.36), self.height * 0.45, self.height)
        shadows.touch(_square(self.x, self.z, 0.55))

    def paint(self, canvas: Canvas, lit: float) -> None:
        """Paint legs, arms, body and head."""
        coat, _, skin, hair = self.looks
        for side in (-1, 1):
            self._paint_limbs(canvas, side, lit)
        hem = 0.09 + 0.4 * max(0.46 - self.coat, 0)
        torso = [(-0.035, 0.87), (0.035, 0.87), (0.11, 0.80), (0.085, 0.6), (hem, self.coat),
                 (-hem, self.coat), (-0.085, 0.6), (-0.11, 0.80)]  # fmt: skip
        canvas.limb(self._points(torso), coat, Kind.PERSON, lit)
        self._paint_head(canvas, skin, hair, lit)

    def _paint_limbs(self, canvas: Canvas, side: int, lit: float) -> None:
        """Paint the leg, the shoe and the arm of one side."""
        coat, trousers, _, _ = self.looks
        hip, foot = 0.042 * side, self.stride * side
        leg = [(hip - 0.045, 0.5), (hip + 0.045, 0.5), (hip + foot + 0.03, 0.0),
               (hip + foot - 0.03, 0.0)]  # fmt: skip
        canvas.limb(self._points(leg), trousers * np.float32(0.9 + 0.1 * side), Kind.PERSON, lit)
        if self.z > CLOSE:
            return
        shoe = [(hip + foot - 0.035, 0.03), (hip + foot + 0.05, 0.03), (hip + foot + 0.05, 0),
                (hip + foot - 0.035, 0)]  # fmt: skip
        canvas.limb(self._points(shoe), colour(44, 40, 38), Kind.PERSON, lit)
        hand = 0.105 * side - foot * 0.5
        arm = [(0.085 * side, 0.81), (0.135 * side, 0.78), (hand + 0.04 * side, 0.46),
               (hand, 0.45)]  # fmt: skip
        canvas.limb(self._points(arm), coat * np.float32(0.85), Kind.PERSON, lit)

    def _paint_head(self, canvas: Canvas, skin: Floats, hair: Floats, lit: float) -> None:
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        head = [(0.046 * np.sin(a), 0.928 + 0.066 * np.cos(a)) for a in angles]
        canvas.limb(self._points(head), skin, Kind.PERSON, lit)
        if self.z > CLOSE:
            return
        cap = [(0.052 * np.sin(a), 0.938 + 0.062 * np.cos(a)) for a in np.linspace(-1.8, 1.8, 9)]
        canvas.limb(self._points(cap), hair, Kind.PERSON, lit)

    def _points(self, outline: list[tuple[float, float]]) -> Floats:
        tall = self.height
        return vector(*[(self.x + a * tall, b * tall, self.z) for a, b in outline])


@dataclass(frozen=True)
class Pole:
    """A lamp post, a bollard, or the post of a sign or traffic light.

    Attributes:
        x: metres to the right.
        z: depth.
        height: metres.
        width: metres across.
        arm: how far a lamp reaches over the road, signed; 0 for none.
        metal: colour.
    """

    x: float
    z: float
    height: float
    width: float
    arm: float
    metal: Floats

    def cast(self, shadows: Shadows) -> None:
        """Add the post's shadow."""
        shadows.cast(_square(self.x, self.z, self.width), 0, self.height)
        shadows.touch(_square(self.x, self.z, self.width * 2.5))

    def paint(self, canvas: Canvas, lit: float) -> None:
        """Paint the post, its foot, and the lamp if it has one."""
        half, x, z, top = self.width / 2, self.x, self.z, self.height
        foot = min(0.9, top * 0.2)
        right = vector((1.4, 0), (1.4, foot), (1, foot), (0.8, top)) * vector(half, 1)
        outline = np.concatenate([right, right[::-1] * vector(-1, 1)])
        post = np.insert(outline + vector(x, 0), 2, z, axis=1)
        canvas.limb(post, self.metal, Kind.POLE, lit)
        if not self.arm:
            return
        end = x + self.arm
        beam = vector((x, top - 0.1, z), (x, top, z), (end, top + 0.32, z), (end, top + 0.24, z))
        canvas.face(beam, self.metal, TOWARDS_CAMERA, Kind.POLE, lit)
        head = box(end, top + 0.16, z, 0.62, 0.16)
        canvas.face(head, self.metal, TOWARDS_CAMERA, Kind.POLE, lit)
        if canvas.light.lamps > 0.5:
            canvas.glow(box(end, top + 0.12, z, 0.5, 0.07), colour(255, 226, 160) * 2, Kind.POLE)


# Layers of a sign from back to front: colour, corners of the polygon (0 a bar), share of the size.
SignPart = tuple[tuple[int, int, int], int, float]
RED, WHITE, BLUE, BLACK = (190, 32, 36), (236, 236, 232), (32, 84, 168), (36, 36, 38)
SIGNS: tuple[tuple[SignPart, ...], ...] = (
    ((WHITE, 8, 1.0), (RED, 8, 0.9), (WHITE, 0, 0.6)),
    ((RED, 16, 1.0), (WHITE, 16, 0.74), (BLACK, 0, 0.5)),
    ((RED, 3, 1.0), (WHITE, 3, 0.62)),
    ((RED, 16, 1.0), (WHITE, 0, 0.7)),
    ((BLUE, 4, 1.0), (WHITE, 3, 0.62)),
    ((WHITE, 16, 1.0), (BLUE, 16, 0.92), (WHITE, 0, 0.45)),
    ((WHITE, 4, 1.0), ((232, 186, 40), 4, 0.86)),
    ((WHITE, 4, 1.0), (BLUE, 4, 0.88), (WHITE, 0, 0.5)),
)


@dataclass(frozen=True)
class Sign:
    """A traffic sign's plate on a post.

    Attributes:
        x: metres to the right.
        z: depth.
        up: height of its middle.
        radius: half its size in metres.
        layers: one of the signs above.
    """

    x: float
    z: float
    up: float
    radius: float
    layers: tuple[SignPart, ...]

    def cast(self, shadows: Shadows) -> None:
        """Add the plate's shadow."""
        plate = disc(self.x, self.z, 0, self.radius, 4)[:, :2]
        shadows.cast((plate - (self.x, self.z)) * vector(1, 0.05) + vector(self.x, self.z),
                     self.up - self.radius, self.up + self.radius)  # fmt: skip

    def paint(self, canvas: Canvas, lit: float) -> None:
        """Paint the plate's layers."""
        bright = max(lit, 0.5)
        for shade, corners, share in self.layers:
            size = self.radius * share
            if corners:
                points = disc(self.x, self.up, self.z, size, corners)
            else:
                points = box(self.x, self.up - size * 0.2, self.z, size * 1.7, size * 0.4)
            canvas.face(points, colour(*shade), TOWARDS_CAMERA, Kind.SIGN, bright)


@dataclass(frozen=True)
class TrafficLight:
    """A traffic light's head on a post; counted among the signs.

    Attributes:
        x: metres to the right.
        z: depth.
        up: height of its lower edge.
        green: whether one may go.
    """

    x: float
    z: float
    up: float
    green: bool

    def cast(self, shadows: Shadows) -> None:
        """Add the head's shadow."""
        shadows.cast(_square(self.x, self.z, 0.3), self.up, self.up + 0.95)

    def paint(self, canvas: Canvas, lit: float) -> None:
        """Paint the head and its three lights."""
        x, z = self.x, self.z
        canvas.face(box(x, self.up, z, 0.44, 1.0), colour(40, 42, 42), TOWARDS_CAMERA, Kind.SIGN,
                    lit)  # fmt: skip
        bulbs = ((255, 60, 44), not self.green), ((90, 70, 24), False), ((70, 240, 150), self.green)
        for i, (bulb, shines) in enumerate(bulbs):
            shade = colour(*bulb) * np.float32(1.6 if shines else 0.07)
            canvas.glow(disc(x, self.up + 0.82 - 0.32 * i, z, 0.14, 8), shade, Kind.SIGN)


def sign_post(rng: np.random.Generator, x: float, z: float) -> tuple[Thing, ...]:
    """Return a post with one or two plates on it."""
    up, radius = rng.uniform(2.1, 2.6), rng.uniform(0.40, 0.54)
    layers = SIGNS[rng.integers(len(SIGNS))]
    post = Pole(x, z, up + radius * 0.6, 0.07, 0, pick(rng, METALS))
    plate = Sign(x, z - 0.05, up, radius, layers)
    if rng.random() < 0.25:
        return post, plate, Sign(x, z - 0.05, up - radius * 2, radius * 0.8, SIGNS[4])
    return post, plate


def traffic_light(rng: np.random.Generator, x: float, z: float) -> tuple[Thing, ...]:
    """Return a post with a traffic light."""
    post = Pole(x, z, 3.4, 0.11, 0, pick(rng, METALS))
    return post, TrafficLight(x, z - 0.1, 2.4, bool(rng.random() < 0.5))


def lamp_post(rng: np.random.Generator, x: float, z: float, metal: Floats) -> Pole:
    """Return a street lamp whose arm reaches over the road."""
    arm = -float(np.sign(x)) * rng.uniform(1.0, 1.8)
    return Pole(x, z, rng.uniform(5.2, 7.5), rng.uniform(0.10, 0.13), arm, metal)
