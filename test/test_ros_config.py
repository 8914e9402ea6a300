"""What is shipped for other programs: robot_localization, RViz, Foxglove and Fast DDS."""

from __future__ import annotations

import ast
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import ros_support
import yaml
from rclpy.context import Context
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_support import ROOT, Program
from sensor_msgs.msg import Image

from vgssl_core.errors import MapError
from vgssl_ros.map_datum import map_datum

FOLDER = ROOT / "config" / "ros"
#: What the node publishes and listens to, as the README's table has it.
PUBLISHED = {"pose", "fix", "hypotheses", "hypotheses_cloud", "markers", "match_image/compressed", "map_info"}
LISTENED = {"odom", "initial_fix", "initial_pose"}
#: Topics of others: the EKF's output, diagnostics, clicks in the viewers.
FOREIGN = {"/odometry/global", "/diagnostics", "/goal_pose", "/clicked_point"}
#: Parameters that the filters declare: cra-ros-pkg/robot_localization, src/ros_filter.cpp and src/navsat_transform.cpp,
#: branches humble-devel and ros2.
EKF_PARAMETERS = {
    *("map_frame", "odom_frame", "base_link_frame", "world_frame", "publish_tf", "frequency", "sensor_timeout"),
    *("two_d_mode", "print_diagnostics", "smooth_lagged_data", "history_length"),
    *("process_noise_covariance", "initial_estimate_covariance"),
    *(f"odom{n}{end}" for n in (0, 1) for end in ("", "_config", "_queue_size", "_differential", "_relative")),
    *(f"odom{n}_{what}_rejection_threshold" for n in (0, 1) for what in ("pose", "twist")),
    *(f"pose0{end}" for end in ("", "_config", "_queue_size", "_differential", "_relative", "_rejection_threshold")),
}
NAVSAT_PARAMETERS = {
    *("frequency", "delay", "transform_timeout", "magnetic_declination_radians", "yaw_offset", "use_odometry_yaw"),
    *("zero_altitude", "publish_filtered_gps", "broadcast_cartesian_transform", "use_local_cartesian"),
    *("wait_for_datum", "datum"),
}
OF_EVERY_NODE = {"use_sim_time", "start_type_description_service"}
STATE = ["x", "y", "z", "roll", "pitch", "yaw", "vx", "vy", "vz", "vroll", "vpitch", "vyaw", "ax", "ay", "az"]


def parameters_of(file: str) -> dict[str, Any]:
    """A parameter file as a node of any name gets it, read by rcl itself, which is stricter than YAML."""
    context = Context()
    rclpy.init(context=context, args=["--ros-args", "--params-file", str(FOLDER / file)])
    node = rclpy.create_node(
        "any_name",
        context=context,
        namespace="robot",
        automatically_declare_parameters_from_overrides=True,
        start_parameter_services=False,
        enable_rosout=False,
    )
    try:
        return {
            name: item.value for name, item in node.get_parameters_by_prefix("").items() if name not in OF_EVERY_NODE
        }
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ros_support.environment().items():
        monkeypatch.setenv(name, value)


def _fused(flags: list[bool]) -> set[str]:
    return {name for name, flag in zip(STATE, flags, strict=True) if flag}


@pytest.mark.parametrize("recipe", ["pose", "fix"])
def test_the_ekf_fuses_speeds_of_odometry_and_places_of_the_localizer(recipe: str) -> None:
    given = parameters_of(f"ekf_{recipe}.yaml")
    assert set(given) <= EKF_PARAMETERS
    assert given["world_frame"] == given["map_frame"] != given["odom_frame"]
    assert given["smooth_lagged_data"] and given["history_length"] > 0
    assert _fused(given["odom0_config"]) == {"vx", "vy", "vyaw"}
    assert given["pose0"] == "localizer/pose"
    if recipe == "pose":
        assert _fused(given["pose0_config"]) == {"x", "y", "yaw"} and "odom1" not in given
    else:
        assert given["odom1"] == "odometry/gps" and _fused(given["odom1_config"]) == {"x", "y"}
        assert _fused(given["pose0_config"]) == {"yaw"} and given["odom1_pose_rejection_threshold"] > 0
    assert given["pose0_rejection_threshold"] > 0


