"""What stands in the streets: houses from the catalogue and things, drawn once from the town's seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.town.facades import FacadeDesign, make_catalogue
from vgssl_core.town.layout import District, Street
from vgssl_core.town.things import PAINTS, TREE_KINDS, TREE_SEEDS

Floats = NDArray[np.float64]
HOUSE_DEPTH_M = 9.0
#: How a side of a block is built up, and how often.
_SIDES = {"row": 0.34, "mixed": 0.42, "villas": 0.14, "park": 0.10}


@dataclass(frozen=True)
class House:
    """A house: a box with a front of the catalogue and a roof.

    Attributes:
        left_m: (2,) left corner of the front as seen from the street.
        along: (2,) unit vector from the left to the right corner.
        design, color, shop: See `facades.draw_facade`.
    """

    left_m: Floats
    along: Floats
    design: FacadeDesign
    color: int
    shop: int


@dataclass(frozen=True)
class Thing:
    """Something smaller: seen alike from all sides, or a flat screen along ``along``.

    Attributes:
        kind: ``tree``, ``lamp``, ``sign``, ``person``, ``hedge``, ``fence`` or ``billboard``.
        at_m: (2,) position of the middle (of the left end of a screen).
        width_m, height_m, base_m: Size, and height of its lower edge.
        seed: Which individual.
        variety: Kind of tree.
        along: (2,) direction of a screen; None for a thing that always faces the camera.
    """

    kind: str
    at_m: Floats
    width_m: float
    height_m: float
    seed: int
    base_m: float = 0.0
    variety: str = ""
    along: Floats | None = None


@dataclass(frozen=True)
class Vehicle:
    """A car or van.

    Attributes:
        at_m: (2,) middle of its footprint.
        yaw_rad: Where it heads.
        is_van: A van instead of a car.
        paint: Index into the paints.
    """

    at_m: Floats
    yaw_rad: float
    is_van: bool
    paint: int


@dataclass(frozen=True)
class Neighbourhood:
    """Everything that stands in a district for good.

    Attributes:
        district: The streets.
        houses, things: What stands there.
    """

    district: District
    houses: tuple[House, ...]
    things: tuple[Thing, ...]


def furnish(seed: int, district: District) -> Neighbourhood:
    """Build up the blocks of a district and furnish its streets."""
    catalogue = make_catalogue(seed)
    houses: list[House] = []
    things: list[Thing] = []
    for number, corners in enumerate(district.blocks):
        for side in range(4):
            rng = np.random.default_rng([seed, 40, district.index, number, side])
            _build_side(rng, catalogue, corners[side], corners[(side + 1) % 4], houses, things)
    for number, street in enumerate(district.streets):
        _furnish_street(np.random.default_rng([seed, 41, district.index, number]), street, things)
    return Neighbourhood(district, tuple(houses), tuple(things))


def park_vehicles(seed: int, session: int, district: District, number: int, street: Street) -> list[Vehicle]:
    """The vehicles that stand in a street during one session of photography: other ones each time."""
    rng = np.random.default_rng([seed, 42, session, district.index, number])
    vehicles = []
    for left in parking_sides(street):
        filled, at = rng.uniform(0.35, 0.8), 14.0
        while at < street.length_m - 14:
            if rng.random() < filled:
                middle = street.point(at, left * (street.half_width_m - 1.0))
                vehicles.append(_vehicle(rng, middle, street.yaw_rad + rng.normal(0, 0.015)))
            at += rng.uniform(5.6, 6.6)
    return vehicles


def parking_sides(street: Street) -> tuple[int, ...]:
    """Sides with parked vehicles, 1 left and -1 right: wide streets have more."""
    return (-1, 1) if street.half_width_m > 4.2 else (-1,) if street.half_width_m > 3.5 else ()


def lane(street: Street) -> tuple[float, float, float]:
    """Middle, right and left limit of where a camera drives, metres to the left of the street's middle line."""
    sides = parking_sides(street)
    right = -(street.half_width_m - (2.9 if -1 in sides else 1.4))
    left = street.half_width_m - (2.9 if 1 in sides else 1.4)
    return (left + right) / 2, right, left


def passing_traffic(rng: np.random.Generator, street: Street, along_m: float, left_m: float, amount: float) -> tuple:
    """Vehicles ahead and people on the pavements, for one picture taken at a place of a street.

    Returns:
        List of `Vehicle` and list of `Thing`.
    """
    vehicles, people = [], []
    if rng.random() < 0.42 * amount:
        ahead = along_m + rng.uniform(8, 26)
        middle = street.point(ahead, left_m + rng.normal(0, 0.4))
        vehicles.append(_vehicle(rng, middle, street.yaw_rad, van_share=0.35))
    for _ in range(rng.poisson(1.4 * amount)):
        side = rng.choice([-1, 1]) * (street.half_width_m + rng.uniform(0.5, 2.0))
        if rng.random() < 0.12:
            side = rng.uniform(-1, 1) * street.half_width_m
        at = street.point(along_m + rng.uniform(4, 28), side)
        people.append(Thing("person", at, 0.62, float(rng.uniform(1.55, 1.9)), int(rng.integers(24))))
    return vehicles, people


