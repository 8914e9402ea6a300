"""What the node hears besides images, without a node: odometry, priors, cameras; and what it shows of its map."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from hypothesis import given
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from ros_support import IMAGE_TOPIC, jpeg
from sensor_msgs.msg import NavSatFix
from std_msgs.msg import Header
from tiny import DATUM, picture

from vgssl_core.bags import BagWriter
from vgssl_core.errors import ConfigError
from vgssl_core.geomap.map_images import frame_source
from vgssl_core.geomap.pictures import MapPictures
from vgssl_core.localization import DEFAULT, Localization, Region
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.odometry_track import OdometryTrack, PlanarPose
from vgssl_ros import parameters, parameters_document
from vgssl_ros.base_pose import BasePose, CameraMount
from vgssl_ros.cameras import Camera, cameras_of
from vgssl_ros.map_info import map_info
from vgssl_ros.match_picture import Match, side_by_side
from vgssl_ros.messages import markers, planar_pose
from vgssl_ros.odometry import OdometryInput
from vgssl_ros.prior import Prior, PriorSettings
from vgssl_ros.tracking import Tracker

SECOND = 1_000_000_000
ROOT = Path(__file__).resolve().parent.parent
angles, metres = st.floats(-math.pi, math.pi), st.floats(-1e4, 1e4)
planar_poses = st.builds(PlanarPose, metres, metres, angles)


@given(a=planar_poses, b=planar_poses)
def test_planar_poses_compose_like_matrices(a: PlanarPose, b: PlanarPose):
    def matrix(pose: PlanarPose) -> np.ndarray:
        cosine, sine = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
        return np.array([[cosine, -sine, pose.x_m], [sine, cosine, pose.y_m], [0, 0, 1]])

    assert np.allclose(matrix(a @ b), matrix(a) @ matrix(b), atol=1e-6)
    assert np.allclose(matrix(a.inverse()), np.linalg.inv(matrix(a)), atol=1e-6)


def driven(at_s: float) -> PlanarPose:
    """A steady drive around a bend that crosses the wrap of the heading."""
    return PlanarPose(3.0 * at_s, -1.5 * at_s, math.remainder(3.0 + 0.2 * at_s, math.tau))


@given(asked_s=st.floats(0.0, 4.4))
def test_between_odometry_messages_and_shortly_after_the_last_the_robot_goes_on(asked_s: float):
    track = OdometryTrack(max_gap_s=0.5)
    for tick in range(40):
        track.add(tick * SECOND // 10, driven(tick / 10))
    found, true = track.at(round(asked_s * SECOND)), driven(asked_s)
    assert found == pytest.approx(true, abs=1e-5) or math.tau - abs(found.yaw_rad - true.yaw_rad) < 1e-5


def test_nothing_is_guessed_before_the_first_message_in_a_gap_and_long_after_the_last():
    track = OdometryTrack(max_gap_s=0.5)
    assert track.at(0) is None
    track.add(1 * SECOND, driven(1.0))
    assert track.at(1 * SECOND) == driven(1.0)
    assert track.at(SECOND // 2) is None and track.at(SECOND * 11 // 10) is None
    track.add(2 * SECOND, driven(2.0))
    assert track.at(SECOND * 3 // 2) is None
    track.add(SECOND * 22 // 10, driven(2.2))
    assert track.at(SECOND * 26 // 10) is not None and track.at(3 * SECOND) is None


def test_late_and_broken_odometry_is_left_out_and_a_loop_begins_anew():
    track = OdometryTrack(max_gap_s=0.5)
    track.add(10 * SECOND, driven(0.0))
    track.add(10 * SECOND + 100, PlanarPose(math.nan, 0.0, 0.0))
    track.add(10 * SECOND - 100, driven(5.0))
    assert track.at(10 * SECOND) == driven(0.0) and track.at(10 * SECOND - 100) is None
    track.add(1 * SECOND, driven(7.0))
    assert track.at(10 * SECOND) is None and track.at(1 * SECOND) == driven(7.0)


class Heard:
    """A filter that keeps what it hears."""

    def __init__(self) -> None:
        self.motions: list[Motion | None] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def update(self, stamp_ns: int, localization: Localization, motion: Motion | None) -> None:
        self.motions.append(motion)


def test_the_filter_of_each_camera_hears_how_that_camera_moved():
    made: list[Heard] = []

    def new() -> Heard:
        made.append(Heard())
        return made[-1]

    track = OdometryTrack(0.5)
    for tick in range(40):
        track.add(tick * SECOND // 10, driven(tick / 10))
    front, rear = (Camera(topic, CameraMount([1.0, 0.5, 0.0, 0.0, 0.0, yaw])) for topic, yaw in (("/f", 0), ("/r", 3)))
    tracker: Any = Tracker(new, (front, rear), track)
    tracker.update(front, 1 * SECOND, None)
    tracker.update(rear, 2 * SECOND, None)
    tracker.update(front, 3 * SECOND, None)
    assert [len(item.motions) for item in made] == [2, 1] and made[0].motions[0] is made[1].motions[0] is None
    mount = front.mount.planar
    expected = (driven(1.0) @ mount).inverse() @ (driven(3.0) @ mount)
    motion = made[0].motions[1]
    assert (motion.dx_m, motion.dy_m, motion.dyaw_rad) == pytest.approx(expected)
    # Without odometry nothing is told, and a new beginning forgets.
    tracker.update(front, 20 * SECOND, None)
    tracker.begin_anew()
    tracker.update(front, 21 * SECOND, None)
    assert made[0].motions[2] is None and [item.resets for item in made] == [1, 1]


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, line: str) -> None:
        self.lines.append(line)


class Time:
    now_ns = 100 * SECOND


def prior(datum: Any = DATUM) -> tuple[Prior, Log, type[Time]]:
    log, time = Log(), type("Now", (Time,), {})
    return Prior(datum, "map", lambda: PriorSettings(50.0, 10.0), lambda: time.now_ns, log), log, time


def fix_at(east_m: float, north_m: float, variance: float = 0.0) -> NavSatFix:
    latitude, longitude, altitude = map(float, DATUM.to_wgs84([east_m, north_m, 0.0]))
    message = NavSatFix(latitude=latitude, longitude=longitude, altitude=altitude)
    message.position_covariance[0] = message.position_covariance[4] = variance
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
    return message


@pytest.mark.parametrize(("variance", "radius_m"), [(0.0, 50.0), (4.0, 50.0), (900.0, 90.0), (math.nan, 50.0)])
def test_a_fix_is_a_region_around_it_as_large_as_it_is_uncertain(variance: float, radius_m: float):
    told, _, _ = prior()
    assert told.region() is None
    assert told.take_fix(fix_at(30.0, -40.0, variance))
    region = told.region()
    assert (region.x_m, region.y_m, region.radius_m) == pytest.approx((30.0, -40.0, radius_m), abs=1e-3)


@pytest.mark.parametrize("later_s", [11.0, -1.0])
def test_a_prior_ends_with_its_time_and_when_the_clock_jumps_back(later_s: float):
    told, _, time = prior()
    told.take_fix(fix_at(0.0, 0.0))
    time.now_ns += 9 * SECOND
    assert told.region() is not None
    time.now_ns += round((later_s - 9) * SECOND)
    assert told.region() is None
    time.now_ns = Time.now_ns
    assert told.region() is None


def test_what_is_no_prior_is_left_out_and_told_once():
    told, log, _ = prior()
    for _ in range(3):
        assert not told.take_fix(NavSatFix(latitude=math.nan))
    assert not told.take_pose(PoseWithCovarianceStamped(header=Header(frame_id="odom")))
    broken = PoseWithCovarianceStamped()
    broken.pose.pose.position.x = math.inf
    assert not told.take_pose(broken)
    assert [line.split(":")[0] for line in log.lines] == [f"initial_{n} left out" for n in ("fix", "pose", "pose")]
    local, log, _ = prior(datum=None)
    assert not local.take_fix(fix_at(0.0, 0.0)) and "send initial_pose" in log.lines[0]
    assert local.take_pose(PoseWithCovarianceStamped()) and local.region() == Region(0.0, 0.0, 50.0)


def resolve(topic: str) -> str:
    if " " in topic:
        raise RuntimeError("failed to resolve name: no spaces, at nowhere")
    return topic if topic.startswith("/") else f"/robot/{topic}"


def given_cameras(**changes: Any) -> dict[str, Any]:
    return {item.name: item.default for item in parameters.PARAMETERS} | changes


def test_cameras_have_topics_and_mounts_of_their_own():
    (only,) = cameras_of(given_cameras(image_transport="compressed"), resolve)
    assert only.topic == "/robot/image/compressed" and only.mount.planar == PlanarPose()
    numbers = [1.0, 0.0, 0.5, 0.0, 0.0, 0.0, -1.0, 0.0, 0.5, 0.0, 0.0, math.pi]
    front, rear = cameras_of(given_cameras(image_topics=["a", "/b"], camera_extrinsics=numbers), resolve)
    assert (front.topic, rear.topic) == ("/robot/a", "/b")
    assert rear.mount.planar == pytest.approx(PlanarPose(-1.0, 0.0, math.pi))
    with pytest.raises(ConfigError, match="image_topics 'a b' is no topic name"):
        cameras_of(given_cameras(image_topics=["a b"]), resolve)


def base_pose(yaw_sigma: float = 0.1) -> BasePose:
    return BasePose(np.array([1.0, 2.0, 0.0]), 0.5, np.full(3, 0.01), 0.01, yaw_sigma, 0.5, 0.9, 3, 0)


def test_map_to_odom_needs_a_heading_and_odometry_and_is_forgotten_with_the_map():
    sent: list[Any] = []
    taken: Any = OdometryInput(0.5, "map", SimpleNamespace(sendTransform=sent.append))
    message = Odometry(header=Header(frame_id="odom"))
    taken.take(message)
    taken.correct(9 * SECOND, base_pose())
    taken.correct(0, base_pose(yaw_sigma=1.8))
    taken.take(message)
    assert not sent
    taken.correct(0, base_pose())
    taken.take(message)
    assert (sent[0].transform.translation.x, sent[0].child_frame_id) == (1.0, "odom")
    taken.forget()
    taken.take(message)
    assert len(sent) == 1
    message.pose.pose.orientation.w = 0.0
    assert math.isnan(planar_pose(message.pose.pose).yaw_rad)


def test_deviations_have_a_floor_and_an_unknown_heading_has_no_arrow():
    pose = base_pose(yaw_sigma=1.8).floored(1.0, 0.1)
    assert pose.sigma_m.tolist() == [1.0] * 3 and (pose.horizontal_sigma_m, pose.yaw_sigma_rad) == (1.0, 1.8)
    assert {item.ns for item in markers([pose], None, Header()).markers[1:]} == {"position", "probability"}
    assert len(markers([], None, Header()).markers) == 1


def test_pictures_come_from_files_and_bags_and_their_loss_is_shown(tmp_path: Path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(3):
            bag.compressed_image(f"{IMAGE_TOPIC}/compressed", number * SECOND, "camera", jpeg(picture(number)))
    (tmp_path / "photo.jpg").write_bytes(jpeg(picture(7)))
    topic = f"{IMAGE_TOPIC}/compressed"
    sources = [str(tmp_path / "photo.jpg"), str(tmp_path / "gone.jpg")]
    sources += [frame_source(tmp_path / "bag", topic, stamp) for stamp in (2 * SECOND, 2 * SECOND + 1)]
    sources.append(frame_source(tmp_path / "gone", topic, 0))
    geomap: Any = SimpleNamespace(sources=sources)
    pictures = MapPictures(geomap)
    shown = [pictures.picture(index) for index in range(5)]
    assert [image is None for image in shown] == [False, True, False, True, True]
    for image, number in ((shown[0], 7), (shown[2], 2)):
        assert np.abs(image.astype(int) - picture(number)).mean() < 4
    drawn = side_by_side(Match(picture(7), pictures, 0, "P 0.9 accepted", True))
    gone = side_by_side(Match(picture(7), pictures, 1, "", False))
    assert drawn.shape == gone.shape == (262, 640, 3) and (gone[-200:, 330:] == 96).all()


def test_the_information_about_a_local_map_is_plain_json():
    manifest = SimpleNamespace(map_id="m", created="", source="", low_m=(0.0, 0.0), high_m=(1.0, 1.0))
    known = {"datum": None, "path": "map", "spacing_m": 1.0, "model_id": "", "search_name": "", "manifest": manifest}
    geomap = type("Map", (), {**known, "__len__": lambda _: 3})()
    localizer: Any = SimpleNamespace(geomap=geomap, calibration=DEFAULT, threshold=0.9, embedder=None)
    told = json.loads(map_info(localizer, "map", ["/image"]))
    assert told["datum"] is None and told["count"] == 3 and told["calibration"]["threshold"] == 0.9


def test_the_filter_is_configured_by_the_parameters_of_its_names():
    defaults = given_cameras()
    assert parameters.filter_config(defaults) == FilterConfig()
    changed = parameters.filter_config({**defaults, "filter_confirmations": 7, "threshold": 0.5, "max_hypotheses": 2})
    assert changed == FilterConfig(confirmations=7, threshold=0.5, max_hypotheses=2)


def test_the_document_of_the_parameters_is_current(tmp_path: Path):
    assert parameters_document.main([str(tmp_path / "made.md")]) == 0
    made = (tmp_path / "made.md").read_text()
    assert made == (ROOT / "docs" / "parameters.md").read_text(), (
        "run: python -m vgssl_ros.parameters_document docs/parameters.md"
    )
    rows = [line for line in made.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [item.name for item in parameters.PARAMETERS]
    assert parameters_document.main([]) == 2