@pytest.mark.parametrize("recipe", ["pose", "fix"])
def test_the_first_pose_anywhere_in_the_map_passes_the_threshold_of_rejection(recipe: str) -> None:
    given = parameters_of(f"ekf_{recipe}.yaml")
    for name in ("process_noise_covariance", "initial_estimate_covariance"):
        matrix = np.reshape(given[name], (15, 15))
        assert (np.diagonal(matrix) > 0).all() and (matrix == np.diag(np.diagonal(matrix))).all()
    x, y, yaw = (given["initial_estimate_covariance"][16 * STATE.index(name)] for name in ("x", "y", "yaw"))
    # Mahalanobis distance of a pose 10 km away that looks backwards.
    assert np.sqrt(10_000**2 / x + 10_000**2 / y + np.pi**2 / yaw) < given["pose0_rejection_threshold"]


def test_navsat_transform_waits_for_the_datum_and_asks_no_compass() -> None:
    given = parameters_of("navsat_transform.yaml")
    assert set(given) <= NAVSAT_PARAMETERS
    assert given["wait_for_datum"] and "datum" not in given
    assert given["magnetic_declination_radians"] == given["yaw_offset"] == 0.0
    # The ENU plane is broken in Humble's release.
    assert given["use_local_cartesian"] is False


def _texts(content: Any) -> Iterator[str]:
    """All texts of a nested structure, keys too."""
    if isinstance(content, dict):
        yield from itertools.chain(content, *map(_texts, content.values()))
    elif isinstance(content, list):
        yield from itertools.chain.from_iterable(map(_texts, content))
    elif isinstance(content, str):
        yield content


def _topics(content: Any) -> set[str]:
    """Absolute topic names; those of message paths too."""
    return {re.sub(r"(\.[^/]*)?$", "", text, count=1) for text in _texts(content) if re.match(r"/[a-z_]", text)}


def test_the_nodes_topics_are_those_that_the_viewers_know() -> None:
    known = {f"/localizer/{name}" for name in PUBLISHED} | {f"/{name}" for name in LISTENED} | FOREIGN
    rviz = yaml.safe_load((FOLDER / "vgssl.rviz").read_text())["Visualization Manager"]
    foxglove = json.loads((FOLDER / "foxglove.json").read_text())
    for topics in (_topics([rviz["Displays"], rviz["Tools"]]), _topics(foxglove["configById"])):
        assert topics <= known
        assert topics >= {f"/localizer/{name}" for name in PUBLISHED - {"fix", "map_info"}}
    assert {"/localizer/fix", "/localizer/map_info"} <= _topics(foxglove)


def _private_topics(*calls: str) -> set[str]:
    """Names after ``~/`` that the node's sources give to these methods."""
    found: set[str] = set()
    for path in (ROOT / "vgssl_ros").glob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if ast.unparse(call.func).split(".")[-1] in calls:
                found |= {str(item.value) for item in call.args if isinstance(item, ast.Constant)}
    return found


def test_the_node_publishes_and_hears_what_the_table_has() -> None:
    published = _private_topics("create_publisher", "create_lifecycle_publisher")
    assert {name for name in published if name.startswith("~/")} == {f"~/{name}" for name in PUBLISHED}
    assert _private_topics("create_subscription", "subscribe") >= LISTENED


def test_rviz_displays_know_their_class_and_their_quality_of_service() -> None:
    content = yaml.safe_load((FOLDER / "vgssl.rviz").read_text())["Visualization Manager"]
    assert content["Global Options"]["Fixed Frame"] == "map"
    for display in content["Displays"]:
        assert display["Class"].startswith("rviz_default_plugins/")
        if "Topic" in display:
            assert display["Topic"]["Reliability Policy"] == "Reliable" and display["Topic"]["Value"].startswith("/")


