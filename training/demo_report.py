"""The page and the closing lines of the demo: what the node answered over DDS, held against the truth."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgssl_core.errors import DataError
from vgssl_core.evaluation import figures
from vgssl_core.evaluation.bag_drive import drive_through, frame_pictures, frames_with_truth
from vgssl_core.evaluation.drive import Drive, drive_metrics, drive_sections, drive_tiles
from vgssl_core.evaluation.metrics import METRICS_FILE, Metrics
from vgssl_core.evaluation.report import Section, write_report
from vgssl_core.localization import open_localizer

RADIUS_M = 25.0
#: Evaluation folder of the demo → its name in the report.
EVALUATIONS = {"hog": "HOG (hand-made)", "untrained": "untrained", "trained": "trained"}
_SAME_POSITION_M = 1e-3


@dataclass(frozen=True)
class DemoResults:
    """What the demo's steps left behind.

    Attributes:
        out: Its folder, with an evaluation in each folder of `EVALUATIONS` and the node's answers in ``answers``.
        drive: The bag that was replayed.
        bundle, built_map: The model and the map that the node ran.
        learned: What the network was trained and compared on.
        subject: What the drive went through.
        seconds: Step → duration.
    """

    out: Path
    drive: Path
    bundle: Path
    built_map: Path
    learned: str
    subject: str
    seconds: Mapping[str, float]


def write_demo_report(results: DemoResults) -> list[str]:
    """Write ``report.html`` and ``metrics.json``; return the same figures as lines of text.

    Raises:
        DataError: The bag's truth and the map do not meet.
    """
    localizer = open_localizer(results.built_map, results.bundle)
    frames = frames_with_truth(results.drive, localizer.geomap)
    offline = drive_through(localizer, frames)
    answered, equal, drive = _with_answers(offline, results.out / "answers" / "answers.csv")
    counts = f"{answered} of {frames.frames_total} frames answered over DDS, {equal} of them exactly as offline"
    metrics = drive_metrics(
        drive,
        RADIUS_M,
        f"single frames of {results.subject} through the ROS 2 node, truth from {frames.position_topic}, positives "
        f"within {RADIUS_M:g} m",
        {"frames_total": frames.frames_total, "answered": answered, "equal_to_offline": equal},
    )
    metrics.write(results.out)
    recalls = {name: _recall(results.out / folder) for folder, name in EVALUATIONS.items()}
    write_report(
        results.out / "report.html",
        "Where was the camera?",
        f"A drive through {results.subject}, answered by the localizer node. {counts}.",
        drive_tiles(metrics),
        [
            Section(
                "What training brought",
                f"Recall on {results.learned}, on places that the network has not seen in training.",
                figures=[figures.recall_bars(recalls)],
                table=[["", *(f"R@{n}" for n in next(iter(recalls.values())))], *_rows(recalls)],
            ),
            *drive_sections(
                drive, RADIUS_M, frame_pictures(drive, frames, localizer.geomap, RADIUS_M), "frame to answer [ms]"
            ),
            Section("Time", table=[["step", "seconds"], *([k, f"{v:.0f}"] for k, v in results.seconds.items())]),
        ],
    )
    lines = [f"{name:<16} {Metrics('', recall, 0, 0, 0).line()}" for name, recall in recalls.items()]
    return [*lines, f"{'the drive':<16} {metrics.line()}", *_pose_lines(metrics), counts]


def _pose_lines(metrics: Metrics) -> list[str]:
    return [f"{tile.label:<16} {tile.value} ({tile.detail})" for tile in drive_tiles(metrics)[len(metrics.recall) :]]


def _rows(recalls: Mapping[str, Mapping[int, float]]) -> list[list[str]]:
    return [[name, *(f"{value:.1f} %" for value in recall.values())] for name, recall in recalls.items()]


def _recall(folder: Path) -> dict[int, float]:
    content = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return {int(n): value for n, value in content["recall"].items()}


def _with_answers(offline: Drive, path: Path) -> tuple[int, int, Drive]:
    """How many frames the node answered, how many as offline, and the drive with the node's answers and latencies."""
    with open(path, newline="", encoding="utf-8") as file:
        answers = {int(row["stamp_ns"]): row for row in csv.DictReader(file)}
    if not answers:
        raise DataError(f"{path} holds no answer: the node's own words are in {path.parent.parent / 'node.log'}.")
    answered = [i for i, stamp in enumerate(offline.stamp_ns.tolist()) if stamp in answers]
    rows = [answers[int(offline.stamp_ns[i])] for i in answered]
    estimate, yaw = np.full_like(offline.estimate_m, np.nan), np.full_like(offline.estimate_yaw_rad, np.nan)
    latency = np.full_like(offline.latency_ms, np.nan)
    estimate[answered] = [[float(row[name]) for name in ("x_m", "y_m", "z_m")] for row in rows]
    yaw[answered] = [float(row["yaw_rad"]) for row in rows]
    yaw[np.isnan(offline.estimate_yaw_rad)] = np.nan  # a message has no unknown heading: it says 0
    latency[answered] = [float(row["latency_ms"]) for row in rows]
    apart = np.linalg.norm((estimate - offline.estimate_m)[answered, :2], axis=1)
    drive = dataclasses.replace(offline, estimate_m=estimate, estimate_yaw_rad=yaw, latency_ms=latency)
    return len(answered), int((apart < _SAME_POSITION_M).sum()), drive
