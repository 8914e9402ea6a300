"""The localizer node as its own process on real DDS: its topics, its lifecycle, and its end."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import ros_support
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_support import OUTPUTS, Listener, assert_clean, camera, raw
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_support import IMAGE_TOPIC, STEP_M, Ros
from sensor_msgs.msg import Image as RosImage
from sensor_msgs.msg import NavSatFix
from tiny import DATUM, make_bundle

from vgssl_ros import program
from vgssl_ros.messages import read_cloud


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ros_support.write_drive(tmp_path_factory.mktemp("node") / "drive")


@pytest.fixture(scope="module")
def built_map(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, drive: Path) -> Path:
    return ros_support.build_map(tmp_path_factory.mktemp("node") / "map", tiny_bundle, drive)


@pytest.fixture(scope="module")
def given(built_map: Path, tiny_bundle: Path) -> dict[str, Any]:
    return {
        "map_path": built_map,
        "bundle_path": tiny_bundle,
        "image_topic": IMAGE_TOPIC,
        "image_qos": "reliable",
        # Every image by itself, and whatever it says: this is about messages.
        "filter": False,
        "threshold": 1e-6,
    }


@pytest.fixture
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


def test_a_raw_camera_is_answered_on_every_topic_with_torch_out_of_reach(
    ros: Ros, given: dict[str, Any], tmp_path: Path
):
    env = ros_support.without_modules(tmp_path, "torch", "timm")
    with ros_support.localizer(given, env) as node:
        node.wait_for("Active: images from /camera/image_raw.")
        listener = Listener(ros)
        publisher = camera(ros, RosImage, IMAGE_TOPIC)
        stamps = [5_000_000_007 + number for number in range(6)]
        for number, stamp in enumerate(stamps):
            publisher.publish(raw(number, stamp))
            listener.wait_for_answer(stamp)
        assert all(listener.stamps(name) == stamps for name in OUTPUTS)
        ros.wait(lambda: listener.status().get("processed") == "6", "diagnostics of six answers")
        node.interrupt()
        assert_clean(node)
    for number in range(6):
        pose, fix, poses, cloud = (listener.received[name][number] for name in OUTPUTS)
        truth = DATUM.to_wgs84([number * STEP_M, 0.0, 0.0])
        assert abs(fix.latitude - truth[0]) < 1e-6 and abs(fix.longitude - truth[1]) < 1e-6
        assert (pose.header.frame_id, fix.header.frame_id, cloud.header.frame_id) == ("map", "base_link", "map")
        assert fix.position_covariance_type == NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
        rows = read_cloud(cloud)
        assert len(rows) == len(poses.poses) and rows["rank"].tolist() == list(range(len(rows)))
        assert poses.poses[0] == pose.pose.pose
        assert np.isfinite(np.array(rows.tolist())).all() and (np.diag(pose.pose.covariance.reshape(6, 6)) > 0).all()
    figures = listener.status()
    assert (figures["state"], figures["received"], figures["overwritten"]) == ("active", "6", "0")
    assert float(figures["latency_p95_ms"]) >= float(figures["latency_p50_ms"]) > 0


@pytest.mark.parametrize(
    ("moment", "number"), [("Configured", signal.SIGINT), ("Active", signal.SIGINT), ("Active", signal.SIGTERM)]
)
def test_an_early_interrupt_is_a_clean_end_too_and_so_are_many(
    given: dict[str, Any], moment: str, number: signal.Signals
):
    with ros_support.localizer(given) as node:
        node.wait_for(moment)
        node.interrupt_until_it_ends(number)
        assert_clean(node)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map_path": None, "bundle_path": None}, "map_path and bundle_path not given: set the parameters"),
        ({"map_path": "/nowhere"}, "There is no map at /nowhere"),
        ({"bundle_path": "/nowhere"}, "There is no model bundle at /nowhere"),
        ({"bundle_path": "foreign"}, "was built by|another model|of model"),
        ({"k": 0}, "Parameter k .* out of range"),
        ({"k": "many"}, "Parameter k .*expecting type"),
        ({"image_transport": "theora"}, "must be one of raw, compressed"),
        ({"backend": "abacus"}, "abacus"),
        ({"image_topic": "/bad topic"}, "image_topic '/bad topic' is no topic name .* set one such as"),
        ({"image_topic": "image/"}, "image_topic 'image/' is no topic name .*must not end with"),
        ({"image_topic": "/a//b"}, "image_topic '/a//b' is no topic name .*repeated"),
        ({"image_topic": "''"}, "image_topic '' is no topic name .*empty"),
        ({"image_topics": ["/front", "/rear"]}, "6 numbers for 2 cameras: give x y z roll pitch yaw of each"),
        ({"image_topics": ["/a", "/a"], "camera_extrinsics": [0.0] * 12}, "image_topics names a topic twice: /a, /a"),
        ({"image_topics": ["/a/"]}, "image_topics '/a/' is no topic name"),
        ({"camera_extrinsics": [0.0] * 7}, "camera_extrinsics has 7 numbers: it must have 6 for each camera"),
        ({"threshold": 1.5}, "Parameter threshold .* out of range"),
        ({"publish_tf": True}, "publish_tf needs tf2_ros, and that cannot be imported"),
    ],
)
def test_a_node_that_cannot_start_ends_with_one_line(
    given: dict[str, Any],
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    # In this process, because so many of them would take long to start.
    for name, value in ros_support.environment().items():
        monkeypatch.setenv(name, value)
    if change.get("bundle_path") == "foreign":
        change = {"bundle_path": make_bundle(tmp_path / "foreign", seed=1).path}
    assert program.run(ros_support.ros_arguments({**given, **change}), SimpleQueue()) == 1
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if "INFO" not in line]
    assert len(lines) == 1 and re.search(message, lines[0]), lines


def test_the_shipped_parameter_file_is_read_and_lacks_only_map_and_bundle(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    for name, value in ros_support.environment().items():
        monkeypatch.setenv(name, value)
    file = ros_support.ROOT / "config" / "localize.yaml"
    assert program.run(["--ros-args", "--params-file", str(file)], SimpleQueue()) == 1
    assert "map_path and bundle_path not given" in "".join(capfd.readouterr())


def test_a_process_that_cannot_configure_ends_with_status_1(given: dict[str, Any]):
    with ros_support.localizer({**given, "map_path": "/nowhere"}) as node:
        assert node.end() == 1
        assert "Traceback" not in node.output


def test_a_node_that_is_killed_and_started_again_is_heard_by_the_same_listeners(ros: Ros, given: dict[str, Any]):
    listener = Listener(ros)
    publisher = ros.node.create_publisher(RosImage, IMAGE_TOPIC, 10)
    for run in (1, 2):
        with ros_support.localizer(given) as node:
            node.wait_for("Active")
            ros.wait(
                lambda run=run: publisher.publish(raw(1, run)) or run in listener.stamps("fix"),
                f"an answer of run {run}",
            )
            node.interrupt(signal.SIGKILL)
            assert node.end() == -signal.SIGKILL
    assert listener.stamps("pose") == sorted(listener.stamps("pose"))


def test_the_lifecycle_is_followed_and_a_failed_configuration_can_be_mended(
    ros: Ros, given: dict[str, Any], tiny_bundle: Path, drive: Path, tmp_path: Path
):
    local = ros_support.build_map(tmp_path / "local", tiny_bundle, drive, "/ground_truth/odom")
    with ros_support.localizer({**given, "autostart": False, "map_path": "/nowhere"}) as node:
        listener = Listener(ros)

        def change(transition: int) -> bool:
            request = ChangeState.Request(transition=Transition(id=transition))
            return ros.call(ChangeState, "/localizer/change_state", request).success

        def state() -> int:
            return ros.call(GetState, "/localizer/get_state", GetState.Request()).current_state.id

        def set_parameter(name: str, value: ParameterValue) -> Any:
            request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
            return ros.call(SetParameters, "/localizer/set_parameters", request).results[0]

        text = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(local))
        # Before both have discovered each other, an answer can get lost.
        ros.wait(lambda: listener.diagnostics, "the node's first word")
        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        assert not change(Transition.TRANSITION_CONFIGURE)
        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        assert set_parameter("map_path", text).successful
        assert change(Transition.TRANSITION_CONFIGURE)
        refused = set_parameter("bundle_path", text)
        assert not refused.successful and "clean up first" in refused.reason
        out_of_range = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=-1.0)
        assert not set_parameter("altitude_default_sigma_m", out_of_range).successful
        altitude = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=33.0)
        assert set_parameter("altitude_default_m", altitude).successful

        assert change(Transition.TRANSITION_ACTIVATE)
        publisher = camera(ros, RosImage, IMAGE_TOPIC)
        publisher.publish(raw(1, 10))
        ros.wait(lambda: 10 in listener.stamps("pose"), "an answer while active")
        assert change(Transition.TRANSITION_DEACTIVATE)
        ros.wait(lambda: publisher.get_subscription_count() == 0, "the end of the subscription")
        assert change(Transition.TRANSITION_ACTIVATE)
        ros.wait(lambda: publisher.get_subscription_count() == 1, "a new subscription")
        listener.diagnostics.clear()
        ros.wait(lambda: listener.status().get("matched") == "1", "activity")
        publisher.publish(raw(2, 20))
        ros.wait(lambda: 20 in listener.stamps("pose"), "an answer after the second activation")
        assert listener.stamps("pose") == [10, 20] and listener.stamps("fix") == []
        assert [field.name for field in listener.received["hypotheses_cloud"][0].fields][-1] == "support"
        assert change(Transition.TRANSITION_DEACTIVATE) and change(Transition.TRANSITION_CLEANUP)
        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        assert change(Transition.TRANSITION_CONFIGURE) and change(Transition.TRANSITION_INACTIVE_SHUTDOWN)
        assert state() == State.PRIMARY_STATE_FINALIZED
        node.interrupt()
        assert node.end() == 0 and "Traceback" not in node.output, node.output
