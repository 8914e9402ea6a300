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
from vgssl_core.evaluation.intervals import clopper_pearson
from vgssl_core.evaluation.metrics import Metrics, error_summary
from vgssl_core.evaluation.recall import first_hit, recall_at
from vgssl_core.evaluation.report import Retrieval, Section, Tile
from vgssl_core.evaluation.trust import (
    AcceptanceRule,
    Trust,
    trust_details,
    trust_lines,
    trust_section,
    trust_tiles,
)
from vgssl_core.places import within_radius
from vgssl_core.storage import atomic_file

_SHOWN = 6
#: Indices of queries → each beside its best match; without those whose pictures cannot be had.
Pictures = Callable[[Sequence[int]], Sequence[Retrieval]]


@dataclass(frozen=True)
class Filtered:
    """What the causal filter made of F frames of a drive, each from its own frame and those before.

    Attributes:
        estimate_m: (F, 3) position of the best posterior hypothesis, NaN where there is none.
        probability: (F,) its P(correct), 0 where there is none.
        accepted: (F,) whether it became a fix: probable enough, and confirmed.
        motion: What told the filter how the robot moved, in words.
    """

    estimate_m: NDArray[np.float64]
    probability: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    motion: str


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
        probability: (F,) P(correct) of the best hypothesis, 0 where there is none.
        rule: When a hypothesis becomes a fix.
        filtered: What the filter over time made of it; None where none ran.
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
    probability: NDArray[np.float64]
    rule: AcceptanceRule
    filtered: Filtered | None = None

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

    @property
    def trust(self) -> Trust:
        """Probabilities and fixes of the single frames against the truth, within the calibration's radius."""
        radius_m = self.rule.radius_m
        mapped = self.positives(radius_m).getnnz(axis=1) > 0
        return Trust(self.probability, self.position_error_m <= radius_m, mapped, self.rule)

    @property
    def filtered_error_m(self) -> NDArray[np.float64]:
        """(F,) horizontal distance of the filter's best hypothesis from the truth; NaN where there is none."""
        if self.filtered is None:
            return np.full(len(self.stamp_ns), np.nan)
        return np.linalg.norm((self.filtered.estimate_m - self.truth_m)[:, :2], axis=1)

    @property
    def filtered_trust(self) -> Trust | None:
        """The same of the filter over time, which is what the node tells by default; None where none ran."""
        if self.filtered is None:
            return None
        right = self.filtered_error_m <= self.rule.radius_m
        return Trust(self.filtered.probability, right, self.trust.mapped, self.rule, self.filtered.accepted)

    def positives(self, radius_m: float) -> csr_matrix:
        """(F, N) whether a map image lies within the radius of the truth."""
        return within_radius(self.truth_m[:, :2], self.database_m[:, :2], radius_m)


