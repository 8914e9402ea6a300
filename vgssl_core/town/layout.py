"""The street network: three districts of jittered one-way grids, far enough apart that no positives cross."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.town.config import TownConfig

Floats = NDArray[np.float64]
SPLITS = ("train", "val", "test")
PAVEMENT_M = 2.6
SURFACES = 20
#: No image is taken this near to the middle of a crossing: there the neighbours look another way.
CROSSING_M = 9.0
#: Free space between the outermost streets of two districts.
GAP_M = 150.0


@dataclass(frozen=True)
class Street:
    """A street between two crossings, driven from ``start_m`` to ``end_m``.

    Attributes:
        start, end: Crossings (row, column).
        start_m, end_m: (2,) ENU positions of the crossings.
        half_width_m: From the middle line to the kerb.
        inner: Whether it belongs to the photographed network, and not to the rim.
        surface: Which of the road and pavement surfaces it has, from 0 to `SURFACES` - 1.
    """

    start: tuple[int, int]
    end: tuple[int, int]
    start_m: Floats
    end_m: Floats
    half_width_m: float
    inner: bool
    surface: int

    @property
    def length_m(self) -> float:
        """Distance of the crossings."""
        return float(np.linalg.norm(self.end_m - self.start_m))

    @property
    def direction(self) -> Floats:
        """Unit vector along the drive, (2,)."""
        return (self.end_m - self.start_m) / self.length_m

    @property
    def yaw_rad(self) -> float:
        """ENU yaw of the drive."""
        return math.atan2(*self.direction[::-1])

    def point(self, along_m: float, left_m: float = 0.0) -> Floats:
        """Position (2,) at a distance from the start and to the left of the middle line."""
        along = self.direction
        return self.start_m + along * along_m + np.array([-along[1], along[0]]) * left_m


@dataclass(frozen=True)
class District:
    """One split's part of the town.

    Attributes:
        index: Number of the split, a part of every random seed.
        streets: All streets, those of the rim too.
        blocks: (4, 2) ENU corners of the building blocks, counter-clockwise.
    """

    index: int
    streets: tuple[Street, ...]
    blocks: tuple[Floats, ...]

    @property
    def inner_streets(self) -> list[Street]:
        """The streets that images are taken in."""
        return [street for street in self.streets if street.inner]


def plan_districts(seed: int, config: TownConfig) -> dict[str, District]:
    """The districts of a town by split, side by side from west to east and centred on the datum."""
    sizes = [config.train_size, config.val_size, config.test_size]
    # A district is rotated by up to 12 degrees and its grid is jittered: its half diagonal in the worst case.
    reach = [0.5 * (size - 1) * config.block_m * 1.45 + 40 for size in sizes]
    total = 2 * sum(reach) + 2 * GAP_M
    west, districts = -total / 2, {}
    for index, split in enumerate(SPLITS):
        center = np.array([west + reach[index], 0.0])
        districts[split] = _plan_district(seed, index, sizes[index], center, config.block_m)
        west += 2 * reach[index] + GAP_M
    return districts


def _plan_district(seed: int, index: int, size: int, center_m: Floats, block_m: float) -> District:
    rng = np.random.default_rng([seed, 10, index])
    count = size + 2
    steps = rng.uniform(0.86, 1.14, (2, count - 1)) * block_m
    columns, rows = (np.concatenate([[0.0], np.cumsum(step)]) for step in steps)
    crossings = np.stack(np.meshgrid(columns - columns.mean(), rows - rows.mean()), axis=-1)
    crossings = crossings + rng.uniform(-0.06, 0.06, crossings.shape) * block_m
    angle = math.radians(rng.uniform(-12, 12))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    crossings = crossings @ turn.T + center_m
    row_widths, column_widths = (rng.choice([3.2, 3.8, 4.6], count) for _ in range(2))
    streets = _streets(rng, crossings, row_widths, column_widths)
    blocks = []
    for row in range(count - 1):
        for column in range(count - 1):
            corners = crossings[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            widths = [row_widths[row], column_widths[column + 1], row_widths[row + 1], column_widths[column]]
            blocks.append(_inset(corners, np.array(widths) + PAVEMENT_M))
    return District(index, tuple(streets), tuple(blocks))


def _streets(rng: np.random.Generator, crossings: Floats, row_widths: Floats, column_widths: Floats) -> list[Street]:
    """Neighbouring parallel streets run in opposite directions, so that every crossing can be reached."""
    count = len(crossings)
    streets = []
    for line in range(count):
        for step in range(count - 1):
            for along_row in (True, False):
                ends = [(line, step), (line, step + 1)] if along_row else [(step, line), (step + 1, line)]
                if (line % 2 == 0) == along_row:
                    ends.reverse()
                inner = 1 <= line <= count - 2 and 1 <= step <= count - 3
                width = (row_widths if along_row else column_widths)[line]
                start_m, end_m = (crossings[end] for end in ends)
                surface = int(rng.integers(SURFACES))
                streets.append(Street(ends[0], ends[1], start_m, end_m, float(width), inner, surface))
    return streets


def _inset(corners: Floats, distances_m: Floats) -> Floats:
    """Move each side k (corner k to k + 1) of a counter-clockwise polygon inwards by its distance."""
    sides = np.roll(corners, -1, axis=0) - corners
    inward = np.stack([-sides[:, 1], sides[:, 0]], axis=1)
    inward /= np.linalg.norm(inward, axis=1, keepdims=True)
    offsets = np.einsum("ni,ni->n", inward, corners) + distances_m
    return np.array([np.linalg.solve(inward[[k - 1, k]], offsets[[k - 1, k]]) for k in range(len(corners))])
