"""The node in the test's own process: transitions that fail, a worker that does not end, the executor's end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
import ros_support
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from ros_support import IMAGE_TOPIC, Ros
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from tiny import picture

from vgssl_core.imaging import Image
from vgssl_core.localization import DEFAULT, Hypothesis, Localization, LocalizerConfig, Region
from vgssl_ros import localizer, program, session
from vgssl_ros.localizer import LocalizerNode
from vgssl_ros.messages import stamp_ns, to_stamp

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Held:
    """A localizer of a local map that works on its first image until it is let go, and then says its own number."""

    least_size = (1, 1)

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun, self.go = threading.Event(), threading.Event()
        manifest = SimpleNamespace(map_id=str(number), created="", source="", low_m=(0.0, 0.0), high_m=(0.0, 0.0))
        known = {"datum": None, "path": Path(f"map{number}"), "spacing_m": 1.0, "model_id": "", "search_name": ""}
        self.geomap = type("Map", (), {**known, "manifest": manifest, "__len__": lambda _: 1})()
        self.calibration, self.threshold, self.embedder, self.config = DEFAULT, 0.5, None, LocalizerConfig()

    def localize(self, image: Image, region: Region | None = None) -> Localization:
        self.begun.set()
        assert self.go.wait(ros_support.TIMEOUT_S)
        place = np.array([float(self.number), 0.0, 0.0])
        best = Hypothesis(0, place, 0.0, np.eye(4), 1.0, 0.9, 1, *[np.nan] * 3, 1.0)
        return Localization(np.zeros(1, np.int64), np.zeros(1, np.float32), (best,), {})


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ros]:
    for name, value in ros_support.environment().items():
        monkeypatch.setenv(name, value)
    topic = ["-p", f"image_topic:={IMAGE_TOPIC}", "-p", "image_transport:=compressed"]
    paths = ["-p", "map_path:=map", "-p", "bundle_path:=bundle"]
    rclpy.init(args=["--ros-args", *topic, *paths, "-p", "image_qos:=reliable", "-p", "filter:=false"])
    executor = SingleThreadedExecutor()
    node = LocalizerNode()
    executor.add_node(node)
    try:
        yield Ros(node, executor)
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return "".join(capfd.readouterr())


def test_what_breaks_a_transition_is_told_and_the_node_can_be_configured_again(
    ros: Ros, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    node = ros.node

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("a strange map")

    monkeypatch.setattr(localizer, "open_localizer", broken)
    assert node.trigger_configure() == FAILURE
    assert "Cannot configure: KeyError: 'a strange map'. Check the parameters" in said(capfd)

    monkeypatch.setattr(localizer, "open_localizer", lambda *_, **__: Held(1))
    assert node.trigger_configure() == SUCCESS
    monkeypatch.setattr(node, "create_subscription", broken)
    assert node.trigger_activate() == FAILURE
    assert "Cannot activate: KeyError: 'a strange map'" in said(capfd)
    monkeypatch.delattr(node, "create_subscription")
    assert node.trigger_activate() == SUCCESS
    assert node.trigger_deactivate() == SUCCESS

    # A callback that raises takes the way through on_error.
    releases = iter([broken, node._release, node._release])
    monkeypatch.setattr(node, "_release", lambda: next(releases)())
    node.trigger_cleanup()
    assert "A transition from the state inactive broke" in said(capfd)
    monkeypatch.setattr(localizer, "open_localizer", lambda *_, **__: Held(2))
    assert node.trigger_configure() == SUCCESS


def test_a_worker_that_does_not_end_holds_up_the_deactivation_and_never_answers_into_the_next_session(
    ros: Ros, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    node = ros.node
    first, second = Held(1), Held(2)
    second.go.set()
    waiting = iter([first, second])
    monkeypatch.setattr(localizer, "open_localizer", lambda *_, **__: next(waiting))
    monkeypatch.setattr(localizer, "_STOP_TIMEOUT_S", 0.05)
    answers = ros.collect(PoseArray, "/localizer/hypotheses")
    camera = node.create_publisher(CompressedImage, f"{IMAGE_TOPIC}/compressed", 10)

    def show(stamp: int) -> None:
        ros.wait(lambda: camera.get_subscription_count() == 1, "a subscription")
        header = Header(stamp=to_stamp(stamp))
        camera.publish(CompressedImage(header=header, format="jpeg", data=ros_support.jpeg(picture(0))))

    assert node.start()
    show(10)
    ros.wait(first.begun.is_set, "the first image in work")
    assert node.trigger_deactivate() == FAILURE
    assert "not ready within 0.05 s" in said(capfd)
    node._follow_demand()
    assert not node._session.hears_cameras
    first.go.set()
    monkeypatch.setattr(localizer, "_STOP_TIMEOUT_S", ros_support.TIMEOUT_S)
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert node.start()
    show(20)
    ros.wait(lambda: answers, "an answer of the second session")
    assert [(stamp_ns(item.header.stamp), item.poses[0].position.x) for item in answers] == [(20, 2.0)]


@pytest.mark.parametrize("transitions", [[], ["configure"], ["configure", "activate"]])
def test_the_node_can_be_shut_down_from_every_state(ros: Ros, monkeypatch: pytest.MonkeyPatch, transitions: list[str]):
    monkeypatch.setattr(localizer, "open_localizer", lambda *_, **__: Held(1))
    for name in transitions:
        assert getattr(ros.node, f"trigger_{name}")() == SUCCESS
    told = ros.collect(DiagnosticArray, "/diagnostics")
    assert ros.node.trigger_shutdown() == SUCCESS
    ros.wait(lambda: told and told[-1].status[0].message == "finalized", "the end in the diagnostics")


def test_calls_that_cannot_be_answered_end_with_the_reason(ros: Ros, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(localizer, "open_localizer", lambda *_, **__: Held(1))
    monkeypatch.setattr(session, "ONCE_TIMEOUT_S", 0.1)

    def answer(name: str) -> str:
        response = ros.call(Trigger, f"/localizer/{name}", Trigger.Request())
        assert not response.success
        return response.message

    assert answer("localize_once") == "the node is unconfigured: activate it first"
    assert answer("reload_map") == "the node has no map: configure it, which loads one"
    assert ros.node.start()
    assert answer("localize_once") == "no image within 0.1 s: see /diagnostics"
    assert answer("reload_map").startswith("The old map stays: There is no map at map")
    monkeypatch.setattr(session, "ONCE_TIMEOUT_S", ros_support.TIMEOUT_S)
    client = ros.node.create_client(Trigger, "/localizer/localize_once")
    future = client.call_async(Trigger.Request())
    ros.wait(lambda: ros.node._session.hears_cameras, "the call")
    # Other services are served while it waits.
    request = SetBool.Request(data=False)
    assert ros.call(SetBool, "/localizer/set_enabled", request).success and not future.done()
    assert ros.node.trigger_deactivate() == SUCCESS
    ros.wait(future.done, "the end of the wait")
    assert future.result().message == "the node was deactivated"


@pytest.mark.parametrize(("fails_by_itself", "status"), [(False, 0), (True, 1)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_only_what_the_executor_raises_before_its_end_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, fails_by_itself: bool, status: int
):
    ended = threading.Event()

    class Executor:
        def add_node(self, _: Any) -> None: ...

        def spin(self) -> None:
            assert fails_by_itself or ended.wait(ros_support.TIMEOUT_S)
            raise ExternalShutdownException

        def shutdown(self) -> None:
            ended.set()

    monkeypatch.setattr(program, "SingleThreadedExecutor", Executor)
    stop: SimpleQueue[int] = SimpleQueue()
    if not fails_by_itself:
        stop.put(2)
    assert program._spin(None, stop) == status
