"""A bag over real DDS into the localizer and back: nothing is lost, changed or reordered."""

from __future__ import annotations

import csv
import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ros_support
from geometry_msgs.msg import PoseArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_support import IMAGE_TOPIC, Program, Ros
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import NavSatFix
from std_msgs.msg import String

from vgssl_core.bags import BagReader, BagWriter
from vgssl_core.evaluation.bag_drive import answer_frames, frames_with_truth
from vgssl_core.localization import open_localizer
from vgssl_ros.base_pose import CameraMount, DefaultAltitude
from vgssl_ros.messages import stamp_ns
from vgssl_ros.replay import main as replay_program

COUNT = 30
#: Of them, as many as take part where each is waited for.
PART = 15
MOUNT = [0.5, 0.2, 1.0, 0.0, 0.1, 0.3]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ros_support.write_drive(tmp_path_factory.mktemp("replay") / "drive", COUNT)


@pytest.fixture(scope="module")
def built_map(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, drive: Path) -> Path:
    return ros_support.build_map(tmp_path_factory.mktemp("replay") / "map", tiny_bundle, drive)


@pytest.fixture
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


def replay(*arguments: Any) -> Program:
    return Program(["vgssl_ros.replay", *map(str, arguments)])


def test_every_frame_is_answered_in_order_and_as_the_offline_localizer_answers(
    tmp_path: Path, tiny_bundle: Path, built_map: Path, drive: Path
):
    parameters = {
        "map_path": built_map,
        "bundle_path": tiny_bundle,
        "image_topic": IMAGE_TOPIC,
        "image_transport": "compressed",
        "image_qos": "reliable",
        "camera_extrinsics": MOUNT,
        "use_sim_time": True,
    }
    with ros_support.localizer(parameters) as node:
        # Slow enough that no frame replaces another, on a busy machine too.
        part = ["--duration_s", 0.1 * PART - 0.05, "--rate", 0.25, "--wait_s", 60, "--settle_s", 60]
        with replay("--bag", drive, "--record", tmp_path / "out", *part) as program:
            assert program.end() == 0, program.output
            assert f"published {PART} frames, answered {PART} (100.0 %), out of order 0" in program.output
        node.interrupt()
        assert node.end() == 0 and "Traceback" not in node.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["frames_answered"] == PART
    assert summary["unknown_stamps"] == summary["out_of_order"] == summary["duplicates"] == 0
    assert summary["localizer"]["processed"] == str(PART) and summary["localizer"]["overwritten"] == "0"
    with open(tmp_path / "out" / "answers.csv", newline="") as file:
        answers = list(csv.DictReader(file))
    localizer, mount = open_localizer(built_map, tiny_bundle), CameraMount(MOUNT)
    frames = frames_with_truth(drive, localizer.geomap)
    assert [int(answer["stamp_ns"]) for answer in answers] == frames.stamp_ns[:PART].tolist()
    # The same localizer and the same filter over time.
    for estimate, answer in zip(answer_frames(localizer, frames).estimates[:PART], answers, strict=True):
        offline = mount.base_pose(estimate.hypotheses[0], localizer.geomap.datum, DefaultAltitude(0.0, 10.0))
        values = {name: float(value) for name, value in answer.items()}
        assert [values["x_m"], values["y_m"], values["z_m"]] == pytest.approx(offline.position_m, abs=1e-9)
        assert values["yaw_rad"] == pytest.approx(offline.yaw_rad, abs=1e-9)
        assert (values["latitude_deg"], values["longitude_deg"]) == (offline.latitude_deg, offline.longitude_deg)
        assert values["score"] == pytest.approx(offline.score, rel=1e-6)
        assert values["latency_ms"] > 0


def test_a_part_of_a_bag_is_played_with_its_clock(ros: Ros, drive: Path):
    clocks, fixes = ros.collect(Clock, "/clock"), ros.collect(NavSatFix, "/gps/fix")
    arguments = ["--bag", drive, "--topics+", "/gps/fix", "--start_s", 1.0, "--duration_s", 0.5, "--rate", 0.5]
    with replay(*arguments) as program:
        ros.wait(lambda: program.process.poll() is not None, "the end of the replay")
        assert program.end() == 0, program.output
    first, period = ros_support.FIRST_STAMP_NS, 100_000_001
    stamps = [stamp_ns(fix.header.stamp) for fix in fixes]
    # A subscriber may learn of the publisher a moment after the publisher of the subscriber, and miss the first.
    assert stamps and stamps == [first + number * period for number in range(10, 15)][-len(stamps) :]
    times = [stamp_ns(clock.clock) for clock in clocks]
    assert times == sorted(times) and times
    assert first + 1_000_000_000 <= times[0] and times[-1] <= first + 1_500_000_000 + period
    assert "replay at 0.5x: " in program.output and "of 0.5 s |" in program.output


