"""One running node on real DDS: its services, its parameters, priors, and what it tells only when somebody listens."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ros_support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from node_support import compressed
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from ros_support import IMAGE_TOPIC, STEP_M, Ros, jpeg
from sensor_msgs.msg import CompressedImage, NavSatFix, NavSatStatus
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger
from tiny import DATUM, picture
from visualization_msgs.msg import Marker, MarkerArray

from vgssl_core.geomap import load_map
from vgssl_core.geomap.manifest import MANIFEST
from vgssl_ros.messages import stamp_ns
from vgssl_ros.parameters import PARAMETERS, Specification
from vgssl_ros.publishers import LATCHED

COUNT = 6


def place_m(number: int) -> float:
    """How far east of the map's datum, which is its middle, a picture was taken."""
    return (number - (COUNT - 1) / 2) * STEP_M


@pytest.fixture(scope="module")
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


@pytest.fixture(scope="module")
def built_map(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("services")
    return ros_support.build_map(folder / "map", tiny_bundle, ros_support.write_drive(folder / "drive", COUNT))


@pytest.fixture(scope="module")
def node(ros: Ros, built_map: Path, tiny_bundle: Path) -> Iterator[ros_support.Program]:
    given = {"map_path": built_map, "bundle_path": tiny_bundle, "image_topic": IMAGE_TOPIC, "filter": False}
    given |= {"image_transport": "compressed", "image_qos": "reliable", "threshold": 1e-6, "prior_radius_m": 20.0}
    with ros_support.localizer(given) as program:
        program.wait_for("Active")
        yield program
        program.interrupt()
        assert program.end() == 0 and "Traceback" not in program.output, program.output


class Camera:
    """Shows pictures as long as somebody wants an answer."""

    def __init__(self, ros: Ros) -> None:
        self._ros = ros
        self.publisher: Publisher = ros.node.create_publisher(CompressedImage, f"{IMAGE_TOPIC}/compressed", 10)
        self.last_stamp = 0
        self._due_s = 0.0

    def show(self, number: int) -> int:
        """Show a picture once; its stamp."""
        self.last_stamp += 1_000_003
        self.publisher.publish(compressed(jpeg(picture(number)), self.last_stamp))
        return self.last_stamp

    def keep_showing(self, number: int) -> None:
        """Show a picture, at most 50 times a second, where somebody looks."""
        if self.publisher.get_subscription_count() and time.monotonic() >= self._due_s:
            self.show(number)
            self._due_s = time.monotonic() + 0.02

    def until(self, condition: Callable[[], Any], number: int, what: str) -> None:
        """Show a picture again and again until a condition holds."""
        self._ros.wait(lambda: self.keep_showing(number) or condition(), what)

    def answer(self, kind: Any, name: str, number: int) -> Any:
        """A service's answer while a picture is shown."""
        return self._ros.call(kind, f"/localizer/{name}", kind.Request(), lambda: self.keep_showing(number))


@pytest.fixture(scope="module")
def camera(ros: Ros, node: ros_support.Program) -> Camera:
    return Camera(ros)


class Heard:
    """What a topic says, while it is heard."""

    def __init__(self, ros: Ros, kind: Any, topic: str, qos: Any = 100) -> None:
        self.messages: list[Any] = []
        self._ros = ros
        self._subscription = ros.node.create_subscription(kind, topic, self.messages.append, qos)

    def __enter__(self) -> list[Any]:
        return self.messages

    def __exit__(self, *_: object) -> None:
        self._ros.node.destroy_subscription(self._subscription)


def status(messages: list[DiagnosticArray]) -> dict[str, str]:
    """The newest diagnostics."""
    return {item.key: item.value for item in messages[-1].status[0].values} if messages else {}


def map_info(ros: Ros) -> dict[str, Any]:
    """What a subscriber that comes late is told."""
    with Heard(ros, String, "/localizer/map_info", LATCHED) as told:
        ros.wait(lambda: told, "map_info")
        return json.loads(told[-1].data)


def best_is_at(ros: Ros, camera: Camera, number: int, x_m: float, send: Callable[[], None] = lambda: None) -> None:
    """Show a picture, and send something besides, until the best hypothesis lies where it should."""
    with Heard(ros, PoseArray, "/localizer/hypotheses") as heard:

        def is_there() -> bool:
            send()
            return bool(heard and heard[-1].poses) and abs(heard[-1].poses[0].position.x - x_m) < 2.0

        camera.until(is_there, number, f"picture {number} at {x_m} m")


def set_parameter(ros: Ros, name: str, value: Any) -> Any:
    kind = Parameter.Type.STRING_ARRAY if value == [] else None
    message: ParameterMessage = Parameter(name, kind, value).to_parameter_msg()
    request = SetParameters.Request(parameters=[message])
    return ros.call(SetParameters, "/localizer/set_parameters", request).results[0]


def test_a_late_subscriber_learns_what_the_node_localizes_with(ros: Ros, camera: Camera, built_map: Path):
    told, geomap = map_info(ros), load_map(built_map)
    assert (told["map_id"], told["model_id"]) == (geomap.manifest.map_id, geomap.model_id)
    assert told["count"] == COUNT and told["map_frame"] == "map"
    assert told["datum"]["latitude_deg"] == pytest.approx(DATUM.latitude_deg)
    assert told["image_topics"] == [f"{IMAGE_TOPIC}/compressed"] and told["calibration"]["is_default"]


def test_while_nobody_listens_only_localize_once_looks_at_the_camera(ros: Ros, camera: Camera):
    with Heard(ros, DiagnosticArray, "/diagnostics") as heard:
        ros.wait(lambda: "waits for a listener" in status(heard).get("state", ""), "a node that waits")
    assert camera.publisher.get_subscription_count() == 0
    answer = camera.answer(Trigger, "localize_once", 3)
    told = json.loads(answer.message)
    assert answer.success and told["accepted"] and 0 < told["probability"] <= 1
    assert told["x_m"] == pytest.approx(place_m(3), abs=STEP_M / 2) and told["latitude_deg"] is not None
    ros.wait(lambda: camera.publisher.get_subscription_count() == 0, "the end of the subscription")


def test_a_disabled_node_is_silent_but_for_localize_once(ros: Ros, camera: Camera):
    with Heard(ros, PoseArray, "/localizer/hypotheses") as heard, Heard(ros, DiagnosticArray, "/diagnostics") as told:
        camera.until(lambda: heard, 1, "an answer")
        assert ros.call(SetBool, "/localizer/set_enabled", SetBool.Request(data=False)).success
        ros.wait(lambda: camera.publisher.get_subscription_count() == 0, "the end of the subscription")
        ros.wait(lambda: "disabled" in status(told).get("state", ""), "a disabled state")
        heard.clear()
        assert camera.answer(Trigger, "localize_once", 2).success
        ros.wait(lambda: camera.publisher.get_subscription_count() == 0, "silence again")
        assert len(heard) >= 1
        assert ros.call(SetBool, "/localizer/set_enabled", SetBool.Request(data=True)).message == "enabled"
        heard.clear()
        camera.until(lambda: heard and status(told).get("state") == "active", 1, "an answer again")


def test_an_image_that_does_not_decode_is_the_answer_of_localize_once(ros: Ros, camera: Camera):
    def show_damage() -> None:
        if camera.publisher.get_subscription_count():
            camera.publisher.publish(compressed(b"no image", 7))

    answer = ros.call(Trigger, "/localizer/localize_once", Trigger.Request(), show_damage)
    assert not answer.success and "does not decode" in answer.message


def test_markers_and_the_picture_of_the_match_come_to_those_who_listen(ros: Ros, camera: Camera):
    with Heard(ros, MarkerArray, "/localizer/markers") as heard:
        camera.until(lambda: heard, 2, "markers")
        first, *others = heard[-1].markers
    assert first.action == Marker.DELETEALL and {item.ns for item in others} == {"position", "probability", "heading"}
    assert len({(item.ns, item.id) for item in others}) == len(others)
    assert all(item.header.frame_id == "map" and item.color.a > 0 for item in others)
    assert any(item.color.g > item.color.r for item in others)  # what is accepted is green
    with Heard(ros, CompressedImage, "/localizer/match_image/compressed") as pictures:
        camera.until(lambda: pictures, 2, "a picture of the match")
        shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(pictures[-1].data, np.uint8), 1), cv2.COLOR_BGR2RGB)
    query, match = np.hsplit(shown[-240:], 2)
    expected = cv2.resize(picture(2), (320, 240), interpolation=cv2.INTER_AREA)
    for half in (query, match):
        assert np.abs(half.astype(int) - expected).mean() < 12
    assert 0 < stamp_ns(pictures[-1].header.stamp) <= camera.last_stamp


