"""What the filter of an evaluation is told of a bag's motion, and what it must never be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vgssl_core.bags import BagWriter
from vgssl_core.evaluation.filtered_drive import NO_ODOMETRY, recorded_motions

SECOND = 10**9
STAMPS_NS = np.arange(1, 6, dtype=np.int64) * SECOND + 1_700_000_000 * SECOND


def write_bag(folder: Path, *topics: str, start_m: float = 0.0) -> Path:
    """Two metres a second to the north-west of an odometry frame, turning by 0.1 rad/s across ±pi, at 2 Hz."""
    with BagWriter(folder) as bag:
        for topic in topics:
            for step in range(9):
                seconds = 0.5 * step
                stamp_ns = int(STAMPS_NS[0]) + round(seconds * SECOND)
                place = [start_m - 1.2 * seconds, start_m + 1.6 * seconds, 0.0]
                bag.odometry(topic, stamp_ns, "odom", "base_link", place, float(3.0 + 0.1 * seconds))
    return folder


def test_motions_are_those_between_frames_in_the_robots_own_frame(tmp_path: Path) -> None:
    motions, words = recorded_motions(write_bag(tmp_path / "bag", "/odom", "/ground_truth/odom"), STAMPS_NS)
    assert words == "odometry of /odom" and motions[0] is None
    for number, motion in enumerate(motions[1:]):
        assert motion is not None
        yaw = 3.0 + 0.1 * number
        expected = [np.cos(yaw) * -1.2 + np.sin(yaw) * 1.6, np.sin(yaw) * 1.2 + np.cos(yaw) * 1.6, 0.1]
        assert [motion.dx_m, motion.dy_m, motion.dyaw_rad] == pytest.approx(expected, abs=1e-5)


def test_where_the_odometry_does_not_reach_nothing_is_told(tmp_path: Path) -> None:
    late = STAMPS_NS + 2 * SECOND
    motions, _ = recorded_motions(write_bag(tmp_path / "bag", "/odom"), late)
    assert [motion is None for motion in motions] == [True, False, False, True, True]


def test_the_truth_is_never_taken_for_odometry(tmp_path: Path) -> None:
    motions, words = recorded_motions(write_bag(tmp_path / "truth", "/ground_truth/odom"), STAMPS_NS)
    assert words == NO_ODOMETRY and motions == [None] * len(STAMPS_NS)
    # Not under another name either.
    motions, words = recorded_motions(write_bag(tmp_path / "odom", "/odom"), STAMPS_NS, truth_topic="/odom")
    assert words == NO_ODOMETRY and motions == [None] * len(STAMPS_NS)
    # Nor is one of several chosen by chance.
    assert recorded_motions(write_bag(tmp_path / "two", "/wheels", "/visual"), STAMPS_NS)[1] == NO_ODOMETRY


def test_where_an_odometry_began_does_not_matter(tmp_path: Path) -> None:
    here, _ = recorded_motions(write_bag(tmp_path / "here", "/odom"), STAMPS_NS)
    away, _ = recorded_motions(write_bag(tmp_path / "away", "/odom", start_m=1000.0), STAMPS_NS)
    for near, far in zip(here[1:], away[1:], strict=True):
        assert near is not None and far is not None
        assert (near.dx_m, near.dy_m, near.dyaw_rad) == pytest.approx((far.dx_m, far.dy_m, far.dyaw_rad), abs=1e-6)