def _vehicle(rng: np.random.Generator, at_m: Floats, yaw_rad: float, van_share: float = 0.15) -> Vehicle:
    return Vehicle(at_m, yaw_rad, bool(rng.random() < van_share), int(rng.integers(len(PAINTS))))


def _build_side(
    rng: np.random.Generator,
    catalogue: list[FacadeDesign],
    start_m: Floats,
    end_m: Floats,
    houses: list[House],
    things: list[Thing],
) -> None:
    length = float(np.linalg.norm(end_m - start_m))
    along = (end_m - start_m) / length
    inward = np.array([-along[1], along[0]])
    style = str(rng.choice(list(_SIDES), p=list(_SIDES.values())))
    room = length - HOUSE_DEPTH_M
    if style == "park":
        _hedge(rng, things, start_m, along, length)
        for _ in range(int(rng.integers(4, 9))):
            at = start_m + along * rng.uniform(2, length - 10) + inward * rng.uniform(1.5, 7)
            things.append(_tree(rng, at, str(rng.choice(TREE_KINDS)), rng.uniform(6, 12)))
        return
    design, color = catalogue[rng.integers(len(catalogue))], int(rng.integers(6))
    # Identical houses in a row tell nothing by their shape; in most rows each is painted in its own colour.
    painted = rng.random() < 0.75
    at, setback = 0.0, float(rng.uniform(3, 5)) if style == "villas" else 0.0
    if style == "villas":
        _hedge(rng, things, start_m, along, room)
    while True:
        if style != "row":
            design = catalogue[rng.integers(len(catalogue))]
        if style != "row" or painted:
            color = int(rng.integers(6))
        if at + design.width_m > room:
            break
        shop = int(rng.integers(400)) if style == "mixed" and rng.random() < 0.3 else -1
        houses.append(House(start_m + along * at + inward * setback, along, design, color, shop))
        at += design.width_m
        if style == "villas" or (style == "mixed" and rng.random() < 0.1):
            gap = rng.uniform(3, 7)
            middle = start_m + along * (at + gap / 2) + inward * rng.uniform(2, 6)
            things.append(_tree(rng, middle, str(rng.choice(TREE_KINDS)), rng.uniform(4, 9)))
            at += gap
    if room - at > 1.5:
        _hedge(rng, things, start_m + along * at, along, room - at)
        middle = start_m + along * (at + room) / 2 + inward * 3
        things.append(_tree(rng, middle, str(rng.choice(TREE_KINDS)), rng.uniform(5, 10)))


def _hedge(rng: np.random.Generator, things: list[Thing], start_m: Floats, along: Floats, length_m: float) -> None:
    """A hedge or fence along the pavement, in pieces as long as its picture."""
    kind, seed = str(rng.choice(["hedge", "fence"])), int(rng.integers(6))
    height = float(rng.uniform(0.8, 1.7))
    pieces = max(round(length_m / 7), 1)
    for k in range(pieces):
        at = start_m + along * (k * length_m / pieces)
        things.append(Thing(kind, at, length_m / pieces, height, seed, along=along))


def _tree(rng: np.random.Generator, at_m: Floats, variety: str, height_m: float) -> Thing:
    width = height_m * rng.uniform(0.72, 0.95)
    return Thing("tree", at_m, float(width), float(height_m), int(rng.integers(TREE_SEEDS)), variety=variety)


def _furnish_street(rng: np.random.Generator, street: Street, things: list[Thing]) -> None:
    for side in (-1, 1):
        edge = side * (street.half_width_m + 0.7)
        if rng.random() < 0.5:
            variety, height = str(rng.choice(TREE_KINDS[:2] + TREE_KINDS[3:])), rng.uniform(5, 10)
            at = 13.0 + rng.uniform(0, 8)
            while at < street.length_m - 12:
                if rng.random() < 0.8:
                    things.append(_tree(rng, street.point(at, edge), variety, height * rng.uniform(0.85, 1.15)))
                at += rng.uniform(8, 16)
        for _ in range(rng.poisson(1.0)):
            at_m, seed = street.point(rng.uniform(12, street.length_m - 12), edge), int(rng.integers(4))
            things.append(Thing("sign", at_m, 0.75, float(rng.uniform(2.3, 2.8)), seed))
        if rng.random() < 0.3:
            at_m = street.point(rng.uniform(14, street.length_m - 16), side * (street.half_width_m + 1.2))
            across = np.array([math.sin(street.yaw_rad), -math.cos(street.yaw_rad)])
            board = Thing("billboard", at_m - across * 0.8, 1.6, 1.1, int(rng.integers(300)), 0.9, along=across)
            things.append(board)
    side = int(rng.choice([-1, 1]))
    for at in np.arange(rng.uniform(10, 24), street.length_m - 8, rng.uniform(24, 32)):
        at_m = street.point(at, side * (street.half_width_m + 0.4))
        things.append(Thing("lamp", at_m, 1.15, 5.6, 0))
