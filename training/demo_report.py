"""The page and the closing lines of the demo: what the node answered over DDS, held against the truth."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgssl_core.errors import DataError
from vgssl_core.evaluation import figures
from vgssl_core.evaluation.bag_drive import drive_of_baseline, drive_through, frame_pictures, frames_with_truth
from vgssl_core.evaluation.drive import Drive, drive_lines, drive_metrics, drive_sections, drive_tiles
from vgssl_core.evaluation.hog import HogEmbedder
from vgssl_core.evaluation.metrics import METRICS_FILE, Metrics
from vgssl_core.evaluation.report import Section, write_report
from vgssl_core.geomap.map_images import MapImages
from vgssl_core.localization import open_localizer
from vgssl_core.models.untrained import untrained_embedder
from vgssl_core.storage import read_yaml

RADIUS_M = 25.0
#: Evaluation folder of the demo → its name in the report.
EVALUATIONS = {"hog": "HOG (hand-made)", "untrained": "untrained", "trained": "trained"}
_SAME_POSITION_M = 1e-3
_FILTER_NOTE = (
    "The node ran without its filter, so that each answer can be held against the one without DDS. What it tells by "
    "default, filtered over time, comes from the same frames, the bag's odometry and the filter that the node runs."
)


@dataclass(frozen=True)
class DemoResults:
    """What the demo's steps left behind.

    Attributes:
        out: Its folder, with an evaluation in each folder of `EVALUATIONS` and the node's answers in ``answers``.
        drive: The bag that was replayed.
        bundle, built_map: The model and the map that the node ran.
        run: The training's folder.
        learned: Place set that the network was trained on.
        evaluated: What recall was measured on, in words.
        map_images: Reads the images of the map once more, for the baselines.
        subject: What the drive went through.
        seconds: Step → duration.
    """

    out: Path
    drive: Path
    bundle: Path
    built_map: Path
    run: Path
    learned: Path
    evaluated: str
    map_images: Callable[[], MapImages]
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
    baselines = {
        EVALUATIONS["hog"]: HogEmbedder(),
        EVALUATIONS["untrained"]: untrained_embedder(results.bundle, results.learned, "train"),
    }
    on_drive = {
        name: drive_metrics(drive_of_baseline(embedder, results.map_images(), frames), RADIUS_M, "").recall
        for name, embedder in baselines.items()
    } | {EVALUATIONS["trained"]: metrics.recall}
    note = _training_note(results.run)
    recalls = {name: _recall(results.out / folder) for folder, name in EVALUATIONS.items()}
    write_report(
        results.out / "report.html",
        "Where was the camera?",
        f"A drive through {results.subject}, answered by the localizer node. {counts}. {_FILTER_NOTE}",
        drive_tiles(metrics),
        [
            Section(
                "What training brought",
                f"The network was trained on {results.learned} and has seen none of these places. {note}",
                figures=[figures.recall_bars(recalls, results.evaluated), figures.recall_bars(on_drive, "the drive")],
            ),
            *drive_sections(
                drive, RADIUS_M, frame_pictures(drive, frames, localizer.geomap, RADIUS_M), "frame to answer [ms]"
            ),
            Section("Time", table=[["step", "seconds"], *_durations(results.seconds)]),
        ],
    )
    lines = [f"On {results.evaluated}:", *_recall_lines(recalls), "On the drive:", *_recall_lines(on_drive)]
    return [*lines, *_pose_lines(metrics), *drive_lines(drive), *filter(None, [note]), counts]


def _training_note(run: Path) -> str:
    """Says so where the training did not come to its end; empty otherwise."""
    epochs = read_yaml(run / "run.yaml", DataError, "a training's manifest")["config"]["epochs"]
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    if int(last["epoch"]) >= epochs:
        return ""
    return (
        f"Training was ended by its time limit after {last['step']} steps, in epoch {last['epoch']} of {epochs}: a "
        "faster or idle machine, or a higher --max-minutes, gives a better network."
    )


def _recall_lines(recalls: Mapping[str, Mapping[int, float]]) -> list[str]:
    return [f"  {name:<18} {Metrics('', recall, 0, 0, 0).line()}" for name, recall in recalls.items()]


def _durations(seconds: Mapping[str, float]) -> list[list[str]]:
    return [[step, f"{value:.0f}"] for step, value in [*seconds.items(), ("together", sum(seconds.values()))]]


def _pose_lines(metrics: Metrics) -> list[str]:
    shown = [
        tile
        for tile in drive_tiles(metrics)
        if tile.label in ("Error of fixes", "Position error", "Heading error", "Latency")
    ]
    return [f"{tile.label:<20} {tile.value} ({tile.detail})" for tile in shown]


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
    probability = np.zeros_like(offline.probability)
    probability[answered] = offline.probability[answered]
    apart = np.linalg.norm((estimate - offline.estimate_m)[answered, :2], axis=1)
    answers_of_node = {"estimate_m": estimate, "estimate_yaw_rad": yaw, "latency_ms": latency}
    drive = dataclasses.replace(offline, probability=probability, **answers_of_node)
    return len(answered), int((apart < _SAME_POSITION_M).sum()), drive
