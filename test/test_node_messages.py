"""From hypotheses to messages, without a node: frames, stamps, layouts, and never a NaN."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from ros_support import jpeg
from sensor_msgs.msg import CompressedImage, NavSatFix, PointCloud2
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header
from tiny import DATUM, picture

from vgssl_core.errors import DataError
from vgssl_core.localization import Hypothesis
from vgssl_ros import messages
from vgssl_ros.base_pose import BasePose, CameraMount, DefaultAltitude

DEFAULT = DefaultAltitude(altitude_m=250.0, sigma_m=7.0)
HEADER = Header(stamp=messages.to_stamp(1_700_000_000_123_456_789), frame_id="map")
FORWARD = CameraMount([0.0] * 6)
NAN = math.nan
numbers = st.floats(-1e4, 1e4)
angles = st.floats(-math.pi, math.pi)
perhaps_angles = st.one_of(st.just(NAN), angles)


def hypothesis(
    position: tuple[float, float, float] = (1.0, 2.0, 3.0), yaw: float = 0.5, rank: int = 0, sigma: float = 2.0
) -> Hypothesis:
    covariance = np.diag([sigma**2, sigma**2, 4.0, 0.04 if math.isfinite(yaw) else math.pi**2 / 3])
    return Hypothesis(rank, np.array(position), yaw, covariance, 0.7, 0.6, 3, NAN, NAN, NAN, sigma)


def base_poses(count: int, datum=DATUM) -> list[BasePose]:
    return [
        FORWARD.base_pose(hypothesis((100.0 * rank, -5.0, NAN), 0.1 * rank, rank), datum, DEFAULT)
        for rank in range(count)
    ]


def test_a_camera_in_the_base_that_looks_forward_is_the_base():
    pose = FORWARD.base_pose(hypothesis(), DATUM, DEFAULT)
    assert pose.position_m.tolist() == [1.0, 2.0, 3.0]
    assert pose.yaw_rad == pytest.approx(0.5)
    assert pose.sigma_m.tolist() == [2.0, 2.0, 2.0] and pose.yaw_sigma_rad == pytest.approx(0.2)


@given(position=st.tuples(numbers, numbers, numbers), yaw=angles, arm=st.tuples(*[st.floats(-3, 3)] * 3), mount=angles)
def test_putting_the_camera_back_on_the_base_gives_the_hypothesis(position, yaw, arm, mount):
    pose = CameraMount([*arm, 0.3, 0.2, mount]).base_pose(hypothesis(position, yaw), DATUM, DEFAULT)
    cosine, sine = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
    turned = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ np.array(arm)
    assert np.allclose(pose.position_m + turned, position, atol=1e-6)
    assert math.remainder(pose.yaw_rad + mount - yaw, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)
    assert (pose.sigma_m >= 2.0 - 1e-9).all()


def test_a_lever_arm_under_an_unknown_heading_becomes_doubt():
    known = CameraMount([3.0, 4.0, 0.0, 0.0, 0.0, 0.0]).base_pose(hypothesis(yaw=0.5), DATUM, DEFAULT)
    unknown = CameraMount([3.0, 4.0, 0.0, 0.0, 0.0, 0.0]).base_pose(hypothesis(yaw=NAN), DATUM, DEFAULT)
    assert unknown.position_m[:2].tolist() == [1.0, 2.0]
    assert unknown.sigma_m[0] == pytest.approx(math.sqrt(4.0 + 25.0))
    assert known.sigma_m[0] < unknown.sigma_m[0]
    assert unknown.yaw_rad == 0.0 and unknown.yaw_sigma_rad > 1.8


@given(
    spread=st.tuples(st.floats(0.5, 9.0), st.floats(0.5, 9.0), st.floats(-0.99, 0.99)),
    arm=st.sampled_from([0.0, 2.0]),
    yaw=perhaps_angles,
)
def test_sigma_of_the_cloud_is_that_of_the_hypothesis_along_the_worst_direction(spread, arm, yaw):
    east, north, correlation = spread
    item = hypothesis(yaw=yaw)
    item.covariance[:2, :2] = [[east**2, correlation * east * north], [correlation * east * north, north**2]]
    worst = math.sqrt(np.linalg.eigvalsh(item.covariance[:2, :2])[-1])
    pose = CameraMount([arm, 0.0, 0.0, 0.0, 0.0, 0.0]).base_pose(item, DATUM, DEFAULT)
    (row,) = messages.read_cloud(messages.hypotheses_cloud([pose], HEADER, georeferenced=True))
    assert row["sigma"] == pytest.approx(worst, rel=1e-6) if arm == 0.0 else row["sigma"] >= worst * (1 - 1e-6)
    assert pose.horizontal_sigma_m >= pose.sigma_m[:2].max() * (1 - 1e-9)


def test_an_unknown_altitude_is_the_default_with_its_doubt():
    pose = FORWARD.base_pose(hypothesis((300.0, 400.0, NAN)), DATUM, DEFAULT)
    assert pose.altitude_m == pytest.approx(250.0, abs=1e-3)
    assert pose.position_m[2] == pytest.approx(50.0, abs=0.05) and pose.sigma_m[2] == 7.0
    local = FORWARD.base_pose(hypothesis((300.0, 400.0, NAN)), None, DEFAULT)
    assert local.position_m[2] == 250.0 and local.latitude_deg is None


@given(
    position=st.tuples(numbers, numbers, st.one_of(st.just(NAN), numbers)),
    yaw=perhaps_angles,
    extrinsics=st.lists(st.floats(-10, 10), min_size=6, max_size=6),
    local=st.booleans(),
)
def test_no_message_ever_holds_a_nan_or_a_covariance_without_doubt(position, yaw, extrinsics, local):
    datum = None if local else DATUM
    pose = CameraMount(extrinsics).base_pose(hypothesis(position, yaw), datum, DEFAULT)
    stamped = messages.pose_with_covariance(pose, HEADER)
    covariance = stamped.pose.covariance.reshape(6, 6)
    assert np.isfinite(covariance).all() and (np.diag(covariance) > 0).all()
    assert (covariance == np.diag(np.diag(covariance))).all()
    point, turn = stamped.pose.pose.position, stamped.pose.pose.orientation
    assert np.isfinite([point.x, point.y, point.z]).all()
    assert turn.z**2 + turn.w**2 == pytest.approx(1.0) and turn.x == turn.y == 0.0
    fix = messages.nav_sat_fix(pose, HEADER)
    assert (fix is None) == local
    if fix is not None:
        assert np.isfinite([fix.latitude, fix.longitude, fix.altitude]).all()
        assert (fix.position_covariance.reshape(3, 3).diagonal() > 0).all()
    rows = messages.read_cloud(messages.hypotheses_cloud([pose], HEADER, not local))
    assert np.isfinite(np.array(rows[0].tolist())).all()


@given(count=st.integers(0, 6))
def test_the_cloud_survives_the_wire_with_all_its_columns(count: int):
    poses = base_poses(count)
    cloud = messages.hypotheses_cloud(poses, HEADER, georeferenced=True)
    cloud = deserialize_message(serialize_message(cloud), PointCloud2)
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, count, 64, 64 * count)
    offsets = {field.name: (field.offset, field.datatype) for field in cloud.fields}
    floats = ("x", "y", "z", "yaw", "score", "sigma", "rank", "sigma_yaw", "probability", "support")
    assert offsets == {name: (4 * i, 7) for i, name in enumerate(floats)} | {
        "lat": (40, 8),
        "lon": (48, 8),
        "alt": (56, 8),
    }
    rows = messages.read_cloud(cloud)
    for row, pose in zip(rows, poses, strict=True):
        assert (row["lat"], row["lon"], row["alt"]) == (pose.latitude_deg, pose.longitude_deg, pose.altitude_m)
        assert row["x"] == np.float32(pose.position_m[0]) and row["rank"] == pose.rank


def test_a_local_map_has_no_position_on_earth():
    poses = base_poses(2, datum=None)
    cloud = messages.hypotheses_cloud(poses, HEADER, georeferenced=False)
    assert [field.name for field in cloud.fields][-1] == "support"
    assert messages.nav_sat_fix(poses[0], HEADER) is None


def test_stamps_and_frames_are_those_that_were_given():
    (pose,) = base_poses(1)
    for message in (
        messages.pose_with_covariance(pose, HEADER),
        messages.nav_sat_fix(pose, HEADER),
        messages.pose_array([pose], HEADER),
        messages.hypotheses_cloud([pose], HEADER, True),
    ):
        assert messages.stamp_ns(message.header.stamp) == 1_700_000_000_123_456_789
        assert message.header.frame_id == "map"


def test_messages_serialize():
    (pose,) = base_poses(1)
    stamped = messages.pose_with_covariance(pose, HEADER)
    assert deserialize_message(serialize_message(stamped), PoseWithCovarianceStamped) == stamped
    fix = messages.nav_sat_fix(pose, HEADER)
    assert deserialize_message(serialize_message(fix), NavSatFix) == fix


def test_images_are_decoded_from_both_transports():
    image = picture(1)
    raw = RosImage(height=48, width=64, encoding="rgb8", step=64 * 3 + 5)
    rows = np.zeros((48, 64 * 3 + 5), np.uint8)
    rows[:, : 64 * 3] = image.reshape(48, -1)
    raw.data = rows.tobytes()
    assert (messages.decode(raw) == image).all()
    compressed = CompressedImage(format="jpeg", data=jpeg(image))
    assert np.abs(messages.decode(compressed).astype(int) - image).mean() < 4


def test_large_jpegs_are_decoded_no_larger_than_the_network_needs_and_raw_images_as_they_are():
    compressed = CompressedImage(format="jpeg", data=jpeg(picture(1, 128, 96)))
    assert messages.decode(compressed, (32, 24)).shape == (24, 32, 3)
    raw = RosImage(height=4, width=8, encoding="rgb8", step=24, data=bytes(96))
    assert messages.decode(raw, (2, 2)).shape == (4, 8, 3)


@pytest.mark.parametrize("data", [b"", b"not an image", jpeg(picture(1))[:-300]])
def test_an_image_that_does_not_decode_is_named_by_its_stamp(data: bytes):
    message = CompressedImage(header=HEADER, data=data)
    with pytest.raises(DataError, match="image of 1700000000123456789 ns"):
        messages.decode(message)


def test_the_modules_without_a_node_hold_no_rclpy():
    for name in ("messages", "base_pose", "health", "latest_slot", "evaluate_bag"):
        text = (Path(messages.__file__).parent / f"{name}.py").read_text()
        assert "import rclpy" not in text and "from rclpy" not in text


def raw_image(encoding: str) -> RosImage:
    message = RosImage(width=2, height=1, step=6, encoding=encoding)
    message.data = bytes(range(6))
    return message


def test_an_encoding_that_is_not_ours_names_the_known_ones_where_there_is_no_cv_bridge():
    with pytest.raises(DataError, match=r"'16UC7' is not known. Known are .*rgb8"):
        messages.decode(raw_image("16UC7"))


def test_an_encoding_that_is_not_ours_goes_to_the_distributions_cv_bridge(tmp_path, monkeypatch):
    (tmp_path / "cv_bridge.py").write_text(
        "import numpy\n"
        "class CvBridge:\n"
        "    def imgmsg_to_cv2(self, message, encoding):\n"
        "        if message.encoding == 'broken':\n"
        "            raise RuntimeError('no such conversion')\n"
        "        assert encoding == 'rgb8'\n"
        "        return numpy.full((message.height, message.width, 3), 7, numpy.uint8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert messages.decode(raw_image("16UC7")).tolist() == [[[7, 7, 7], [7, 7, 7]]]
    with pytest.raises(DataError, match="no such conversion"):
        messages.decode(raw_image("broken"))
    assert messages.decode(raw_image("rgb8")).tolist() == [[[0, 1, 2], [3, 4, 5]]]
