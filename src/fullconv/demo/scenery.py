"""What stands still in a synthetic street: sky, skyline, ground and buildings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fullconv.demo.canvas import (
    NEAREST,
    Canvas,
    Floats,
    Kind,
    Light,
    Patch,
    Shadows,
    box,
    colour,
    mix,
    vector,
)

STREET_END = 130.0  # metres; the skyline closes the view behind it
TOWARDS_CAMERA = vector(0, 0, -1)
UP = vector(0, 1, 0)

WALLS = (
    (168, 92, 70), (142, 74, 60), (196, 128, 92), (222, 204, 170), (236, 224, 200),
    (214, 178, 122), (178, 172, 164), (146, 148, 152), (202, 196, 186), (120, 124, 132),
    (196, 158, 150), (160, 176, 172), (230, 214, 150), (108, 92, 84), (180, 196, 204),
)  # fmt: skip
ACCENTS = (
    (150, 38, 40), (32, 74, 96), (34, 86, 62), (206, 150, 44), (60, 52, 58), (120, 44, 84),
    (36, 62, 134), (214, 206, 190),
)  # fmt: skip
ROOFS = ((140, 70, 52), (110, 60, 52), (84, 86, 94), (70, 66, 66))
FOLIAGE = (
    (72, 110, 44), (88, 126, 50), (58, 98, 52), (104, 128, 54), (46, 84, 48), (128, 132, 52),
    (188, 128, 44), (168, 92, 46),
)  # fmt: skip


def pick(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> Floats:
    """Return one of the colours, a little lighter or darker than listed."""
    return colour(*colours[rng.integers(len(colours))]) * np.float32(rng.uniform(0.85, 1.12))


class WallPoints(NamedTuple):
    """Points of a wall, (n,) each or one number for all, in metres.

    Attributes:
        along: from the wall's nearer corner.
        up: from the ground.
        blur: how much of the wall's length one pixel spans.
        depth: from the camera.
    """

    along: Any
    up: Any
    blur: Any
    depth: Any


@dataclass(frozen=True)
class Building:
    """A block along the street, from depth `start` to `end`, with its front at x = `wall`.

    Attributes:
        wall: x of the front; its sign is the side of the street.
        start: depth of the end nearer to the camera.
        end: depth of the far end.
        height: metres to the eaves.
        roof: rise of a pitched roof, 0 for a flat one.
        storey: metres from floor to floor.
        bay: metres from window to window.
        pane: width and height of a window as shares of bay and storey.
        shop: whether the ground floor is a shop.
        bricks: how strongly the courses of brick show, 0..1.
        skin: colours of wall, trim, glass, shop front and roof, (5, 3).
        rooms: what differs from window to window, (16, 16) in 0..1.
    """

    wall: float
    start: float
    end: float
    height: float
    roof: float
    storey: float
    bay: float
    pane: tuple[float, float]
    shop: bool
    bricks: float
    skin: Floats
    rooms: Floats

    @classmethod
    def some(
        cls, rng: np.random.Generator, wall: float, start: float, end: float, height: float
    ) -> Building:
        """Return a building of random looks."""
        tower = height > 15 and rng.random() < 0.4
        storey = rng.uniform(2.9, 3.5)
        trim = mix(pick(rng, WALLS), colour(245, 240, 230), rng.uniform(0.3, 1))
        glass = mix(colour(38, 52, 66), colour(110, 140, 160), rng.uniform(0, 0.5) + 0.4 * tower)
        skin = [pick(rng, WALLS), trim, glass, pick(rng, ACCENTS), pick(rng, ROOFS)]
        return cls(
            wall,
            start,
            end,
            height=max(round(height / storey), 1) * storey + 0.7,
            roof=0.0 if height > 13 or rng.random() < 0.4 else rng.uniform(2.2, 3.6),
            storey=storey,
            bay=rng.uniform(1.6, 2.2) if tower else rng.uniform(2.1, 3.4),
            pane=(0.86, 0.74) if tower else (rng.uniform(0.36, 0.56), rng.uniform(0.46, 0.62)),
            shop=bool(rng.random() < 0.5),
            bricks=float(rng.random() < 0.5) * rng.uniform(0.5, 1),
            skin=np.stack(skin).astype(np.float32),
            rooms=rng.random((16, 16), np.float32),
        )

    @property
    def side(self) -> float:
        """-1.0 for the left side of the street, 1.0 for the right."""
        return float(np.sign(self.wall))

    def paint(self, canvas: Canvas, sunshine: Sunshine) -> None:
        """Paint the front, the roof and the end that faces the camera, where still free."""
        self._paint_front(canvas, sunshine)
        self._paint_roof(canvas)
        self._paint_end(canvas)

    def _paint_end(self, canvas: Canvas) -> None:
        camera, depth, back = canvas.camera, self.start, self.wall + 12 * self.side
        if depth < 2:
            return
        gable = (self.wall + back) / 2, self.height + self.roof
        outline = [(self.wall, 0), (self.wall, self.height), gable, (back, self.height), (back, 0)]
        patch = canvas.claim(camera.project(vector(*[(x, y, depth) for x, y in outline])))
        if patch is None:
            return
        columns, rows = patch.pixels()
        metre = np.float32(depth / camera.focal)
        along = np.abs((columns - np.float32(camera.centre)) * metre - np.float32(self.wall))
        up = np.float32(camera.eye) - (rows - np.float32(camera.horizon)) * metre
        points = WallPoints(along, up, metre, np.float32(depth))
        self._paint_wall(canvas, patch, points, TOWARDS_CAMERA, np.float32(1))

    def _paint_front(self, canvas: Canvas, sunshine: Sunshine) -> None:
        camera, x = canvas.camera, self.wall
        corners = [(x, 0, self.start), (x, self.height, self.start)]
        corners += [(x, self.height, self.end), (x, 0, self.end)]
        patch = canvas.claim(camera.project(vector(*corners)))
        if patch is None:
            return
        columns, rows = patch.pixels()
        aside = np.maximum((columns - np.float32(camera.centre)) * np.float32(self.side), 0.5)
        depth = np.float32(camera.focal * abs(x)) / aside
        depth = np.clip(depth, np.float32(max(self.start, NEAREST)), np.float32(self.end))
        up = np.float32(camera.eye) - (rows - np.float32(camera.horizon)) * depth / np.float32(
            camera.focal
        )
        blur = depth * depth / np.float32(camera.focal * abs(x))
        points = WallPoints(depth - np.float32(self.start), up, blur, depth)
        lit = sunshine.reaches(x, up, depth)
        self._paint_wall(canvas, patch, points, vector(-self.side, 0, 0), lit)

    def _paint_roof(self, canvas: Canvas) -> None:
        if not self.roof:
            return
        eaves, ridge = self.wall - 0.3 * self.side, self.wall + 6 * self.side
        low, high = self.height - 0.1, self.height + self.roof
        near, far = self.start, self.end
        slope = vector(-self.side * self.roof, 6, 0) / np.hypot(self.roof, 6)
        corners = [(eaves, low, near), (ridge, high, near), (ridge, high, far), (eaves, low, far)]
        points = vector(*corners)
        patch = canvas.claim(canvas.camera.project(points))
        if patch is None:
            return
        _, rows = patch.pixels()
        tiles = 1 + 0.06 * canvas.grain(rows * 3, rows * 0)
        rgb = self.skin[4] * canvas.light.on(slope) * tiles[:, None]
        canvas.paint(patch, canvas.light.through_air(rgb, float(near + far) / 2), Kind.BUILDING)

    def _paint_wall(
        self, canvas: Canvas, patch: Patch, points: WallPoints, normal: Floats, lit: Any
    ) -> None:
        along, up, blur, depth = points
        light = canvas.light
        albedo, glass = self._surface(along, up, blur)
        grain = 1 + np.float32(0.1) * canvas.grain(along * 9 + self.end, up * 9)
        corner = np.float32(0.72) + np.float32(0.28) * np.clip(up / 3, 0, 1)  # dim near the ground
        fall = light.on(normal, np.reshape(lit, (-1, 1)))
        rgb = albedo * fall * (grain * corner)[:, None]
        room = self._room(along, up)
        mirrored = glass * (np.float32(0.09) + np.float32(0.17) * room)
        lamplit = glass * room * (room > 0.55) * np.float32(light.lamps)
        rgb += mirrored[:, None] * light.horizon + lamplit[:, None] * colour(255, 213, 125)
        canvas.paint(patch, light.through_air(rgb, np.reshape(depth, (-1, 1))), Kind.BUILDING)

    def _room(self, along: Any, up: Any) -> Any:
        column, row = (along / self.bay).astype(np.int32), (up / self.storey).astype(np.int32)
        return self.rooms[row & 15, column & 15]

    def _surface(self, along: Any, up: Any, blur: Any) -> tuple[Any, Any]:
        """Return the albedo (n, 3), and how far each point is glass (n,)."""
        wall, trim, glass, front, _ = self.skin
        across = np.abs(np.mod(along / self.bay, 1) - 0.5)
        level = up / self.storey
        rise = np.mod(level, 1) - 0.52
        ground = level < 1
        shop = ground & self.shop
        door = ground & ~shop & (self._room(along, up) > 0.7) & (across < 0.2) & (level < 0.72)
        half_wide = np.where(shop, 0.44, self.pane[0] / 2)
        half_tall = np.where(shop, 0.34, self.pane[1] / 2)
        open_wall = (up < self.height - 0.6) & ~door
        frame = (across < half_wide + 0.05) & (np.abs(rise) < half_tall + 0.05) & open_wall
        pane = (across < half_wide - 0.012) & (np.abs(rise) < half_tall - 0.012) & open_wall
        pane &= (across > 0.018) | shop  # a bar down the middle
        sharp = np.clip(1.6 - blur / (0.3 * self.bay), 0, 1)  # far windows melt into the wall
        share = np.where(pane, sharp, 0) + np.float32(self.pane[0] * self.pane[1] * 0.8) * (
            1 - sharp
        )
        courses = (np.mod(up, 0.32) < 0.07) * np.clip(1.5 - blur / 0.12, 0, 1) * self.bricks
        albedo = np.multiply.outer((1 - 0.22 * courses).astype(np.float32), wall)
        band = (up > self.height - 0.55) & (up < self.height)
        albedo = np.where((band | frame & (sharp > 0.3))[:, None], trim, albedo)
        board = shop & ((level > 0.86) | (level < 0.2) & ~pane)
        albedo = np.where((board | door)[:, None], front, albedo)
        lintel = 1 - 0.5 * (rise > half_tall - 0.07)  # its shadow on the glass
        return mix(albedo, glass * lintel[:, None], share[:, None].astype(np.float32)), share


@dataclass(frozen=True)
class Sunshine:
    """The line of buildings between the street and the sun.

    Attributes:
        to_sun: unit vector towards the sun.
        wall: x of the building line on the sun's side.
        tops: height of the buildings there, each half metre.
    """

    to_sun: Floats
    wall: float
    tops: Floats

    @staticmethod
    def places(depth: Any) -> Any:
        """Return the indices into `tops` of depths."""
        return np.clip((depth + 100) * 2, 0, 1023).astype(np.int32)

    def reaches(self, x: Any, up: Any, depth: Any) -> Any:
        """Return 1.0 where no building stands between a point and the sun, else 0.0."""
        sideways, upwards, ahead = self.to_sun
        way = np.maximum((np.float32(self.wall) - x) / sideways, 0)
        return np.float32(up + way * upwards >= self.tops[self.places(depth + way * ahead)])


@dataclass(frozen=True)
class Surface:
    """How the ground looks: albedo of road, pavement and paint, and how patchy it is."""

    road: Floats
    pavement: Floats
    paint: Floats
    slab: float
    patchy: float

    @classmethod
    def some(cls, rng: np.random.Generator) -> Surface:
        """Return random ground; either of road and pavement may be the lighter."""
        grey = rng.uniform(0.75, 1.1)
        tint = rng.normal(0, 0.04, 3).astype(np.float32)
        return cls(
            road=colour(112, 112, 116) * np.float32(grey) * (1 + tint),
            pavement=mix(colour(112, 108, 104), colour(190, 178, 160), rng.random()),
            paint=mix(colour(226, 226, 222), colour(228, 196, 90), float(rng.random() < 0.12)),
            slab=rng.uniform(0.6, 1.5),
            patchy=rng.uniform(0.04, 0.16),
        )


@dataclass(frozen=True)
class Street:
    """The plan of a street.

    Attributes:
        left: x of the left kerb, negative.
        right: x of the right kerb.
        walls: x of the left and right building lines.
        crossings: start and end depths of zebra crossings.
        side_streets: side (-1 or 1), start and end depth of the openings between buildings.
        lanes: x, half width, metres painted and period of each line along the street.
        buildings: all of them, both sides.
        surface: what the ground is made of.
    """

    left: float
    right: float
    walls: tuple[float, float]
    crossings: tuple[tuple[float, float], ...]
    side_streets: tuple[tuple[float, float, float], ...]
    lanes: tuple[tuple[float, float, float, float], ...]
    buildings: tuple[Building, ...]
    surface: Surface

    def sunshine(self, light: Light) -> Sunshine:
        """Return where the buildings let the sun through."""
        side = 1 if light.to_sun[0] > 0 else -1
        tops = np.zeros(1024, np.float32)
        for building in self.buildings:
            if building.side == side:
                first, last = Sunshine.places(vector(building.start, building.end))
                tops[first:last] = building.height + building.roof * 0.6
        return Sunshine(light.to_sun, self.walls[side > 0], tops)

    def kinds(self, x: Floats, depth: Floats) -> Any:
        """Return the labels of ground points: x (n, m), depth (n, 1)."""
        road = (x > self.left) & (x < self.right)
        marking = np.zeros_like(road)
        for line, half, painted, period in self.lanes:
            marking |= (np.abs(x - line) < half) & (np.mod(depth, period) < painted)
        for start, end in self.crossings:
            inside = (depth > start - 1) & (depth < end + 1)
            stripes = (np.mod(x - self.left, 1.0) < 0.5) & (depth > start) & (depth < end)
            marking = np.where(inside, stripes, marking)
        for side, start, end in self.side_streets:
            road |= (x * side > 0) & (depth > start + 2.5) & (depth < end - 2.5)
        marking &= (x > self.left + 0.25) & (x < self.right - 0.25)
        return np.where(marking, Kind.MARKING, np.where(road, Kind.ROAD, Kind.PAVEMENT))


def paint_sky(canvas: Canvas, drift: float) -> None:
    """Paint everything above the horizon, clouds and the glow around the sun included."""
    camera, light = canvas.camera, canvas.light
    last = min(int(camera.horizon) + 1, camera.height)
    if last <= 0:
        return
    rows = np.arange(last, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(camera.width, dtype=np.float32)[None, :] + 0.5
    rise = np.maximum(camera.horizon - rows, 0) / np.float32(camera.focal)
    aside = (columns - camera.centre) / np.float32(camera.focal)
    clear = mix(light.horizon, light.zenith, (1 - np.exp(-2.6 * rise))[..., None])
    side = canvas.camera.width / 9
    span = 1 / (rise + 0.22)
    puffs = canvas.clouds(span * side * 2.2, (aside * span + drift) * side)
    cover = np.clip((puffs + 1.5 * light.clouds - 0.75) * 1.8, 0, 1)
    cover = (cover * cover * (3 - 2 * cover) * np.clip(rise * 9 + 0.15, 0, 1))[..., None]
    shaded = np.clip(1.1 - 0.3 * (puffs + light.clouds), 0.6, 1.1)[..., None]
    white = (light.ambient * 0.75 + light.sun * 0.28 + light.horizon * 0.25) * shaded
    sky = mix(clear, white, cover * np.float32(0.9))
    ahead = float(light.to_sun[2])
    if ahead > 0.1:
        x, y = float(light.to_sun[0]) / ahead, float(light.to_sun[1]) / ahead
        away = np.hypot(aside - x, rise - y)[..., None]
        sky = sky + light.sun * (0.35 * np.exp(-3 * away) + 0.8 * np.exp(-18 * away))
    canvas.rgb[:last] = sky
    canvas.labels[:last] = Kind.SKY


def paint_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the far blocks and tree tops that close the view."""
    reach = STREET_END + 30
    for x in np.arange(-150, 150, 11):
        height, width = rng.uniform(5, 24), rng.uniform(10, 20)
        block = box(x + rng.uniform(-4, 4), 0, reach, width, height)
        canvas.face(block, pick(rng, WALLS), TOWARDS_CAMERA, Kind.BUILDING)
    shade = pick(rng, FOLIAGE) * np.float32(0.7)
    for x in np.arange(-120, 120, 7):
        if rng.random() < 0.45:
            angles = np.linspace(0, np.pi, 9)
            radius, top = rng.uniform(3, 6), rng.uniform(4, 9)
            dome = [(x + radius * np.cos(a), top * np.sin(a), reach - 10) for a in angles]
            canvas.face(vector(*dome), shade * rng.uniform(0.8, 1.2), UP, Kind.TREE, 0.5)


