"""What is photographed where: the shots of every street and of the drive, and the workers that take them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.town.camera import Camera, Pose
from vgssl_core.town.conditions import CONDITIONS
from vgssl_core.town.config import TownConfig
from vgssl_core.town.drive import CRUISE_M_S, Trajectory, drive_route, plan_route
from vgssl_core.town.ground import draw_top_view
from vgssl_core.town.layout import CROSSING_M, District, Street, plan_districts
from vgssl_core.town.neighbourhood import (
    Neighbourhood,
    Thing,
    Vehicle,
    furnish,
    lane,
    park_vehicles,
    passing_traffic,
)
from vgssl_core.town.scene import Scene, TextureStore, ground_square

Floats = NDArray[np.float64]
DATABASE, QUERIES, DRIVE = "database", "queries", "drive"
#: Weathers of a drive: never the database's.
DRIVE_CONDITIONS = ("dusk", "rain", "winter")


@dataclass(frozen=True)
class Shot:
    """One image to take.

    Attributes:
        part: ``database``, ``queries`` or ``drive``.
        index: Number within split and part: seed of its randomness, and its time.
        condition: Name of the light and weather.
        pose: Of the camera.
        along_m, left_m: Place in the street.
    """

    part: str
    index: int
    condition: str
    pose: Pose
    along_m: float
    left_m: float


@dataclass(frozen=True)
class Task:
    """All shots of one street of a split: a worker's unit of work."""

    split: str
    street: int
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class TownPlan:
    """Everything about a town but its pictures.

    Attributes:
        tasks: What to photograph.
        drive: Exact trajectory, or None.
        drive_condition: Its light and weather.
        unmapped_street: Number of the street that the map does not have, or -1.
    """

    tasks: tuple[Task, ...]
    drive: Trajectory | None
    drive_condition: str
    unmapped_street: int


def plan_town(seed: int, config: TownConfig) -> TownPlan:
    """Plan all photographs of a town."""
    districts = plan_districts(seed, config)
    drive, condition, unmapped = None, "", -1
    if config.drive_s > 0:
        route, unmapped = plan_route(seed, districts["test"], config.drive_s * CRUISE_M_S)
        drive = drive_route(seed, districts["test"], route, config.drive_s, config.drive_hz)
        condition = str(np.random.default_rng([seed, 54]).choice(DRIVE_CONDITIONS))
    tasks = []
    for split, district in districts.items():
        counts = {DATABASE: 0, QUERIES: 0}
        for number, street in enumerate(district.inner_streets):
            if split == "test" and number == unmapped:
                continue
            rng = np.random.default_rng([seed, 60, district.index, number])
            tasks.append(Task(split, number, tuple(_street_shots(rng, street, config, counts))))
    if drive is not None:
        tasks += _drive_tasks(seed, drive, condition, config)
    return TownPlan(tuple(tasks), drive, condition, unmapped)


def _street_shots(rng: np.random.Generator, street: Street, config: TownConfig, counts: dict[str, int]) -> list[Shot]:
    """Database and queries of a street; the queries come from two sessions under different conditions."""
    middle, right, left = lane(street)
    conditions = rng.choice(list(CONDITIONS), 2, replace=False)
    places = np.arange(CROSSING_M + rng.uniform(0, config.spacing_m), street.length_m - CROSSING_M, config.spacing_m)
    shots = []
    for part, sideways, turn, pitch in (
        (DATABASE, 0.15, 0.6, 0.2),
        (QUERIES, config.lateral_m, config.heading_deg, 0.8),
    ):
        for number, place in enumerate(places):
            shift = rng.uniform(-0.4, 0.4) * config.spacing_m if part == QUERIES else 0.0
            along_m = float(np.clip(place + shift, CROSSING_M, street.length_m - CROSSING_M))
            left_m = float(np.clip(middle + rng.normal(0, sideways), right, left))
            yaw = street.yaw_rad + math.radians(rng.normal(0, turn))
            pose = Pose(*street.point(along_m, left_m), config.camera_height_m, yaw, math.radians(rng.normal(0, pitch)))
            condition = "day" if part == DATABASE else str(conditions[number % 2])
            shots.append(Shot(part, counts[part], condition, pose, along_m, left_m))
            counts[part] += 1
    return shots


