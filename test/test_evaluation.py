"""Recall, metrics, the HOG baseline, drives and the report page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from vgssl_core.errors import DataError
from vgssl_core.evaluation import figures
from vgssl_core.evaluation.drive import Drive, Filtered, drive_metrics, drive_sections, drive_tiles, write_frames
from vgssl_core.evaluation.hog import HogEmbedder
from vgssl_core.evaluation.metrics import Metrics
from vgssl_core.evaluation.recall import check_overlap, recall_at
from vgssl_core.evaluation.report import Retrieval, write_report
from vgssl_core.evaluation.trust import FILTERED, SINGLE, AcceptanceRule


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 40))
def test_recall_equals_a_plain_loop(seed: int, queries: int, database: int) -> None:
    random = np.random.default_rng(seed)
    positives = random.random((queries, database)) < 0.1
    positives[0, 0] = True
    neighbours = np.stack([random.permutation(database)[:10] for _ in range(queries)])
    answerable = [q for q in range(queries) if positives[q].any()]
    for n, percent in recall_at(neighbours, csr_matrix(positives)).items():
        hits = [any(positives[q, i] for i in neighbours[q][:n]) for q in answerable]
        assert percent == pytest.approx(100 * sum(hits) / len(hits))


def test_sets_of_other_places_are_refused_before_the_work_with_the_distance() -> None:
    check_overlap(np.array([[0.0, 0.0]]), np.array([[0.0, 25.0]]), 25.0)
    with pytest.raises(DataError, match="radius of 25 m of any query; the nearest is 500 m away"):
        check_overlap(np.array([[0.0, 0.0], [-9.0, 0.0]]), np.array([[300.0, 400.0], [800.0, 0.0]]), 25.0)


def test_recall_without_any_positive_says_what_to_check() -> None:
    with pytest.raises(DataError, match="same coordinates"):
        recall_at(np.zeros((3, 1), int), csr_matrix((3, 4), dtype=bool))


def test_hog_descriptors_are_unit_and_ignore_brightness_and_contrast() -> None:
    image = np.random.default_rng(0).integers(60, 180, (48, 96, 3), dtype=np.uint8)
    plain, brighter = HogEmbedder().embed([image, (image * 1.2 + 20).astype(np.uint8)])
    assert plain.shape == (HogEmbedder.dimension,)
    assert np.linalg.norm(plain) == pytest.approx(1, abs=1e-5)
    assert plain @ brighter > 0.99


def test_hog_tells_horizontal_from_vertical_edges() -> None:
    stripes = np.zeros((32, 64, 3), np.uint8)
    stripes[::4] = stripes[1::4] = 255
    turned = np.zeros((32, 64, 3), np.uint8)
    turned[:, ::4] = turned[:, 1::4] = 255
    horizontal, vertical = HogEmbedder().embed([stripes, turned])
    assert horizontal @ vertical < 0.1


def test_hog_is_as_good_as_the_published_figure_on_real_seasons(shared_data: Path) -> None:
    from vgssl_core.evaluation.retrieval import retrieve
    from vgssl_core.places import read_place_set

    result = retrieve(HogEmbedder(), read_place_set(shared_data / "nordland64" / "val"))
    assert result.metrics.queries == 233
    assert result.metrics.recall[1] == pytest.approx(45.1, abs=0.5)  # the data's own HOG has 39.9


def test_metrics_are_written_in_percent_under_stable_keys(tmp_path: Path) -> None:
    metrics = Metrics("protocol", {1: 50.0, 5: 75.0, 10: 100.0}, 4, 5, 9, {"latency": {"median_ms": 1.0}})
    content = json.loads(metrics.write(tmp_path).read_text())
    assert content["recall"] == {"1": 50.0, "5": 75.0, "10": 100.0}
    assert (content["queries"], content["queries_total"], content["database"]) == (4, 5, 9)
    assert metrics.line() == "R@1 50.0 R@5 75.0 R@10 100.0"


@pytest.fixture
def drive() -> Drive:
    """Four frames: right, off by 100 m, without hypothesis, and one where the map has nothing."""
    database = np.array([[0.0, 0, np.nan], [10, 0, np.nan], [100, 0, np.nan]])
    truth = np.array([[0.0, 1, 0], [0, 0, 0], [10, 0, 0], [5000, 0, 0]])
    estimate = np.array([[0.0, 0, 0], [100, 0, 0], [np.nan] * 3, [0, 0, 0]])
    return Drive(
        stamp_ns=np.arange(4, dtype=np.int64),
        truth_m=truth,
        truth_yaw_rad=np.array([np.pi - 0.1, 0, 0, np.nan]),
        neighbours=np.array([[0, 1, 2], [2, 0, 1], [1, 0, 2], [0, 1, 2]]),
        estimate_m=estimate,
        estimate_yaw_rad=np.array([-np.pi + 0.1, 0, np.nan, 0]),
        score=np.array([1.0, 0.5, np.nan, 0.1]),
        latency_ms=np.array([5.0, 6, 7, 8]),
        database_m=database,
        probability=np.array([0.95, 0.4, 0.0, 0.9]),
        rule=AcceptanceRule(0.9, 25.0, "calibrated on nothing"),
        filtered=Filtered(
            estimate_m=np.array([[np.nan] * 3, [1, 0, 0], [10, 0, 0], [0, 0, 0]]),
            probability=np.array([0.0, 0.9, 1.0, 1.0]),
            accepted=np.arange(4) > 1,
            motion="no odometry",
        ),
    )


def test_drive_metrics_count_only_frames_that_the_map_covers(drive: Drive) -> None:
    metrics = drive_metrics(drive, 25.0, "protocol")
    assert (metrics.queries, metrics.queries_total, metrics.database) == (3, 4, 3)
    assert metrics.recall[1] == pytest.approx(200 / 3)
    assert metrics.recall[5] == pytest.approx(100)
    assert metrics.details["recall_hypotheses"]["1"] == pytest.approx(100 / 3, abs=1e-3)
    assert metrics.details["recall_filtered"]["1"] == pytest.approx(200 / 3, abs=1e-3)
    assert metrics.details["pose_error"]["count"] == 2
    assert metrics.details["pose_error"]["heading"]["median_deg"] == pytest.approx(np.degrees(0.2) / 2, abs=1e-3)


def test_fixes_of_a_drive_are_counted_over_all_its_frames(drive: Drive) -> None:
    details = drive_metrics(drive, 25.0, "protocol").details
    accepted, right = details["acceptance"]["accepted"], details["acceptance"]["right"]
    assert (accepted["count"], accepted["total"], right["count"], right["total"]) == (2, 4, 1, 2)
    assert details["acceptance"]["accepted_without_map"]["count"] == 1
    filtered = details["filtered"]["acceptance"]
    assert (filtered["accepted"]["count"], filtered["right"]["count"], filtered["false_accepts"]["count"]) == (2, 1, 1)
    assert (details["acceptance"]["of"], filtered["of"]) == (SINGLE, FILTERED)
    # Three of four frames in the last bin: 0.967 predicted, two thirds right.
    assert details["filtered"]["calibration"]["ece"] == pytest.approx(0.75 * (2.9 / 3 - 2 / 3), abs=1e-6)


def test_heading_error_wraps_around(drive: Drive) -> None:
    assert drive.heading_error_deg[0] == pytest.approx(np.degrees(0.2))


class _Page(HTMLParser):
    """Collects what a browser would fetch, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "poster")]
        assert tag not in ("script", "iframe", "object")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_one_offline_page_with_everything_inside(drive: Drive, tmp_path: Path) -> None:
    picture = np.full((30, 40, 3), 128, np.uint8)
    metrics = drive_metrics(drive, 25.0, "protocol")

    def pictures(frames: Sequence[int]) -> list[Retrieval]:
        return [Retrieval(picture, picture, f"frame {i} <b>", i == 0) for i in frames]

    sections = drive_sections(drive, 25.0, pictures, "ms")
    path = write_report(tmp_path / "report.html", "A & B", "lead", drive_tiles(metrics), sections)
    page = _Page()
    page.feed(path.read_text())
    outside = [link for link in page.links if not link.startswith(("data:", "#"))]
    assert not outside
    assert page.text.count("frame 0 <b>") == 1  # escaped, so it arrives as text
    assert "A & B" in page.text and "66.7 %" in page.text
    assert path.read_text().count("<svg") == 8


def test_frames_table_has_one_row_per_frame(drive: Drive, tmp_path: Path) -> None:
    write_frames(tmp_path / "frames.csv", drive, 25.0)
    rows = (tmp_path / "frames.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[0].startswith("stamp_ns,covered,truth_x_m")


def test_figures_are_reproducible() -> None:
    bars = {"before": {1: 10.0, 5: 20.0}, "after": {1: 60.0, 5: 80.0}}
    assert figures.recall_bars(bars) == figures.recall_bars(bars)
