"""The result bag: message for message what the node publishes, whole in itself, beside the truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ros_support
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import PointCloud2
from tiny import DATUM, picture

from vgssl_core.bags import BagReader, BagWriter
from vgssl_core.bags.message import header, message, serialised, typestore
from vgssl_core.bags.records import NAV_SAT_FIX
from vgssl_core.evaluation.bag_drive import answer_frames, frames_with_truth
from vgssl_core.extrinsics import IN_ORIGIN
from vgssl_core.localization import Hypothesis, LocalizerConfig, open_localizer
from vgssl_ros import answer_fields, evaluate_bag, messages
from vgssl_ros.base_pose import BasePose, CameraMount, DefaultAltitude
from vgssl_ros.health import Statistics, judge
from vgssl_ros.result_bag import write_result_bag

STAMP_NS = 1_700_000_000_123_456_789
MOUNT = (1.0, -0.5, 1.5, 0.0, 0.1, 0.3)
COUNT = 12
numbers = st.floats(-1e4, 1e4)


def pose(x: float, y: float, yaw: float, probability: float, rank: int, local: bool) -> BasePose:
    best = Hypothesis(
        rank=rank,
        position_m=np.array([x, y, 3.0]),
        yaw_rad=yaw,
        covariance=np.diag([4.0, 9.0, 1.0, 0.01 if math.isfinite(yaw) else 3.29]),
        score=0.5,
        probability=probability,
        support=7,
        latitude_deg=math.nan,
        longitude_deg=math.nan,
        altitude_m=math.nan,
        sigma_m=3.0,
    )
    return CameraMount(MOUNT).base_pose(best, None if local else DATUM, DefaultAltitude(0.0, 10.0))


@given(
    places=st.lists(st.tuples(numbers, numbers, st.just(math.nan) | st.floats(-3, 3), st.floats(0, 1)), max_size=4),
    local=st.booleans(),
    is_accepted=st.booleans(),
)
def test_every_message_is_byte_for_byte_the_nodes(places: list, local: bool, is_accepted: bool):
    poses = [pose(*place, rank, local) for rank, place in enumerate(places)]
    accepted = poses[0] if poses and is_accepted else None
    head = messages.Header(stamp=messages.to_stamp(STAMP_NS), frame_id="map")
    mine = {"header": header(STAMP_NS, "map")}
    pairs: list[tuple[Any, str, dict[str, Any]]] = [
        (
            messages.pose_array(poses, head),
            "geometry_msgs/msg/PoseArray",
            {**mine, "poses": [answer_fields.pose_fields(item) for item in poses]},
        ),
        (
            messages.hypotheses_cloud(poses, head, not local),
            "sensor_msgs/msg/PointCloud2",
            {**mine, **answer_fields.cloud_fields(poses, not local)},
        ),
        (
            messages.markers(poses, accepted, head),
            "visualization_msgs/msg/MarkerArray",
            answer_fields.marker_fields(poses, accepted, mine["header"]),
        ),
    ]
    for item in poses:
        fields = {**mine, **answer_fields.pose_with_covariance_fields(item)}
        pairs.append((messages.pose_with_covariance(item, head), "geometry_msgs/msg/PoseWithCovarianceStamped", fields))
        fix = messages.nav_sat_fix(item, head)
        if fix is not None:
            pairs.append((fix, NAV_SAT_FIX, {**mine, **answer_fields.fix_fields(item)}))
    for published, kind, fields in pairs:
        # Read and written once more, because the padding between fields may hold anything.
        read = typestore().deserialize_cdr(serialize_message(published), kind)
        assert serialised(kind, fields) == bytes(typestore().serialize_cdr(read, kind)), kind


def test_a_message_has_ros_own_defaults_and_no_other_fields():
    empty = message("visualization_msgs/msg/Marker", {})
    assert empty.pose.orientation.w == 1.0 and empty.text == "" and empty.frame_locked is False and empty.points == []
    assert message("sensor_msgs/msg/NavSatFix", {}).position_covariance.tolist() == [0.0] * 9
    assert message("sensor_msgs/msg/JointState", {"name": ["a"]}).name == ["a"]
    with pytest.raises(KeyError, match="has no field latitud"):
        message("sensor_msgs/msg/NavSatFix", {"latitud": 1.0})


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ros_support.write_drive(tmp_path_factory.mktemp("result") / "drive", COUNT)


@pytest.fixture(scope="module")
def built_map(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, drive: Path) -> Path:
    return ros_support.build_map(tmp_path_factory.mktemp("result") / "map", tiny_bundle, drive)


def write(
    bag: Path, built_map: Path, path: Path, mount: tuple = IN_ORIGIN, threshold: float = 1e-9, images: bool = False
) -> Path:
    """A result bag of single frames."""
    localizer = open_localizer(built_map, config=LocalizerConfig(threshold=threshold))
    frames = frames_with_truth(bag, localizer.geomap, camera_extrinsics=mount)
    write_result_bag(path, localizer, frames, answer_frames(localizer, frames), follow=False, images=images)
    return path


def test_a_result_bag_holds_every_output_with_its_schema(tmp_path: Path, drive: Path, built_map: Path):
    arguments = ["--bag", drive, "--map", built_map, "--out", tmp_path / "out", "--images", "--filter", "false"]
    assert evaluate_bag.main([*map(str, arguments), "--localizer.threshold", "1e-9"]) == 0
    path = tmp_path / "out" / "result"
    kinds = {
        "/localizer/map_info": "std_msgs/msg/String",
        "/localizer/pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
        "/localizer/fix": "sensor_msgs/msg/NavSatFix",
        "/localizer/hypotheses": "geometry_msgs/msg/PoseArray",
        "/localizer/hypotheses_cloud": "sensor_msgs/msg/PointCloud2",
        "/localizer/markers": "visualization_msgs/msg/MarkerArray",
        "/localizer/match_image/compressed": "sensor_msgs/msg/CompressedImage",
        "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
        "/ground_truth/odom": "nav_msgs/msg/Odometry",
        "/ground_truth/fix": "sensor_msgs/msg/NavSatFix",
        "/camera/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    }
    assert (path / "result.mcap").read_bytes().startswith(b"\x89MCAP0\r\n")
    with Reader(path) as stored:
        assert {item.topic: item.msgtype for item in stored.connections} == kinds
        for item in stored.connections:
            # The nested types stand in the schema too, so that no reader has to know them.
            assert ("MSG: std_msgs/Header" in item.msgdef.data) == (item.msgtype != "std_msgs/msg/String")
    with BagReader(path) as bag, BagReader(drive) as played:
        # 1.1 seconds.
        assert bag.counts == {**dict.fromkeys(kinds, COUNT), "/localizer/map_info": 1, "/diagnostics": 2}
        stamps = [frame.stamp_ns for frame in played.frames()]
        for topic in kinds.keys() - {"/localizer/map_info", "/localizer/markers", "/diagnostics"}:
            assert [item.stamp_ns for item in bag.messages([topic])] == stamps, topic
        assert [item.cdr for item in bag.messages(["/camera/image_raw/compressed"])] == [
            item.cdr for item in played.messages(["/camera/image_raw/compressed"])
        ]
        truth, fixes = list(bag.odometry()), list(bag.fixes("/localizer/fix"))
        (info,) = bag.messages(["/localizer/map_info"])
        shown = next(bag.frames("/localizer/match_image/compressed")).image()
        told = [typestore().deserialize_cdr(item.cdr, item.type).status[0] for item in bag.messages(["/diagnostics"])]
    found = [DATUM.to_enu(fix.latitude_deg, fix.longitude_deg, fix.altitude_m)[0] for fix in fixes]
    assert found == pytest.approx([30.0 * number for number in range(COUNT)], abs=0.1)
    steps = np.diff([item.position_m[0] for item in truth])
    assert steps == pytest.approx(30.0, abs=0.01) and truth[0].yaw_rad == pytest.approx(0.0, abs=0.01)
    assert truth[0].frame_id == "map" and truth[0].child_frame_id == "base_link"
    assert json.loads(typestore().deserialize_cdr(info.cdr, info.type).data)["count"] == COUNT
    for half in np.hsplit(shown[-240:], 2):
        assert np.abs(half.astype(int) - cv2.resize(picture(0), (320, 240), interpolation=cv2.INTER_AREA)).mean() < 12
    values = [{item.key: item.value for item in status.values} for status in told]
    assert [item["processed"] for item in values] == ["11", "12"] and values[0]["rate_hz"] == "11.00"
    assert all(item["acceptance"] == "1.00" and float(item["latency_p50_ms"]) > 0 for item in values)
    assert {(status.name, status.level) for status in told} == {("localizer", 0)}
    assert "default calibration" in told[0].message and values[0].keys() == status_keys()


def status_keys() -> set[str]:
    """The figures of a running node."""
    return {*judge(Statistics().read(), "active", "", 1).values, "matched"}


def test_nothing_in_a_result_is_surer_than_the_floors(tmp_path: Path, drive: Path, built_map: Path):
    localizer = open_localizer(built_map, config=LocalizerConfig(position_floor_m=40.0, heading_floor_deg=30.0))
    frames = frames_with_truth(drive, localizer.geomap)
    answers = answer_frames(localizer, frames)
    # The filter over time knows nothing of them, and has become very sure.
    sure = [
        replace(estimate, hypotheses=tuple(replace(item, covariance=np.eye(4) * 1e-6) for item in estimate.hypotheses))
        for estimate in answers.estimates
    ]
    write_result_bag(tmp_path / "result", localizer, frames, replace(answers, estimates=sure), True, False)
    with BagReader(tmp_path / "result") as bag:
        clouds = [deserialize_message(item.cdr, PointCloud2) for item in bag.messages(["/localizer/hypotheses_cloud"])]
    rows = np.concatenate([messages.read_cloud(cloud) for cloud in clouds])
    assert len(rows) >= COUNT
    assert rows["sigma"].min() >= 40.0 and rows["sigma_yaw"].min() >= np.float32(math.radians(30.0))


def test_what_is_not_accepted_has_hypotheses_and_no_pose(tmp_path: Path, drive: Path, built_map: Path):
    with BagReader(write(drive, built_map, tmp_path / "result", threshold=1.0)) as bag:
        assert bag.counts["/localizer/hypotheses"] == bag.counts["/localizer/markers"] == COUNT
        assert not bag.topics.keys() & {"/localizer/pose", "/localizer/fix", "/camera/image_raw/compressed"}
        assert bag.counts["/ground_truth/odom"] == COUNT


def test_a_frame_that_does_not_decode_has_its_truth_and_no_answer(tmp_path: Path, built_map: Path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(4):
            place = map(float, DATUM.to_wgs84([30.0 * number, 0.0, 0.0]))
            bag.fix("/fix", STAMP_NS + number, "gps", *place)
            data = b"damaged" if number == 2 else ros_support.jpeg(picture(number))
            bag.compressed_image("/camera/image_raw/compressed", STAMP_NS + number, "camera", data)
    with BagReader(write(tmp_path / "bag", built_map, tmp_path / "result")) as bag:
        assert [item.stamp_ns - STAMP_NS for item in bag.messages(["/localizer/hypotheses"])] == [0, 1, 3]
        assert [item.stamp_ns - STAMP_NS for item in bag.messages(["/ground_truth/odom"])] == [0, 1, 2, 3]


def test_a_map_of_camera_poses_gives_the_base_where_it_was(
    tmp_path: Path, tiny_bundle: Path, drive: Path, built_map: Path
):
    mounted = ["--camera_extrinsics", *map(str, MOUNT)]
    arguments = ["--bundle", tiny_bundle, "--bag", drive, "--out", tmp_path / "map", "--position_topic", "/gps/fix"]
    assert ros_support.build_map_program([*map(str, arguments), *mounted]) == 0
    with BagReader(write(drive, tmp_path / "map", tmp_path / "result", MOUNT)) as bag:
        truth, fixes = list(bag.odometry()), list(bag.fixes("/localizer/fix"))
    place = DATUM.to_enu(fixes[3].latitude_deg, fixes[3].longitude_deg, fixes[3].altitude_m)
    assert place == pytest.approx([90.0, 0.0, 0.0], abs=0.1)
    assert truth[3].yaw_rad == pytest.approx(0.0, abs=0.01)


def test_a_second_result_replaces_the_first(tmp_path: Path, drive: Path, built_map: Path):
    stored = write(drive, built_map, tmp_path / "result", images=True) / "result.mcap"
    size = stored.stat().st_size
    write(drive, built_map, tmp_path / "result")
    assert stored.stat().st_size < size
