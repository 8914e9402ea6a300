"""What the diagnostics tell: each cause in words, and the figures of several cameras; without a node."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from vgssl_ros.health import SILENCE_S, Figures, Situation, Statistics, judge
from vgssl_ros.surroundings import why_unheard

TOPIC = "/camera/image_raw"
ROOT = Path(__file__).resolve().parent.parent
RELIABLE = QoSProfile(depth=1)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def well() -> Figures:
    """A node that works."""
    return replace(Statistics().read(), rate_hz=10.0)


def summary(figures: Figures, situation: Situation | None = None, publishers: int = 1) -> str:
    health = judge(figures, "active", TOPIC, publishers, situation)
    assert not health.is_ok
    return health.summary


def test_images_that_may_be_too_large_are_told_with_the_profile_and_both_variables(well: Figures):
    silent = replace(well, silent_s=SILENCE_S + 1, silent_topic=TOPIC)
    told = summary(silent, Situation(loses_large_images=True))
    assert told.startswith(f"a publisher on {TOPIC} but no frame for 4 s: the camera stands still, or ")
    for word in ("FASTRTPS_DEFAULT_PROFILES_FILE (Humble, Jazzy)", "FASTDDS_DEFAULT_PROFILES_FILE (Kilted"):
        assert word in told
    assert "share/vgssl_ros/config/ros/fastdds_large_images.xml" in told
    # Reliable images and other middlewares lose nothing.
    assert summary(silent).endswith("4 s: the camera stands still")


def test_images_that_get_lost_are_counted_and_told(well: Figures):
    statistics = Statistics()
    for _ in range(30):
        statistics.received(TOPIC, overwrote=False)
    statistics.lost(3)
    assert judge(statistics.read(), "active", TOPIC, 1).is_ok
    statistics.lost(17)
    figures = statistics.read()
    assert figures.lost == 20
    told = summary(figures, Situation(loses_large_images=True))
    assert told.startswith(f"40 % of the images of {TOPIC} get lost on their way: ")
    assert "FASTDDS_DEFAULT_PROFILES_FILE" in told and "DEFAULT_PROFILES" not in summary(figures)


def test_publishers_that_cannot_be_heard_are_told_at_once(well: Figures):
    told = summary(well, Situation(unheard="the QoS of /driver does not match", unheard_topic="/rear"))
    assert told == "a publisher on /rear but no frame for 0 s: the QoS of /driver does not match"


def test_several_causes_are_told_together(well: Figures):
    assert "/clock" not in summary(well, publishers=0)
    told = summary(well, Situation(lacks_clock=True), publishers=0)
    assert told.startswith(f"no publisher on {TOPIC}: ") and "; simulated time without /clock: " in told
    # A node that was told not to work has no causes.
    health = judge(well, "inactive", TOPIC, 0, Situation(lacks_clock=True))
    assert health.is_ok and health.summary == "inactive"


def test_a_default_calibration_is_told_and_no_fault(well: Figures):
    health = judge(well, "active", TOPIC, 1, Situation(is_default_calibration=True))
    assert health.is_ok and health.values["default_calibration"] == "true"
    assert health.summary.startswith("answers 10.0 images per second; the default calibration is in use")


def test_a_model_is_too_slow_when_most_frames_of_some_seconds_are_overwritten():
    statistics = Statistics()
    for number in range(100):
        statistics.received(TOPIC, overwrote=number % 5 > 0)
    figures = statistics.read()
    assert figures.is_overrun and figures.camera_hz > 0
    assert "too slow for the camera" in summary(figures)
    assert "too slow for the camera" in summary(statistics.read())
    # One good second does not hide the others; several do.
    for _ in range(5):
        for _ in range(100):
            statistics.received(TOPIC, overwrote=False)
        figures = statistics.read()
    assert not figures.is_overrun
    assert judge(figures, "active", TOPIC, 1).is_ok
    # Nor do a few frames say anything.
    statistics.activated([TOPIC])
    for _ in range(5):
        statistics.received(TOPIC, overwrote=True)
    assert not statistics.read().is_overrun


def test_the_camera_that_is_silent_longest_is_named(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("vgssl_ros.health.time.monotonic", lambda: now)
    statistics = Statistics()
    statistics.activated(["/front", "/rear"])
    now = 102.0
    statistics.received("/front", overwrote=False)
    now = 105.0
    figures = statistics.read()
    assert (figures.silent_topic, figures.silent_s) == ("/rear", 5.0)
    assert "a publisher on /rear but no frame for 5 s" in summary(figures)


def test_age_is_by_the_nodes_clock_and_acceptance_is_of_the_last_answers():
    statistics = Statistics(now_ns=lambda: 5_000_000_000)
    assert judge(statistics.read(), "active", TOPIC, 1).values["acceptance"] == ""
    for number in range(300):
        statistics.answered(1.0, 4_980_000_000, number >= 250, "CANDIDATE" if number < 299 else "LOCALIZED")
    values = judge(statistics.read(), "active", TOPIC, 1).values
    assert (values["age_p50_ms"], values["acceptance"], values["filter_state"]) == ("20.00", "0.25", "LOCALIZED")


def publisher(kind: str, qos: QoSProfile) -> Any:
    return SimpleNamespace(node_name="driver", node_namespace="/", topic_type=kind, qos_profile=qos)


@pytest.mark.parametrize(
    ("publishers", "told"),
    [
        ([], ""),
        ([publisher("sensor_msgs/msg/Image", RELIABLE)], ""),
        ([publisher("sensor_msgs/msg/Image", BEST_EFFORT)], "the QoS of /driver does not match"),
        ([publisher("sensor_msgs/msg/Image", BEST_EFFORT), publisher("sensor_msgs/msg/Image", RELIABLE)], ""),
        (
            [publisher("sensor_msgs/msg/CompressedImage", RELIABLE)],
            "/driver publishes sensor_msgs/msg/CompressedImage and not sensor_msgs/msg/Image: check image_transport",
        ),
    ],
)
def test_why_publishers_cannot_be_heard(publishers: list[Any], told: str):
    node: Any = SimpleNamespace(get_publishers_info_by_topic=lambda topic: publishers if topic == TOPIC else [])
    subscription: Any = SimpleNamespace(topic_name=TOPIC, msg_type=Image, qos_profile=RELIABLE)
    reason = why_unheard(node, subscription)
    assert reason.startswith(told) and bool(reason) == bool(told)
    other: Any = SimpleNamespace(topic_name="/other", msg_type=CompressedImage, qos_profile=RELIABLE)
    assert why_unheard(node, other) == ""


def test_the_document_tells_every_figure_and_every_cause(well: Figures):
    text = (ROOT / "docs" / "deploy.md").read_text().split("## Diagnostics")[1]
    figures = {*judge(well, "active", TOPIC, 1).values, "matched"}
    assert {key for key in figures if f"`{key}`" not in text} == set()
    large, lost = Situation(loses_large_images=True), replace(well, loss=0.4)
    causes = {
        "no publisher on TOPIC": summary(well, publishers=0),
        "a publisher on TOPIC but no frame for N s": summary(replace(well, silent_s=9.0, silent_topic=TOPIC)),
        "the camera stands still, or its best-effort images are larger than": summary(replace(well, silent_s=9), large),
        "N % of the images of TOPIC get lost on their way": summary(lost),
        "too slow for the camera": summary(replace(well, is_overrun=True)),
        "simulated time without /clock": summary(well, Situation(lacks_clock=True)),
        "the image in work does not end": judge(well, "stopping", TOPIC, 1).summary,
        "answers N images per second": judge(well, "active", TOPIC, 1).summary,
        "the default calibration is in use": judge(
            well, "active", TOPIC, 1, Situation(is_default_calibration=True)
        ).summary,
    }
    for documented, told in causes.items():
        assert documented in text, documented
        words = documented.replace("TOPIC", TOPIC).replace("N ", r"[\d.]+ ")
        assert re.search(words, told), told
