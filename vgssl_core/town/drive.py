"""The drive: a route through the test streets, the vehicle's motion along it, and what its sensors say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.town.layout import District, Street
from vgssl_core.town.neighbourhood import lane

Floats = NDArray[np.float64]
TURN_M = 9.0
CRUISE_M_S = 8.6
LATERAL_M_S2 = 2.2
LENGTHWAYS_M_S2 = 1.4

#: GNSS error: a slowly wandering part (standard deviation, correlation time) and white noise, per axis; up is twice.
GNSS_WANDER_M, GNSS_WANDER_S, GNSS_WHITE_M = 1.2, 40.0, 0.35
#: Odometry error: largest scale error, heading drift (largest rate, random walk), noise of each metre driven.
ODOMETRY_SCALE, ODOMETRY_TURN_RAD_S, ODOMETRY_WALK_RAD_SQRT_S, ODOMETRY_NOISE = 0.015, 4e-4, 1.5e-3, 0.01


@dataclass(frozen=True)
class Trajectory:
    """N exact poses of the camera.

    Attributes:
        time_s: (N,) seconds from the start.
        position_m: (N, 2) ENU.
        yaw_rad: (N,) viewing direction, unwrapped.
        speed_m_s: (N,) forward speed.
        street: (N,) number of the street in `District.inner_streets`.
    """

    time_s: Floats
    position_m: Floats
    yaw_rad: Floats
    speed_m_s: Floats
    street: NDArray[np.int64]


def plan_route(seed: int, district: District, length_m: float) -> tuple[list[int], int]:
    """Choose streets to drive, without driving one twice where that can be.

    Args:
        seed: The town's seed.
        district: Where to drive.
        length_m: Length to reach.

    Returns:
        Numbers of the streets in driving order, and the one of them that the map shall not have.
    """
    streets = district.inner_streets
    rng = np.random.default_rng([seed, 50])
    following = [[k for k, other in enumerate(streets) if other.start == street.end] for street in streets]
    best: list[int] = []
    for _ in range(300):
        route = [int(rng.integers(len(streets)))]
        while sum(streets[k].length_m for k in route) < length_m:
            choices = following[route[-1]]
            visits = np.array([route.count(k) for k in choices])
            route.append(int(rng.choice(np.flatnonzero(visits == visits.min()))))
            route[-1] = choices[route[-1]]
        if not best or len(set(route)) / len(route) > len(set(best)) / len(best):
            best = route
    once = [k for k in best[len(best) // 3 : -1] if best.count(k) == 1]
    return best, once[int(rng.integers(len(once)))] if once else best[len(best) // 2]


def drive_route(seed: int, district: District, route: list[int], duration_s: float, rate_hz: float) -> Trajectory:
    """Drive a route with smooth turns, slow in curves, and sample it in time.

    Args:
        seed: The town's seed.
        district: Where to drive.
        route: Streets in order.
        duration_s: The drive ends then, or at the end of the route.
        rate_hz: Samples per second.
    """
    path, street = _path(district.inner_streets, route)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    even = np.arange(0, along[-1], 0.25)
    points = np.stack([np.interp(even, along, path[:, axis]) for axis in range(2)], axis=1)
    rng = np.random.default_rng([seed, 51])
    wander = 0.3 * np.sin(even / rng.uniform(14, 20) + rng.uniform(0, 6)) + 0.15 * np.sin(even / rng.uniform(5, 8))
    tangent = np.gradient(points, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    points = points + wander[:, None] * normal / np.linalg.norm(normal, axis=1, keepdims=True)
    kernel = np.ones(13) / 13
    smooth = np.stack(
        [np.convolve(np.pad(points[:, k], 6, mode="edge"), kernel, mode="valid") for k in range(2)], axis=1
    )
    tangent = np.gradient(smooth, even, axis=0)
    yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    speed = _speeds(np.gradient(yaw, even), 0.25)
    moment = np.concatenate([[0.0], np.cumsum(0.25 / ((speed[1:] + speed[:-1]) / 2))])
    times = np.arange(0, min(duration_s, moment[-1]) - 1e-9, 1 / rate_hz)
    at = np.interp(times, moment, even)
    position = np.stack([np.interp(at, even, smooth[:, k]) for k in range(2)], axis=1)
    here = street[np.clip(np.searchsorted(along, at), 0, len(street) - 1)]
    return Trajectory(times, position, np.interp(at, even, yaw), np.interp(at, even, speed), here)


def gnss_error_m(seed: int, time_s: Floats) -> Floats:
    """Errors (N, 3) of a receiver, east, north, up: an Ornstein-Uhlenbeck process plus white noise."""
    rng = np.random.default_rng([seed, 52])
    wander = np.empty((len(time_s), 3))
    state = rng.normal(0, GNSS_WANDER_M, 3)
    for index, step in enumerate(np.diff(time_s, prepend=time_s[:1])):
        keep = math.exp(-step / GNSS_WANDER_S)
        state = state * keep + rng.normal(0, GNSS_WANDER_M * math.sqrt(1 - keep**2), 3)
        wander[index] = state
    return (wander + rng.normal(0, GNSS_WHITE_M, wander.shape)) * (1, 1, 2)


def drifting_odometry(seed: int, exact: Trajectory) -> tuple[Floats, Floats]:
    """Dead reckoning in the vehicle's own ``odom`` frame, which starts at the origin with yaw 0.

    Returns:
        (N, 2) positions and (N,) yaws. With t seconds and d metres since the start, the heading is off by at most
        ``ODOMETRY_TURN_RAD_S * t`` plus a random walk of ``ODOMETRY_WALK_RAD_SQRT_S * sqrt(t)``, and the position by
        about ``d * (ODOMETRY_SCALE + heading error)``.
    """
    rng = np.random.default_rng([seed, 53])
    scale = 1 + rng.uniform(0.3, 1) * ODOMETRY_SCALE * rng.choice([-1, 1])
    rate = rng.uniform(-1, 1) * ODOMETRY_TURN_RAD_S
    steps = np.diff(exact.time_s)
    heading_error = np.cumsum(rate * steps + rng.normal(0, 1, len(steps)) * ODOMETRY_WALK_RAD_SQRT_S * np.sqrt(steps))
    yaw = exact.yaw_rad - exact.yaw_rad[0] + np.concatenate([[0.0], heading_error])
    moved = np.diff(exact.position_m, axis=0)
    length = np.linalg.norm(moved, axis=1) * scale * (1 + rng.normal(0, ODOMETRY_NOISE, len(steps)))
    turned = np.arctan2(moved[:, 1], moved[:, 0]) - exact.yaw_rad[0] + np.concatenate([[0.0], heading_error[:-1]])
    parts = np.stack([length * np.cos(turned), length * np.sin(turned)], axis=1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(parts, axis=0)]), yaw


def _path(streets: list[Street], route: list[int]) -> tuple[Floats, NDArray[np.int64]]:
    """Corner points of the lanes, joined by curves at crossings: (M, 2) points and the street of each."""
    points: list[Floats] = []
    owners: list[int] = []
    gap_start = streets[route[0]].start_m
    for index, number in enumerate(route):
        street = streets[number]
        middle = lane(street)[0]
        begin, end = street.point(TURN_M, middle), street.point(street.length_m - TURN_M, middle)
        if index:
            corner = _corner(points[-2], points[-1], begin, end)
            for share in np.linspace(0, 1, 24)[1:-1]:
                points.append((1 - share) ** 2 * gap_start + 2 * share * (1 - share) * corner + share**2 * begin)
                owners.append(route[index - 1] if share < 0.5 else number)
        points += [begin, end]
        owners += [number, number]
        gap_start = end
    return np.array(points), np.array(owners)


def _corner(before_m: Floats, end_m: Floats, begin_m: Floats, after_m: Floats) -> Floats:
    """Where two lanes meet; the middle of the gap when they are parallel."""
    first, second = end_m - before_m, after_m - begin_m
    matrix = np.stack([first / np.linalg.norm(first), -second / np.linalg.norm(second)], axis=1)
    if abs(np.linalg.det(matrix)) < 0.5:
        return (end_m + begin_m) / 2
    return end_m + matrix[:, 0] * np.linalg.solve(matrix, begin_m - end_m)[0]


def _speeds(curvature: Floats, step_m: float) -> Floats:
    """Fastest speed within the limits of cruise, sideways and lengthways acceleration."""
    speed = np.minimum(CRUISE_M_S, np.sqrt(LATERAL_M_S2 / np.maximum(np.abs(curvature), 1e-4)))
    speed[0] = min(speed[0], 2.0)
    for order in (range(1, len(speed)), range(len(speed) - 2, -1, -1)):
        direction = -1 if order.step == 1 else 1
        for k in order:
            speed[k] = min(speed[k], math.sqrt(speed[k + direction] ** 2 + 2 * LENGTHWAYS_M_S2 * step_m))
    return speed