def test_every_panel_of_the_foxglove_layout_is_shown_once() -> None:
    content = json.loads((FOLDER / "foxglove.json").read_text())

    def panels(node: Any) -> list[str]:
        return [node] if isinstance(node, str) else [*panels(node["first"]), *panels(node["second"])]

    shown = panels(content["layout"])
    assert sorted(shown) == sorted(content["configById"]) and len(shown) == len(set(shown))


def _without_whitelist(path: Path) -> ElementTree.Element:
    root = ElementTree.parse(path).getroot()
    for transport in root.iter():
        for child in [c for c in transport if c.tag.endswith("interfaceWhiteList")]:
            transport.remove(child)
    return root


def _content(root: ElementTree.Element) -> list[tuple[str, str]]:
    """Tags and texts, without the names that the profiles give to their parts."""
    named = ("transport_id",)
    items = [(item.tag.split("}")[-1], (item.text or "").strip()) for item in root.iter()]
    return [(tag, "" if tag in named else text) for tag, text in items]


def test_the_profile_for_large_images_is_the_local_one_without_its_bars() -> None:
    shipped = ElementTree.parse(FOLDER / "fastdds_large_images.xml").getroot()
    assert _content(shipped) == _content(_without_whitelist(ROOT / "config" / "fastdds_local.xml"))
    assert "interfaceWhiteList" not in ElementTree.tostring(shipped, "unicode")


def _kept_on_this_machine(folder: Path) -> Path:
    """The shipped profile, with sockets on the loopback interface only."""
    text = (FOLDER / "fastdds_large_images.xml").read_text()
    bars = "<interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>"
    (folder / "profile.xml").write_text(text.replace("<type>UDPv4</type>", f"<type>UDPv4</type>{bars}"))
    return folder / "profile.xml"


def test_large_images_arrive_from_a_camera_with_the_profile(tmp_path: Path) -> None:
    count = 30
    profile = _kept_on_this_machine(tmp_path)
    assert "127.0.0.1" in profile.read_text()
    environment = {**ros_support.environment(), "FASTDDS_DEFAULT_PROFILES_FILE": str(profile)}
    environment["PYTHONPATH"] = f"{ROOT / 'test'}:{environment['PYTHONPATH']}"
    with ros_support.ros_node() as ros, Program(["large_image_publisher", str(count)], environment) as program:
        received: list[int] = []
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        ros.node.create_subscription(Image, "/large", lambda image: received.append(len(image.data)), qos)
        ros.wait(lambda: program.process.poll() is not None, "the end of the camera")
        # Fast DDS tells here what it does not understand of a profile.
        assert program.end() == 0 and not program.output, program.output
    # Best effort loses some on a busy machine.
    assert len(received) >= count / 2 and set(received) == {640 * 480 * 3}


def test_the_datum_of_a_map_is_read_without_the_map(tmp_path: Path) -> None:
    datum = {"latitude_deg": 48.5, "longitude_deg": -122.25, "altitude_m": 12.0}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump({"datum": datum}))
    assert map_datum(tmp_path) == (48.5, -122.25, 12.0)
    (tmp_path / "map.yaml").write_text(json.dumps({"datum": datum}))
    assert map_datum(tmp_path) == (48.5, -122.25, 12.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no map at"),
        ("datum: null", "is a local map.*use the recipe pose"),
        ("datum: {latitude_deg: 1.0}", "is damaged"),
        ("datum: {latitude_deg: 91.0, longitude_deg: 0.0, altitude_m: 0.0}", "is not on Earth"),
        ("datum: {latitude_deg: .nan, longitude_deg: 0.0, altitude_m: 0.0}", "is not on Earth"),
        ("datum: [", "is damaged"),
    ],
)
def test_a_map_without_a_datum_is_refused_with_the_reason(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "map.yaml").write_text(content)
    with pytest.raises(MapError, match=message):
        map_datum(tmp_path)