def test_a_prior_restricts_the_search_until_it_expires(ros: Ros, camera: Camera):
    best_is_at(ros, camera, 5, place_m(5))
    fixes = ros.node.create_publisher(NavSatFix, "/initial_fix", 10)
    latitude, longitude, _ = map(float, DATUM.to_wgs84([0.0, 0.0, 0.0]))
    fix = NavSatFix(latitude=latitude, longitude=longitude, altitude=math.nan)
    ros.wait(fixes.get_subscription_count, "a subscriber of initial_fix")
    # What is no fix changes nothing.
    fixes.publish(NavSatFix(latitude=math.nan, longitude=0.0))
    fixes.publish(NavSatFix(status=NavSatStatus(status=NavSatStatus.STATUS_NO_FIX)))
    best_is_at(ros, camera, 5, place_m(0), lambda: fixes.publish(fix))
    assert set_parameter(ros, "prior_lifetime_s", 0.0).successful
    best_is_at(ros, camera, 5, place_m(5))
    assert set_parameter(ros, "prior_lifetime_s", 600.0).successful

    poses = ros.node.create_publisher(PoseWithCovarianceStamped, "/initial_pose", 10)
    ros.wait(poses.get_subscription_count, "a subscriber of initial_pose")
    pose = PoseWithCovarianceStamped(header=Header(frame_id="map"))
    pose.pose.pose.position.x = place_m(2)
    best_is_at(ros, camera, 5, place_m(2), lambda: poses.publish(pose))
    # Where the map has nothing there is no hypothesis, and so no pose.
    pose.pose.pose.position.x = 1e5
    poses.publish(pose)
    with Heard(ros, PoseArray, "/localizer/hypotheses") as heard:
        camera.until(lambda: heard and not heard[-1].poses, 5, "an answer without hypotheses")
    assert not camera.answer(Trigger, "localize_once", 5).success
    assert set_parameter(ros, "prior_lifetime_s", 0.0).successful