def _drive_tasks(seed: int, drive: Trajectory, condition: str, config: TownConfig) -> list[Task]:
    """The frames of the drive, cut where it enters another street."""
    pitch = np.random.default_rng([seed, 55]).normal(0, 0.6, len(drive.time_s))
    cuts = np.flatnonzero(np.diff(drive.street)) + 1
    tasks = []
    for frames in np.split(np.arange(len(drive.time_s)), cuts):
        shots = []
        for k in frames:
            position = drive.position_m[k]
            pose = Pose(*position, config.camera_height_m, float(drive.yaw_rad[k]), math.radians(pitch[k]))
            shots.append(Shot(DRIVE, int(k), condition, pose, 0.0, 0.0))
        tasks.append(Task("test", int(drive.street[frames[0]]), tuple(shots)))
    return tasks


class Photographer:
    """Takes the photographs of a town; one per process, since it keeps pictures of what it has drawn.

    Args:
        seed: The town's seed.
        config: Its settings.
    """

    def __init__(self, seed: int, config: TownConfig) -> None:
        self._seed = seed
        self._camera = Camera.of_view(config.width, config.height, config.field_of_view_deg)
        self._districts = plan_districts(seed, config)
        self._stores = {name: TextureStore(condition) for name, condition in CONDITIONS.items()}

    @functools.lru_cache(maxsize=4)  # noqa: B019 - lives as long as its process
    def _neighbourhood(self, split: str) -> Neighbourhood:
        return furnish(self._seed, self._districts[split])

    def take(self, task: Task) -> list[bytes]:
        """JPEG files of a task's shots, in their order."""
        district = self._districts[task.split]
        street = district.inner_streets[task.street]
        top_view = draw_top_view(district.streets, *ground_square(street), self._seed)
        scenes: dict[tuple[str, str], Scene] = {}
        files = []
        for shot in task.shots:
            key = (shot.part, shot.condition)
            if key not in scenes:
                scenes[key] = self._scene(task.split, street, top_view, *key)
            files.append(self._shoot(scenes[key], district, street, shot))
        return files

    def _scene(self, split: str, street: Street, top_view: NDArray[np.uint8], part: str, condition: str) -> Scene:
        district = self._districts[split]
        session = (DATABASE, QUERIES, DRIVE).index(part) * len(CONDITIONS) + list(CONDITIONS).index(condition)
        middle = (street.start_m + street.end_m) / 2
        parked: list[Vehicle] = []
        for number, other in enumerate(district.inner_streets):
            if np.linalg.norm((other.start_m + other.end_m) / 2 - middle) < street.length_m + 40:
                parked += park_vehicles(self._seed, session, district, number, other)
        # The database sees the sun in the south; every other session has its own.
        sun = -1.2 if part == DATABASE else np.random.default_rng([self._seed, 61, session]).uniform(-3, 0.6)
        return Scene(self._neighbourhood(split), street, top_view, parked, self._stores[condition], float(sun))

    def _shoot(self, scene: Scene, district: District, street: Street, shot: Shot) -> bytes:
        part = (DATABASE, QUERIES, DRIVE).index(shot.part)
        rng = np.random.default_rng([self._seed, 62, district.index, part, shot.index])
        vehicles, people = self._traffic(rng, street, shot)
        image = scene.photograph(self._camera, shot.pose, vehicles, people, shot.part != DATABASE, rng)
        quality = int(rng.integers(80, 94))
        done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        return data.tobytes()

    def _traffic(self, rng: np.random.Generator, street: Street, shot: Shot) -> tuple[list[Vehicle], list[Thing]]:
        if shot.part != DRIVE:
            amount = 1.0 if shot.part == QUERIES else 0.25
            return passing_traffic(rng, street, shot.along_m, shot.left_m, amount)
        # On a drive the same traffic stays ahead for some seconds.
        episode = np.random.default_rng([self._seed, 63, shot.index // 18])
        offset = shot.pose.position_m[:2] - street.start_m
        return passing_traffic(episode, street, float(offset @ street.direction), lane(street)[0], 1.0)
