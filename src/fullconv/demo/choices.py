"""The random choices behind a synthetic scene: the hour, the camera, the street and what is in it.

Who drives, drives on the right; half the finished scenes are mirrored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fullconv.demo.canvas import SUPERSAMPLING, Camera, Light, colour, vector
from fullconv.demo.objects import (
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
from fullconv.demo.scenery import FOLIAGE, STREET_END, Building, Street, Surface, pick

RGB = tuple[int, int, int]
SOLID = 99.0  # metres painted of a line without gaps


class Hour(NamedTuple):
    """A time of day and its weather.

    Attributes:
        share: how often it is chosen; the shares of all hours add up to 1.
        elevation: lowest and highest sun, degrees.
        sun: colour of sunlight.
        brightness: what `sun` is multiplied by.
        ambient: colour of the light from the sky.
        zenith: colour of the sky overhead.
        horizon: colour of the sky at the horizon.
        clouds: least and greatest share of the sky under cloud.
        lamps: brightness of lamps and lit windows.
    """

    share: float
    elevation: tuple[float, float]
    sun: RGB
    brightness: float
    ambient: RGB
    zenith: RGB
    horizon: RGB
    clouds: tuple[float, float] = (0.2, 0.8)
    lamps: float = 0.0


NOON = Hour(0.3, (42, 62), (255, 246, 230), 2.1, (170, 184, 206), (62, 120, 200), (186, 212, 236))
MORNING = Hour(
    0.2, (22, 38), (255, 232, 200), 2.0, (166, 176, 200), (92, 142, 204), (224, 226, 222)
)
EVENING = Hour(
    0.2, (10, 18), (255, 196, 128), 2.2, (158, 156, 178), (84, 122, 184), (248, 208, 158)
)
OVERCAST = Hour(
    0.2, (30, 60), (90, 92, 96), 1.0, (206, 208, 212), (170, 176, 184), (206, 209, 212), (0.8, 1.2)
)
DUSK = Hour(
    0.1, (30, 60), (20, 20, 26), 1.0, (118, 124, 168), (52, 66, 124), (226, 158, 134), lamps=1.0
)
HOURS = (NOON, MORNING, EVENING, OVERCAST, DUSK)


def choose_light(rng: np.random.Generator) -> Light:
    """Choose the hour and where the sun stands; its shadows reach well into the street."""
    hour = HOURS[rng.choice(len(HOURS), p=[hour.share for hour in HOURS])]
    elevation = np.radians(rng.uniform(*hour.elevation))
    up = np.sin(elevation)
    sideways = min(up * rng.uniform(0.25, 1.3), np.cos(elevation) * 0.98) * rng.choice([-1, 1])
    ahead = np.sqrt(max(1 - up * up - sideways * sideways, 0)) * rng.choice([-1, 1])
    return Light(
        to_sun=vector(sideways, up, ahead),
        sun=colour(*hour.sun) * np.float32(hour.brightness),
        ambient=colour(*hour.ambient) * np.float32(1.15),
        zenith=colour(*hour.zenith),
        horizon=colour(*hour.horizon),
        visibility=rng.uniform(120, 500),
        clouds=rng.uniform(*hour.clouds),
        lamps=hour.lamps,
    )


def choose_camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """Choose where the camera looks; `size` is the picture's height and width."""
    height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    return Camera(
        height,
        width,
        focal=width * rng.uniform(0.78, 0.98),
        horizon=height * rng.uniform(0.42, 0.53),
        centre=width * rng.uniform(0.36, 0.64),
        eye=rng.uniform(1.5, 2.3),
    )