def test_a_looping_bag_jumps_back_in_time_and_the_localizer_goes_on(
    ros: Ros, tiny_bundle: Path, built_map: Path, drive: Path, tmp_path: Path
):
    with BagReader(drive) as played, BagWriter(tmp_path / "bag") as bag:
        for message in played.messages():
            # The localizer hears this odometry too.
            topic = message.topic.replace("/ground_truth/odom", "/odom")
            bag.raw(topic, message.type, message.log_ns, message.cdr)
    parameters = {
        "map_path": built_map,
        "bundle_path": tiny_bundle,
        "image_topic": IMAGE_TOPIC,
        "image_transport": "compressed",
        "use_sim_time": True,
    }
    clocks, answers = ros.collect(Clock, "/clock"), ros.collect(PoseArray, "/localizer/hypotheses")
    begin = ros_support.FIRST_STAMP_NS + 2_000_000_000

    def jumps(stamps: list[int]) -> int:
        assert not stamps or min(stamps) >= begin
        return sum(later < earlier for earlier, later in itertools.pairwise(stamps))

    with ros_support.localizer(parameters) as node:
        with replay("--bag", tmp_path / "bag", "--loop", "--rate", 5, "--start_s", 2) as program:
            ros.wait(lambda: jumps([stamp_ns(clock.clock) for clock in clocks]) > 2, "three rounds of the clock")
            ros.wait(lambda: jumps([stamp_ns(item.header.stamp) for item in answers]) > 2, "answers in every round")
            program.interrupt()
            assert program.end() == 130, program.output
        node.interrupt()
        assert node.end() == 0, node.output
    assert "again (3)" in program.output and "Traceback" not in program.output + node.output
    assert "No answer" not in node.output


@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_said_once_is_not_skipped_and_the_clock_is_published_only_where_it_is_wanted(
    ros: Ros, tmp_path: Path, wanted: bool
):
    with BagWriter(tmp_path / "bag") as bag:
        for second in range(4):
            bag.message("/robot_description", "std_msgs/msg/String", second * 10**9, {"data": f"robot {second}"})
            bag.message("/clock", "rosgraph_msgs/msg/Clock", second * 10**9, {"clock": {"sec": 1000 + second}})
            bag.fix("/gps/fix", second * 10**9, "gps", 50.0, 14.0, 0.0)
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    texts, clocks = ros.collect(String, "/robot_description", latched), ros.collect(Clock, "/clock")
    arguments = ["--bag", tmp_path / "bag", "--start_s", 1.5, "--rate", 4, "--loop", "--clock", json.dumps(wanted)]
    with replay(*arguments) as program:
        ros.wait(lambda: clocks and len({text.data for text in texts}) == 4, "all texts, and the clock")
        program.interrupt()
        assert program.end() == 130, program.output
    # What was said before the start comes first.
    assert [text.data for text in texts[:2]] == ["robot 0", "robot 1"]
    assert {clock.clock.sec < 1000 for clock in clocks} == {wanted}


def test_without_a_localizer_recording_is_an_error_and_leaves_nothing(tmp_path: Path, drive: Path):
    with replay("--bag", drive, "--record", tmp_path / "out", "--wait_s", 0.2) as program:
        assert program.end() == 1
    assert (
        "error: Nothing subscribes to /camera/image_raw/compressed within 0.2 s: start the localizer" in program.output
    )
    assert "Traceback" not in program.output and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0"], "--rate is 0.0: it must be positive"),
        (["--topics", "[/nothing]"], "has no topic /nothing"),
        (["--image_topic", "/gps/fix"], "has no image topic /gps/fix"),
        (["--duration_s", "-1"], "--duration_s is -1.0"),
        (["--loop", "--record", "out"], "--record ends with the bag and --loop never does"),
        (["--record", "README.md"], "--record README.md: README.md is not a folder"),
    ],
)
def test_wrong_settings_are_named(drive: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert replay_program(["--bag", str(drive), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_part_that_holds_nothing_is_named(drive: Path):
    with replay("--bag", drive, "--start_s", 100, "--wait_s", 0) as program:
        assert program.end() == 1
    assert "no message of the chosen topics in that part: it lasts 2.9 s" in program.output
    assert "Traceback" not in program.output


def test_a_bag_without_images_cannot_be_recorded_against(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bag = shared_data / "bags" / "philly_gps"
    assert replay_program(["--bag", str(bag), "--record", str(tmp_path / "out")]) == 1
    assert "holds no images" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_replay_that_is_interrupted_again_and_again_ends_once_and_quietly(
    ros: Ros, drive: Path, number: signal.Signals
):
    clocks = ros.collect(Clock, "/clock")
    with replay("--bag", drive, "--rate", 0.01, "--wait_s", 0) as program:
        ros.wait(lambda: clocks, "the clock")
        program.interrupt_until_it_ends(number)
        assert program.end() == 130, program.output
    assert program.lines[-1] == "stopped" and program.output.count("stopped") == 1
    assert "Traceback" not in program.output and "Exception ignored" not in program.output


def test_a_replay_is_interrupted_while_it_waits_too(drive: Path, tmp_path: Path):
    with replay("--bag", drive, "--record", tmp_path / "out", "--wait_s", 1000, "--localizer", "/nobody") as program:
        program.wait_for("Waiting")
        program.interrupt()
        assert program.end() == 130, program.output
    assert "Traceback" not in program.output and not (tmp_path / "out").exists()
