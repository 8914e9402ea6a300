"""Renders a town into a folder: place set, drive bag and ``town.yaml``."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from vgssl_core import geodesy
from vgssl_core.bags import BagWriter
from vgssl_core.errors import ConfigError
from vgssl_core.places.names import PlaceName
from vgssl_core.storage import atomic_folder, write_yaml
from vgssl_core.town.camera import Camera
from vgssl_core.town.config import TownConfig
from vgssl_core.town.drive import GNSS_WANDER_M, GNSS_WHITE_M, drifting_odometry, gnss_error_m
from vgssl_core.town.photographs import DATABASE, DRIVE, QUERIES, Photographer, Shot, Task, TownPlan, plan_town

#: 2025-06-14 12:00 UTC: the database; queries follow a day later, the drive two.
_START_NS = 1_749_902_400_000_000_000
_DAY_NS = 86_400_000_000_000
_photographer: Photographer | None = None


def render_town(out: str | Path, seed: int, config: TownConfig | None = None) -> Path:
    """Render a town; the same seed and settings give the same bytes.

    Args:
        out: Folder to create; it appears when everything is written.
        seed: Which town.
        config: Its settings; None takes the defaults.

    Returns:
        ``out``.

    Raises:
        ConfigError: A setting that makes no town.
        VgsslError: ``out`` exists and is not empty.
    """
    config = config or TownConfig()
    config.check()
    if seed < 0:
        raise ConfigError(f"seed is {seed}: give 0 or more.")
    out = Path(out)
    with atomic_folder(out) as folder:
        plan = plan_town(seed, config)
        frame = geodesy.LocalFrame(config.latitude_deg, config.longitude_deg, config.altitude_m)
        zone, letter = geodesy.utm_zone(config.latitude_deg, config.longitude_deg)
        counts: dict[str, int] = {}
        frames: dict[int, bytes] = {}
        for task, files in _photograph(seed, config, plan.tasks):
            for shot, data in zip(task.shots, files, strict=True):
                if shot.part == DRIVE:
                    frames[shot.index] = data
                    continue
                name = _place_name(shot, frame, zone, letter)
                target = folder / "images" / task.split / shot.part
                target.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(data)
                counts[f"{task.split}/{shot.part}"] = counts.get(f"{task.split}/{shot.part}", 0) + 1
        if plan.drive is not None:
            _write_drive(folder / "drive", seed, config, plan, frame, frames)
        write_yaml(folder / "town.yaml", _description(seed, config, plan, counts, zone, letter))
    return out


def _photograph(seed: int, config: TownConfig, tasks: tuple[Task, ...]) -> Iterator[tuple[Task, list[bytes]]]:
    """Take all photographs in several processes; results come in the order of the tasks."""
    total = sum(len(task.shots) for task in tasks)
    workers = min(config.workers or os.cpu_count() or 1, len(tasks))
    with (
        concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _start_worker, (seed, config)
        ) as pool,
        tqdm(total=total, desc="town", unit="image") as progress,
    ):
        try:
            for task, files in zip(tasks, pool.map(_work, tasks), strict=True):
                progress.update(len(files))
                yield task, files
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(seed: int, config: TownConfig) -> None:
    global _photographer
    cv2.setNumThreads(1)
    _photographer = Photographer(seed, config)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(task: Task) -> list[bytes]:
    assert _photographer is not None
    return _photographer.take(task)


def _stamp_ns(part: str, index: int, rate_hz: float = 1.0) -> int:
    return _START_NS + (DATABASE, QUERIES, DRIVE).index(part) * _DAY_NS + round(index * 1e9 / rate_hz)


def _place_name(shot: Shot, frame: geodesy.LocalFrame, zone: int, letter: str) -> str:
    latitude, longitude, altitude = frame.to_wgs84(shot.pose.position_m)
    east, north = geodesy.wgs84_to_utm(latitude, longitude, zone, letter)
    return PlaceName(
        float(east),
        float(north),
        zone,
        letter,
        float(latitude),
        float(longitude),
        heading_deg=float(geodesy.yaw_to_compass_deg(shot.pose.yaw_rad)),
        altitude_m=float(altitude),
        stamp_ns=_stamp_ns(shot.part, shot.index),
        note=shot.condition,
    ).format()


def _write_drive(
    folder: Path, seed: int, config: TownConfig, plan: TownPlan, frame: geodesy.LocalFrame, frames: dict[int, bytes]
) -> None:
    """Write the bag. Every message bears the stamp of its frame; ``base_link`` lies in the camera, x ahead."""
    drive = plan.drive
    assert drive is not None
    camera = Camera.of_view(config.width, config.height, config.field_of_view_deg)
    exact = np.column_stack([drive.position_m, np.full(len(drive.time_s), config.camera_height_m)])
    measured = exact + gnss_error_m(seed, drive.time_s)
    odometry, odometry_yaw = drifting_odometry(seed, drive)
    sigma = float(np.hypot(GNSS_WANDER_M, GNSS_WHITE_M))
    turn_rate = np.gradient(drive.yaw_rad, drive.time_s) if len(drive.time_s) > 1 else np.zeros(1)
    driven = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(drive.position_m, axis=0), axis=1))])
    true_fixes, noisy_fixes = np.stack(frame.to_wgs84(exact), axis=1), np.stack(frame.to_wgs84(measured), axis=1)
    with BagWriter(folder) as bag:
        for k in range(len(drive.time_s)):
            stamp = _stamp_ns(DRIVE, k, config.drive_hz)
            motion = (float(drive.speed_m_s[k]), float(turn_rate[k]))
            bag.compressed_image("/camera/image_raw/compressed", stamp, "camera", frames[k])
            bag.camera_info("/camera/camera_info", stamp, "camera", camera.width, camera.height, camera.matrix)
            bag.fix("/gps/fix", stamp, "gps", *noisy_fixes[k], (sigma, sigma, 2 * sigma))
            bag.fix("/ground_truth/fix", stamp, "base_link", *true_fixes[k], (0.01, 0.01, 0.01), 2)
            bag.odometry("/ground_truth/odom", stamp, "map", "base_link", exact[k], float(drive.yaw_rad[k]), motion)
            growing = np.diag([0.01 + (0.02 * driven[k]) ** 2] * 2 + [1e-6] * 3 + [1e-4 + 1e-6 * drive.time_s[k]])
            place = np.append(odometry[k], 0.0)
            bag.odometry("/odom", stamp, "odom", "base_link", place, float(odometry_yaw[k]), motion, growing)


def _description(
    seed: int, config: TownConfig, plan: TownPlan, counts: dict[str, int], zone: int, letter: str
) -> dict[str, object]:
    camera = Camera.of_view(config.width, config.height, config.field_of_view_deg)
    settings = dataclasses.asdict(config)
    # How many processes drew it does not change the town.
    settings.pop("workers")
    description: dict[str, object] = {
        "format": 1,
        "seed": seed,
        "settings": settings,
        "datum": {
            "latitude_deg": config.latitude_deg,
            "longitude_deg": config.longitude_deg,
            "altitude_m": config.altitude_m,
            "utm": f"{zone}{letter}",
        },
        "camera": {"width": camera.width, "height": camera.height, "matrix": camera.matrix.tolist()},
        "counts": counts,
    }
    if plan.drive is not None:
        off_map = np.flatnonzero(plan.drive.street == plan.unmapped_street)
        description["drive"] = {
            "frames": len(plan.drive.time_s),
            "condition": plan.drive_condition,
            "start_ns": _stamp_ns(DRIVE, 0),
            "unmapped_frames": [int(k) for k in off_map],
        }
    return description
