"""Listening to a running localizer: its answers, how late they came, and what they were."""

from __future__ import annotations

import csv
import itertools
import json
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Pose, PoseArray
from numpy.typing import NDArray
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from vgssl_core.storage import atomic_file
from vgssl_ros.messages import read_cloud, stamp_ns

#: No answer is lost while this process is busy with publishing.
_DEPTH = 1000
ANSWERS_FILE = "answers.csv"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class Answer:
    """The best hypothesis for one frame, as it came over ROS.

    Attributes:
        stamp_ns: Stamp of the image.
        latency_ms: From the publishing of the image to the arrival of the answer, both in this process.
        x_m, y_m, z_m, yaw_rad: Pose of the robot's base in the map frame.
        score: Share of the weight of all hypotheses.
        sigma_m: Standard deviation along the worst horizontal direction.
        latitude_deg, longitude_deg: NaN for a local map.
    """

    stamp_ns: int
    latency_ms: float
    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    score: float
    sigma_m: float
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True)
class Summary:
    """What came out of a replay.

    Attributes:
        frames_published: Images that were sent.
        frames_answered: Images with an answer, which are the lines of ``answers.csv``.
        out_of_order: Answers to an older image than the answer before.
        unknown_stamps: Answers with a stamp that no image had.
        duplicates: Answers to an image that had one already: two localizers have the same name.
        latency_p50_ms, latency_p95_ms: None without answers.
        localizer: The localizer's own figures, from its last diagnostics.
    """

    frames_published: int
    frames_answered: int
    out_of_order: int
    unknown_stamps: int
    duplicates: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    localizer: dict[str, str]

    def line(self) -> str:
        """The figures for people."""
        share = 100.0 * self.frames_answered / max(self.frames_published, 1)
        latency = (
            ""
            if self.latency_p50_ms is None
            else f", latency p50 {self.latency_p50_ms:.1f} ms p95 {self.latency_p95_ms:.1f} ms"
        )
        twice = f", answered twice {self.duplicates} (is there a second localizer?)" if self.duplicates else ""
        return (
            f"published {self.frames_published} frames, answered {self.frames_answered} ({share:.1f} %), "
            f"out of order {self.out_of_order}, unknown stamps {self.unknown_stamps}{twice}{latency}"
        )


class AnswerRecorder:
    """Subscribes to a localizer and keeps its answers.

    Args:
        node: The node to subscribe with.
        localizer: Full name of the localizer, for example ``/localizer``.
    """

    def __init__(self, node: Node, localizer: str) -> None:
        self._status_name = localizer.strip("/")
        self._sent_s: dict[int, float] = {}
        self._received: list[tuple[int, float, NDArray[np.void]]] = []
        self._poses: dict[int, PoseArray] = {}
        self.status: dict[str, str] = {}
        self._status_at_s = 0.0
        qos = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        own = f"/{self._status_name}"
        self._matched: Counter[str] = Counter()

        def events(topic: str) -> SubscriptionEventCallbacks:
            return SubscriptionEventCallbacks(
                matched=lambda event: self._matched.update({topic: event.current_count_change})
            )

        cloud, poses = f"{own}/hypotheses_cloud", f"{own}/hypotheses"
        self._answer_topics = (cloud, poses)
        self._subscriptions = [
            node.create_subscription(PointCloud2, cloud, self._keep, qos, event_callbacks=events(cloud)),
            # The cloud's coordinates are float32, these are float64.
            node.create_subscription(PoseArray, poses, self._keep_poses, qos, event_callbacks=events(poses)),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._keep_status, qos),
        ]

    @property
    def is_ready(self) -> bool:
        """Whether no answer can be lost: the localizer says that it is connected to its images, and is matched."""
        return int(self.status.get("matched", "0")) > 0 and all(
            self._matched[topic] > 0 for topic in self._answer_topics
        )

    def sent(self, stamp: int) -> None:
        """An image with this stamp is published now."""
        self._sent_s[stamp] = time.monotonic()

    @property
    def is_complete(self) -> bool:
        """Whether the image that was sent last has its answer, and the localizer's figures are newer than that."""
        if not self._sent_s or not self._received:
            return False
        stamp, at_s, _ = self._received[-1]
        return stamp == next(reversed(self._sent_s)) and stamp in self._poses and self._status_at_s > at_s

    def answers(self) -> list[Answer]:
        """First answer with at least one hypothesis to each image that was sent, in the order of arrival."""
        first: dict[int, Answer] = {}
        for stamp, at_s, rows in self._received:
            if len(rows) and stamp in self._sent_s and stamp in self._poses and stamp not in first:
                latency_ms = (at_s - self._sent_s[stamp]) * 1e3
                first[stamp] = _answer(stamp, latency_ms, self._poses[stamp].poses[0], rows[0])
        return list(first.values())

    def summary(self) -> Summary:
        """Counts and latencies so far."""
        stamps = [stamp for stamp, _, _ in self._received]
        answers = self.answers()
        latencies = [answer.latency_ms for answer in answers]
        middle, high = np.percentile(latencies, [50, 95]).round(3).tolist() if latencies else (None, None)
        return Summary(
            frames_published=len(self._sent_s),
            frames_answered=len(answers),
            out_of_order=sum(later < earlier for earlier, later in itertools.pairwise(stamps)),
            unknown_stamps=sum(stamp not in self._sent_s for stamp in stamps),
            duplicates=len(stamps) - len(set(stamps)),
            latency_p50_ms=middle,
            latency_p95_ms=high,
            localizer=self.status,
        )

    def write(self, folder: Path) -> None:
        """Write ``answers.csv`` and ``summary.json``."""
        with atomic_file(folder / ANSWERS_FILE) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(Answer.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(answer) for answer in self.answers())
        with atomic_file(folder / SUMMARY_FILE) as aside:
            aside.write_text(json.dumps(asdict(self.summary()), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def _keep(self, message: PointCloud2) -> None:
        self._received.append((stamp_ns(message.header.stamp), time.monotonic(), read_cloud(message)))

    def _keep_poses(self, message: PoseArray) -> None:
        self._poses[stamp_ns(message.header.stamp)] = message

    def _keep_status(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._status_name:
                self.status = {item.key: item.value for item in status.values}
                self._status_at_s = time.monotonic()


def _answer(stamp: int, latency_ms: float, pose: Pose, best: np.void) -> Answer:
    georeferenced = "lat" in (best.dtype.names or ())
    return Answer(
        stamp_ns=stamp,
        latency_ms=round(latency_ms, 3),
        x_m=pose.position.x,
        y_m=pose.position.y,
        z_m=pose.position.z,
        yaw_rad=2 * math.atan2(pose.orientation.z, pose.orientation.w),
        score=float(best["score"]),
        sigma_m=float(best["sigma"]),
        latitude_deg=float(best["lat"]) if georeferenced else math.nan,
        longitude_deg=float(best["lon"]) if georeferenced else math.nan,
    )