def paint_ground(canvas: Canvas, street: Street, sunshine: Sunshine, shadows: Shadows) -> None:
    """Paint everything below the horizon, with the shadows that lie on it."""
    camera, light = canvas.camera, canvas.light
    first = max(int(np.ceil(camera.horizon + 0.5)), 0)
    rows = np.arange(first, camera.height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(camera.width, dtype=np.float32)[None, :] + 0.5
    depth = np.float32(camera.focal * camera.eye) / (rows - np.float32(camera.horizon))
    x = (columns - np.float32(camera.centre)) * depth / np.float32(camera.focal)
    kinds = street.kinds(x, depth)
    tone = _ground_tone(canvas, street, kinds, x, depth)
    table = np.zeros((len(Kind), 3), np.float32)
    table[Kind.ROAD] = street.surface.road
    table[Kind.PAVEMENT] = street.surface.pavement
    table[Kind.MARKING] = street.surface.paint
    lit = sunshine.reaches(x, np.float32(0), depth) * shadows.sunlit()[first:]
    sky = light.ambient * (0.25 + 0.75 * shadows.exposed()[first:])[..., None]
    fall = sky + light.sun * (light.to_sun[1] * lit)[..., None]
    rgb = table[kinds] * tone[..., None] * fall
    canvas.rgb[first:] = light.through_air(rgb, depth[..., None])
    canvas.labels[first:] = kinds


def _ground_tone(canvas: Canvas, street: Street, kinds: Any, x: Floats, depth: Floats) -> Any:
    """Return what textures do to the ground's brightness: about 1."""
    surface = street.surface
    pavement = kinds == Kind.PAVEMENT
    blur = depth * depth / np.float32(canvas.camera.focal * canvas.camera.eye)
    fade = np.clip(1.4 - blur / (0.35 * surface.slab), 0, 1)
    grain = canvas.grain(depth * 22, x * 22) * np.clip(1.3 - depth / 40, 0.2, 1)
    patches = canvas.grain(depth * 1.7, x * 3.1)
    joints = (np.mod(x, surface.slab) < 0.07) | (np.mod(depth, surface.slab) < 0.09)
    wheels = np.cos((x - street.left) * np.float32(2 * np.pi / 1.65))
    tone = 1 + np.float32(0.16) * grain + np.float32(surface.patchy) * patches
    tone += np.where(pavement, np.float32(-0.2) * fade * joints, np.float32(0.05) * wheels)
    to_kerb = np.minimum(np.abs(x - street.left), np.abs(x - street.right))
    tone += np.float32(0.28) * (pavement & (to_kerb < 0.16))
    gutter = (kinds == Kind.ROAD) & (to_kerb < 0.3) & (x > street.left) & (x < street.right)
    return tone * (1 - np.float32(0.22) * gutter)