def test_poses_in_another_frame_are_no_prior(ros: Ros, camera: Camera, node: ros_support.Program):
    poses = ros.node.create_publisher(PoseWithCovarianceStamped, "/initial_pose", 10)
    ros.wait(poses.get_subscription_count, "a subscriber of initial_pose")
    poses.publish(PoseWithCovarianceStamped(header=Header(frame_id="odom")))
    ros.wait(lambda: "initial_pose left out: its frame is 'odom' and not 'map'" in node.output, "a warning")


def refused_value(item: Specification) -> Any:
    """A value of the right type that a parameter must refuse; None where it takes all."""
    if item.choices:
        return "something else"
    if item.multiple_of is not None:
        return [0.0] * (item.multiple_of + 1)
    if item.maximum is not None:
        return type(item.default)(item.maximum * 2 + 1)
    return None


def test_every_parameter_is_described_and_refuses_a_wrong_type_and_what_is_out_of_range(ros: Ros, camera: Camera):
    names = [item.name for item in PARAMETERS]
    request = DescribeParameters.Request(names=names)
    described = ros.call(DescribeParameters, "/localizer/describe_parameters", request).descriptors
    for item, descriptor in zip(PARAMETERS, described, strict=True):
        assert (descriptor.description, descriptor.read_only) == (item.description, item.read_only)
        wrong_type = 1.5 if isinstance(item.default, str) else "text"
        assert not set_parameter(ros, item.name, wrong_type).successful, item.name
        out_of_range = refused_value(item)
        assert out_of_range is None or not set_parameter(ros, item.name, out_of_range).successful, item.name
        # What is read at the start or when the node is configured cannot change now.
        assert set_parameter(ros, item.name, item.default).successful == item.live or item.name == "map_path"
    assert set_parameter(ros, "prior_lifetime_s", 0.0).successful
    assert set_parameter(ros, "prior_radius_m", 20.0).successful


def test_the_map_is_reloaded_under_load_and_a_bad_one_leaves_the_old(
    ros: Ros, camera: Camera, built_map: Path, tiny_bundle: Path, tmp_path: Path, node: ros_support.Program
):
    before = map_info(ros)
    # Another place under the same path: the drive begins 4 pictures later.
    drive = ros_support.write_drive(tmp_path / "other", COUNT, seed=4)
    other = ros_support.build_map(tmp_path / "map", tiny_bundle, drive)
    assert set_parameter(ros, "map_path", str(other)).successful
    with Heard(ros, PoseArray, "/localizer/hypotheses") as heard:
        for _ in range(3):
            answer = camera.answer(Trigger, "reload_map", 5)
            assert answer.success and str(other) in answer.message
        assert map_info(ros)["map_id"] != before["map_id"]
        best_is_at(ros, camera, 5, place_m(1))

        manifest = other / MANIFEST
        content = manifest.read_bytes()
        manifest.write_bytes(content[: len(content) // 2])
        answer = camera.answer(Trigger, "reload_map", 5)
        assert not answer.success and answer.message.startswith("The old map stays: ")
        best_is_at(ros, camera, 5, place_m(1))
        assert set_parameter(ros, "map_path", str(built_map)).successful
        assert camera.answer(Trigger, "reload_map", 5).success
        best_is_at(ros, camera, 5, place_m(5))
        camera.until(lambda: len(heard) > 10, 5, "answers all along")
        stamps = [stamp_ns(item.header.stamp) for item in heard]
        assert stamps == sorted(set(stamps))
    assert map_info(ros)["map_id"] == before["map_id"]
    assert "No answer" not in node.output