def drive_metrics(drive: Drive, radius_m: float, protocol: str, details: Mapping[str, Any] | None = None) -> Metrics:
    """Recall@N, pose error and trust of a drive.

    Pose error, ``recall_hypotheses`` and ``recall_filtered`` are taken over the same frames as recall: those that the
    map covers. Acceptance and calibration are over all frames.

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
            "recall_hypotheses": {"1": _percent_within(drive.position_error_m[covered], radius_m)},
            **_filtered_details(drive, covered, radius_m),
            "pose_error": {
                **error_summary(drive.position_error_m[covered], "m"),
                "heading": error_summary(drive.heading_error_deg[covered], "deg"),
            },
            "latency": error_summary(drive.latency_ms, "ms"),
            **trust_details(drive.trust),
            **(details or {}),
        },
    )


def _filtered_details(drive: Drive, covered: NDArray[np.bool_], radius_m: float) -> dict[str, Any]:
    """Recall and trust of the filter, where one ran."""
    trust = drive.filtered_trust
    if drive.filtered is None or trust is None:
        return {}
    return {
        "recall_filtered": {"1": _percent_within(drive.filtered_error_m[covered], radius_m)},
        "filtered": {
            "motion": drive.filtered.motion,
            "fix_error": error_summary(drive.filtered_error_m[drive.filtered.accepted], "m"),
            **trust_details(trust),
        },
    }


def _percent_within(error_m: NDArray[np.float64], radius_m: float) -> float:
    return round(100.0 * float(np.mean(error_m <= radius_m)), 4)


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
        "probability": drive.probability.round(5),
        "accepted": drive.trust.accepted.astype(int),
        "position_error_m": drive.position_error_m.round(3),
        "heading_error_deg": drive.heading_error_deg.round(3),
        "top_match": drive.neighbours[:, 0],
        "top_match_error_m": drive.match_error_m.round(3),
        "rank_of_first_right_match": np.where(first < drive.neighbours.shape[1], first + 1, 0),
        "latency_ms": drive.latency_ms.round(3),
    }
    if drive.filtered is not None:
        columns |= {
            "filtered_x_m": drive.filtered.estimate_m[:, 0].round(3),
            "filtered_y_m": drive.filtered.estimate_m[:, 1].round(3),
            "filtered_probability": drive.filtered.probability.round(5),
            "filtered_accepted": drive.filtered.accepted.astype(int),
            "filtered_error_m": drive.filtered_error_m.round(3),
        }
    with atomic_file(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def _shown(value: float | None, unit: str) -> str:
    """A figure for people; a dash where there is none."""
    return "–" if value is None else f"{value:.1f} {unit}"


def _error_of_fixes(error: Mapping[str, Any]) -> list[Tile]:
    below = f"filtered over time: median; 90 % below {_shown(error['p90_m'], 'm')}"
    return [Tile("Error of fixes", _shown(error["median_m"], "m"), below)]


def drive_tiles(metrics: Metrics) -> list[Tile]:
    """Headline figures of a drive."""
    pose, latency = metrics.details["pose_error"], metrics.details["latency"]
    covered = f"{metrics.queries} of {metrics.queries_total} frames that the map covers"

    return [
        *(Tile(f"Recall@{n}", f"{value:.1f} %", covered) for n, value in metrics.recall.items()),
        *(trust_tiles(metrics.details["filtered"]) if "filtered" in metrics.details else ()),
        *trust_tiles(metrics.details),
        *(_error_of_fixes(metrics.details["filtered"]["fix_error"]) if "filtered" in metrics.details else ()),
        Tile(
            "Position error",
            _shown(pose["median_m"], "m"),
            f"single frames: median; 90 % below {_shown(pose['p90_m'], 'm')}",
        ),
        Tile("Heading error", _shown(pose["heading"]["median_deg"], "°"), "single frames: median"),
        Tile("Latency", _shown(latency["median_ms"], "ms"), f"median; 90 % below {_shown(latency['p90_ms'], 'ms')}"),
    ]


def drive_sections(drive: Drive, radius_m: float, pictures: Pictures, latency_label: str) -> list[Section]:
    """The drive's part of a report: tracks, error and latency, trust, best and worst retrievals.

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
        *_filter_sections(drive, covered),
        trust_section(drive.trust),
        *retrieval_sections(drive.match_error_m, covered, pictures),
    ]


def drive_lines(drive: Drive) -> list[str]:
    """Trust of the filter, where one ran, and of single frames, for a terminal."""
    filtered = drive.filtered_trust
    return [*(trust_lines(filtered) if filtered is not None else ()), *trust_lines(drive.trust)]


def _filter_sections(drive: Drive, covered: NDArray[np.bool_]) -> list[Section]:
    """What following the drive over time brings, beside single frames; nothing where no filter ran."""
    trust, radius_m = drive.filtered_trust, drive.rule.radius_m
    if drive.filtered is None or trust is None:
        return []
    rows = [
        ["", "best hypothesis right (frames that the map covers)", "frames with a fix", "fixes that are right", "ECE"]
    ]
    for told in (drive.trust, trust):
        right = clopper_pearson(int(told.right[covered].sum()), int(covered.sum()))
        ece = f"{told.reliability.expected_error:.3f}"
        rows.append([told.of, str(right), str(told.fixes), str(told.right_fixes), ece])
    return [
        Section(
            "What following it over time brings",
            "The causal filter sees each frame and those before it, never later ones. It was told of the motion by "
            f"{drive.filtered.motion}. Green are fixes that are right, red are false ones.",
            figures=[
                figures.track_map(
                    drive.database_m[:, :2],
                    drive.truth_m[:, :2],
                    np.where(drive.filtered.accepted[:, None], drive.filtered.estimate_m[:, :2], np.nan),
                    radius_m,
                )
            ],
            table=rows,
        ),
        trust_section(trust),
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
