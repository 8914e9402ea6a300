"""A drive against a map: what each frame was matched with, its metrics, its table and its part of the report."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from vgssl_core.evaluation import figures
from vgssl_core.evaluation.metrics import Metrics, error_summary
from vgssl_core.evaluation.recall import first_hit, recall_at
from vgssl_core.evaluation.report import Retrieval, Section, Tile
from vgssl_core.places import within_radius
from vgssl_core.storage import atomic_file

_SHOWN = 6
#: Indices of queries → each beside its best match; without those whose pictures cannot be had.
Pictures = Callable[[Sequence[int]], Sequence[Retrieval]]


@dataclass(frozen=True)
class Drive:
    """F frames with their truth and the localizer's answers, in time order; positions in the map frame.

    Attributes:
        stamp_ns: (F,) int64.
        truth_m: (F, 3) true positions of the camera.
        truth_yaw_rad: (F,) true ENU yaw, NaN where unknown.
        neighbours: (F, k) int64, map images nearest in descriptor space, nearest first.
        estimate_m: (F, 3) position of the best hypothesis, NaN where there is none.
        estimate_yaw_rad: (F,) its yaw, NaN where unknown.
        score: (F,) its score.
        latency_ms: (F,) time from image to hypotheses.
        database_m: (N, 3) positions of the map's images.
    """

    stamp_ns: NDArray[np.int64]
    truth_m: NDArray[np.float64]
    truth_yaw_rad: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    estimate_m: NDArray[np.float64]
    estimate_yaw_rad: NDArray[np.float64]
    score: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    database_m: NDArray[np.float64]

    @property
    def position_error_m(self) -> NDArray[np.float64]:
        """(F,) horizontal distance of the best hypothesis from the truth."""
        return np.linalg.norm((self.estimate_m - self.truth_m)[:, :2], axis=1)

    @property
    def match_error_m(self) -> NDArray[np.float64]:
        """(F,) horizontal distance of the best match from the truth."""
        return np.linalg.norm((self.database_m[self.neighbours[:, 0]] - self.truth_m)[:, :2], axis=1)

    @property
    def heading_error_deg(self) -> NDArray[np.float64]:
        """(F,) absolute heading error of the best hypothesis in [0, 180]."""
        difference = self.estimate_yaw_rad - self.truth_yaw_rad
        return np.degrees(np.abs((difference + np.pi) % (2 * np.pi) - np.pi))

    def positives(self, radius_m: float) -> csr_matrix:
        """(F, N) whether a map image lies within the radius of the truth."""
        return within_radius(self.truth_m[:, :2], self.database_m[:, :2], radius_m)


def drive_metrics(drive: Drive, radius_m: float, protocol: str, details: Mapping[str, Any] | None = None) -> Metrics:
    """Recall@N and pose error of a drive.

    Pose error and ``recall_hypotheses`` are taken over the same frames as recall: those that the map covers.

    Raises:
        DataError: No frame has a map image within the radius.
    """
    positives = drive.positives(radius_m)
    recall = recall_at(drive.neighbours, positives)
    covered = positives.getnnz(axis=1) > 0
    return Metrics(
        protocol,
        recall,
        queries=int(covered.sum()),
        queries_total=len(drive.stamp_ns),
        database=len(drive.database_m),
        details={
            "recall_hypotheses": {"1": round(100.0 * float(np.mean(drive.position_error_m[covered] <= radius_m)), 4)},
            "pose_error": {
                **error_summary(drive.position_error_m[covered], "m"),
                "heading": error_summary(drive.heading_error_deg[covered], "deg"),
            },
            "latency": error_summary(drive.latency_ms, "ms"),
            **(details or {}),
        },
    )


def write_frames(path: str | Path, drive: Drive, radius_m: float) -> None:
    """One CSV row per frame, for people and spreadsheets, in one atomic step."""
    positives = drive.positives(radius_m)
    first = first_hit(drive.neighbours, positives)
    columns: dict[str, NDArray[Any]] = {
        "stamp_ns": drive.stamp_ns,
        "covered": (positives.getnnz(axis=1) > 0).astype(int),
        "truth_x_m": drive.truth_m[:, 0].round(3),
        "truth_y_m": drive.truth_m[:, 1].round(3),
        "truth_yaw_rad": drive.truth_yaw_rad.round(5),
        "estimate_x_m": drive.estimate_m[:, 0].round(3),
        "estimate_y_m": drive.estimate_m[:, 1].round(3),
        "estimate_yaw_rad": drive.estimate_yaw_rad.round(5),
        "score": drive.score.round(5),
        "position_error_m": drive.position_error_m.round(3),
        "heading_error_deg": drive.heading_error_deg.round(3),
        "top_match": drive.neighbours[:, 0],
        "top_match_error_m": drive.match_error_m.round(3),
        "rank_of_first_right_match": np.where(first < drive.neighbours.shape[1], first + 1, 0),
        "latency_ms": drive.latency_ms.round(3),
    }
    with atomic_file(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def drive_tiles(metrics: Metrics) -> list[Tile]:
    """Headline figures of a drive."""
    pose, latency = metrics.details["pose_error"], metrics.details["latency"]
    covered = f"{metrics.queries} of {metrics.queries_total} frames that the map covers"

    def shown(value: float | None, unit: str) -> str:
        return "–" if value is None else f"{value:.1f} {unit}"

    return [
        *(Tile(f"Recall@{n}", f"{value:.1f} %", covered) for n, value in metrics.recall.items()),
        Tile("Position error", shown(pose["median_m"], "m"), f"median; 90 % below {shown(pose['p90_m'], 'm')}"),
        Tile("Heading error", shown(pose["heading"]["median_deg"], "°"), "median of the best hypothesis"),
        Tile("Latency", shown(latency["median_ms"], "ms"), f"median; 90 % below {shown(latency['p90_ms'], 'ms')}"),
    ]


def drive_sections(drive: Drive, radius_m: float, pictures: Pictures, latency_label: str) -> list[Section]:
    """The drive's part of a report: tracks, error and latency, best and worst retrievals.

    Args:
        drive: The drive.
        radius_m: Positive radius.
        pictures: What shows the chosen frames beside their best matches.
        latency_label: What the latency spans.
    """
    covered = drive.positives(radius_m).getnnz(axis=1) > 0
    return [
        Section(
            "Where it was and where it thought it was",
            "Each dot is the best hypothesis of one frame; a red line joins a wrong one to the true position. "
            "Single frames, no filter over time.",
            figures=[
                figures.track_map(drive.database_m[:, :2], drive.truth_m[:, :2], drive.estimate_m[:, :2], radius_m)
            ],
        ),
        Section(
            "Error and latency",
            f"Position error of the {int(covered.sum())} frames that the map covers, with the radius of {radius_m:g} m "
            "dashed; the time that each frame took.",
            figures=[
                figures.cumulative(drive.position_error_m[covered], "position error [m]", mark=radius_m),
                figures.histogram(drive.latency_ms, latency_label),
            ],
        ),
        *retrieval_sections(drive.match_error_m, covered, pictures),
    ]


def retrieval_sections(
    match_error_m: NDArray[np.float64], covered: NDArray[np.bool_], pictures: Pictures
) -> list[Section]:
    """Best and worst retrievals as pictures: nearest and farthest top matches of the covered queries.

    Args:
        match_error_m: (Q,) distance of each query's top match from the truth.
        covered: (Q,) whether the query could be answered at all.
        pictures: What shows the chosen queries beside their matches.
    """
    order = np.flatnonzero(covered)[np.argsort(match_error_m[covered], kind="stable")]
    worst = order[::-1][:_SHOWN]
    best = order[: min(_SHOWN, len(order) - len(worst))]
    parts = (("Best retrievals", best), ("Worst retrievals", worst))
    text = "Query on the left, its nearest map image on the right."
    sections = [Section(title, text, retrievals=pictures(chosen.tolist())) for title, chosen in parts]
    return [section for section in sections if section.retrievals]
