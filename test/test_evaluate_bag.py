"""A bag against its own truth without ROS: right figures, whole files, clear refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import ros_support
from ros_support import Program
from tiny import DATUM, picture

from vgssl_core.bags import BagWriter
from vgssl_core.evaluation.bag_drive import answer_frames, frames_with_truth
from vgssl_core.localization import open_localizer
from vgssl_ros import evaluate_bag

START_NS = ros_support.FIRST_STAMP_NS


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ros_support.write_drive(tmp_path_factory.mktemp("evaluate") / "drive")


@pytest.fixture(scope="module")
def built_map(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, drive: Path) -> Path:
    return ros_support.build_map(tmp_path_factory.mktemp("evaluate") / "map", tiny_bundle, drive)


def run(bag: Path, built_map: Path, out: Path, *arguments: Any) -> int:
    given = ["--bag", bag, "--map", built_map, "--out", out, *arguments]
    return evaluate_bag.main([str(item) for item in given])


def test_a_drive_over_the_mapped_road_is_found_exactly(
    tmp_path: Path, drive: Path, built_map: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(drive, built_map, tmp_path / "out") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "R@1 100.0 R@5 100.0 R@10 100.0"
    assert "position error median 0.0 m" in printed[1] and "heading error median 0.0 deg" in printed[1]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["recall"] == {"1": 100.0, "5": 100.0, "10": 100.0}
    assert (metrics["queries"], metrics["queries_total"], metrics["database"]) == (12, 12, 12)
    assert metrics["pose_error"]["p90_m"] < 0.01
    assert "positives within 25 m" in metrics["protocol"] and "/gps/fix" in metrics["protocol"]
    with open(tmp_path / "out" / "frames.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["stamp_ns"]) for row in rows] == [START_NS + number * 100_000_001 for number in range(12)]
    assert "<html" in (tmp_path / "out" / "report.html").read_text()


def test_frames_off_the_map_do_not_enter_recall_and_damaged_ones_are_counted(
    tmp_path: Path, built_map: Path, capsys: pytest.CaptureFixture[str]
):
    with BagWriter(tmp_path / "bag") as bag:
        # Right, wrong place's picture, off the map, damaged.
        pictures = [ros_support.jpeg(picture(number)) for number in (0, 9, 2)] + [b"damaged"]
        for number, (data, east) in enumerate(zip(pictures, [0.0, 30.0, 5000.0, 60.0], strict=True)):
            stamp = START_NS + number * 10**9
            bag.fix("/ground_truth/fix", stamp, "gps", *map(float, DATUM.to_wgs84([east, 0.0, 0.0])))
            bag.fix("/gps/fix", stamp, "gps", 0.0, 0.0, 0.0)
            bag.compressed_image("/camera/compressed", stamp, "camera", data)
    assert run(tmp_path / "bag", built_map, tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("R@1 50.0")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["queries"], metrics["queries_total"], metrics["frames_undecodable"]) == (2, 3, 1)
    assert metrics["position_topic"] == "/ground_truth/fix" and "do not decode left out" in metrics["protocol"]


def test_the_filter_answers_the_same_wherever_the_truth_lies(tmp_path: Path, built_map: Path):
    answers = []
    for shift_m in (0.0, 1000.0):
        with BagWriter(tmp_path / f"{shift_m:g}") as bag:
            for number in range(8):
                stamp = START_NS + number * 10**9
                truth_m = [30.0 * number + shift_m, shift_m, 0.0]
                bag.fix("/ground_truth/fix", stamp, "gps", *map(float, DATUM.to_wgs84(truth_m)))
                bag.odometry("/ground_truth/odom", stamp, "map", "base_link", truth_m, 0.0)
                for part in (0, 10**9 // 2):
                    way_m = 30.0 * (number + part / 1e9)
                    bag.odometry("/odom", stamp + part, "odom", "base_link", [way_m, 0.0, 0.0], 0.0)
                bag.compressed_image("/camera/compressed", stamp, "camera", ros_support.jpeg(picture(number)))
        localizer = open_localizer(built_map, threads=1)
        answers.append(answer_frames(localizer, frames_with_truth(tmp_path / f"{shift_m:g}", localizer.geomap)))
    here, away = answers
    assert here.motion == away.motion == "odometry of /odom"
    for one, other in zip(here.estimates or (), away.estimates or (), strict=True):
        assert (one.state, len(one.hypotheses)) == (other.state, len(other.hypotheses)) and one.hypotheses
        for first, second in zip(one.hypotheses, other.hypotheses, strict=True):
            assert first.probability == second.probability
            assert first.position_m[:2].tolist() == second.position_m[:2].tolist()


def test_a_local_map_is_evaluated_against_odometry(tmp_path: Path, tiny_bundle: Path, drive: Path):
    local = ros_support.build_map(tmp_path / "local", tiny_bundle, drive, "/ground_truth/odom")
    assert run(drive, local, tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["recall"]["1"] == 100.0 and metrics["position_topic"] == "/ground_truth/odom"
    assert run(drive, local, tmp_path / "other", "--position_topic", "/gps/fix") == 1


def test_two_runs_give_the_same_figures_without_torch_and_without_ros(
    tmp_path: Path, tiny_bundle: Path, built_map: Path, drive: Path
):
    env = ros_support.without_modules(tmp_path / "blocked", "torch", "timm", "rclpy", "sensor_msgs", "std_msgs")
    columns = []
    for name in ("first", "second"):
        arguments = ["--bundle", tiny_bundle, "--map", built_map, "--bag", drive, "--out", tmp_path / name]
        with Program(["vgssl_ros.evaluate_bag", *map(str, arguments)], env) as program:
            assert program.end() == 0, program.output
        with open(tmp_path / name / "frames.csv", newline="") as file:
            columns.append([{**row, "latency_ms": ""} for row in csv.DictReader(file)])
    assert columns[0] == columns[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("philly_gps", "holds no images"),
        ("husky_gps_imu_odom", "holds no images"),
        ("kitti00_query", "No database image lies within the positive radius"),
        ("nothing", "There is no bag at"),
    ],
)
def test_a_real_bag_that_does_not_fit_is_one_clear_line(
    tmp_path: Path, shared_data: Path, built_map: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
):
    assert run(shared_data / "bags" / name, built_map, tmp_path / "out") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_cut_off_recall_and_a_missing_map_are_refused(
    tmp_path: Path, drive: Path, built_map: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(drive, built_map, tmp_path / "out", "--localizer.k", 5) == 1
    assert "Recall@10 needs at least that many" in capsys.readouterr().err
    assert run(drive, tmp_path / "nowhere", tmp_path / "out") == 1
    assert "There is no map at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_of_the_results_is_told_before_the_work(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("results of long ago")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert run(drive, tmp_path / "no map is read yet", out) == 1
        assert f"--out {out}: {tmp_path / 'file'} is not a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "results of long ago"