def choose_street(rng: np.random.Generator) -> Street:
    """Plan lanes, kerbs, crossings and the buildings on both sides."""
    lane = rng.uniform(3.0, 3.5)
    right = lane / 2 + rng.choice([0.5, 2.4])  # the wider one has room for parked cars
    left = -1.5 * lane - rng.choice([0.5, 2.4])
    walls = left - rng.uniform(2.6, 4.6), right + rng.uniform(2.6, 4.6)
    lines = [(-lane / 2, 0.09, float(rng.choice([2.5, 3.0, SOLID])), 7.0)]
    for edge in (lane / 2 + 0.1, -1.5 * lane - 0.1):
        if rng.random() < 0.6:
            lines.append((edge, 0.08, SOLID, 7.0))
    crossings = []
    if rng.random() < 0.6:
        start = rng.uniform(7, 22)
        crossings.append((start, start + 3.2))
    usual = rng.uniform(6, 15)
    buildings: list[Building] = []
    openings: list[tuple[float, float, float]] = []
    for wall in walls:
        place = rng.uniform(-12, -4)
        while place < STREET_END:
            end = place + rng.uniform(9, 18)
            if place > 12 and rng.random() < 0.16:
                openings.append((float(np.sign(wall)), place, end))
            else:
                buildings.append(_building(rng, wall, place, end, usual))
            place = end
    return Street(
        left,
        right,
        walls,
        tuple(crossings),
        tuple(openings),
        tuple(lines),
        tuple(buildings),
        Surface.some(rng),
    )


def _building(
    rng: np.random.Generator, wall: float, start: float, end: float, usual: float
) -> Building:
    setback = np.sign(wall) * rng.choice([0, 0, 1]) * rng.uniform(0, 1.5)
    height = max(usual * rng.uniform(0.6, 1.5), 4)
    return Building.some(rng, wall + setback, start, end, height=height)


def furnish(rng: np.random.Generator, street: Street) -> list[Thing]:
    """Put trees, lamps, signs, cars and people where they belong; the farthest comes first."""
    things: list[Thing] = []
    for kerb, wall in zip((street.left, street.right), street.walls, strict=True):
        side = float(np.sign(kerb))
        things += _trees(rng, kerb + 0.75 * side)
        things += _poles(rng, kerb + 0.55 * side)
        things += _passers_by(rng, kerb + 0.9 * side, wall - 0.4 * side)
    for start, end in street.crossings:
        if rng.random() < 0.6:
            things += traffic_light(rng, street.right + 0.5, start - 0.6)
            things += traffic_light(rng, street.left - 0.5, end + 0.6)
        for _ in range(rng.integers(0, 4)):
            x, z = rng.uniform(street.left, street.right), rng.uniform(start + 0.3, end - 0.3)
            things.append(Person.some(rng, x, z))
    things += _cars(rng, street)
    return sorted(things, key=lambda thing: -thing.z)


def _trees(rng: np.random.Generator, x: float) -> list[Thing]:
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
        places = np.arange(rng.uniform(9, 20), 110, rng.uniform(14, 24))
        things += [lamp_post(rng, x, float(z), metal) for z in places]
    if rng.random() < 0.3:
        start = rng.uniform(6, 20)
        bollards = np.arange(start, start + rng.uniform(8, 25), 2.0)
        things += [Pole(x, float(z), 0.95, 0.11, 0, metal) for z in bollards]
    for _ in range(rng.integers(1, 4)):
        things += sign_post(rng, x, 7 + 48 * rng.random() ** 1.5)
    return things


def _passers_by(rng: np.random.Generator, first: float, second: float) -> list[Thing]:
    people: list[Thing] = []
    for _ in range(rng.integers(2, 8)):
        x = rng.uniform(min(first, second), max(first, second))
        z = 5.5 + 55 * rng.random() ** 1.7
        people.append(Person.some(rng, x, z))
        if rng.random() < 0.3:
            people.append(Person.some(rng, x + rng.uniform(0.5, 0.8), z + rng.uniform(-0.3, 0.3)))
    return people


def _cars(rng: np.random.Generator, street: Street) -> list[Thing]:
    """Park cars along the kerbs and send others down both lanes."""
    cars: list[Thing] = []
    lane = -2 * street.lanes[0][0]
    for kerb, edge in ((street.left, -1.5 * lane), (street.right, lane / 2)):
        if abs(kerb - edge) > 2:
            places = rng.uniform(5.5, 12) + rng.uniform(5.6, 6.6) * np.arange(15)
            x = kerb - 1.1 * np.sign(kerb)
            taken = places[rng.random(len(places)) < 0.6]
            cars += [Car.some(rng, float(x), float(z), oncoming=kerb < 0) for z in taken]
    for x in (0.0, -lane):
        places = rng.uniform(8, 45) + np.cumsum(rng.uniform(9, 45, 5)) - 9
        cars += [
            Car.some(rng, x + rng.uniform(-0.25, 0.25), float(z), oncoming=x < 0)
            for z in places
            if z < 110
        ]
    return cars
