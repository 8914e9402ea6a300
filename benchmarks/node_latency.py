"""What the ROS node costs beyond decoding, embedding and searching.

``python benchmarks/node_latency.py`` starts nodes as processes of their own, sends them one image at a time over DDS on
this machine, and waits for ``~/hypotheses``. It compares the localizer node, with and without its filter, with the
shortest node that does the same: one that decodes, localizes and publishes in its image callback. They take turns,
image by image, so that whatever else the machine does strikes all of them alike.

*Round trip* is from just before the image is published until the answer is in the benchmark's hands. *Overhead* is what
it took beyond decoding, embedding and searching, which the node's process measures for each image: both ways through
DDS, ROS's conversions, clustering, and the node's own work. The ratio is that of the round trips.
"""

from __future__ import annotations

import array
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from example_map import example_map
from geometry_msgs.msg import Point, Pose, PoseArray
from numpy.typing import NDArray
from random_bundle import BundleOptions, chosen_bundle, photograph
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from reporting import machine, publish, table
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Header

from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Image
from vgssl_core.localization import Localization, Localizer, open_localizer
from vgssl_ros import messages
from vgssl_ros.localizer import LocalizerNode

SIZES = ((640, 480), (1920, 1080))
#: What is compared, and the namespaces in which they run.
INLINE, SINGLE, FILTERED = "inline callback", "node, filter off", "node"
NAMESPACES = {INLINE: "inline", SINGLE: "single", FILTERED: "filtered"}
#: Images before the first that counts, of each size.
_WARM = 10
_PICTURES = 4
_TIMEOUT_S = 60.0
#: Loopback only, and shared memory that holds an image of 1080p.
_PROFILE = Path(__file__).resolve().parent.parent / "config" / "fastdds_local.xml"
_DEPTH = 10

Message = RosImage | CompressedImage


@dataclass(frozen=True)
class Config(BundleOptions):
    """What the ROS node costs beyond decoding, embedding and searching.

    Attributes:
        images: In the map.
        frames: Of every kind that are counted.
        docs: Markdown file in which the table replaces the section benchmark:node_latency.
    """

    network: str = "resnet18"
    width: int = 320
    height: int = 240
    images: int = 10_000
    frames: int = 500
    docs: Path | None = None


@dataclass(frozen=True)
class Measured:
    """(F,) milliseconds of each frame: the whole way, and what decoding, embedding and searching took of it."""

    round_trip_ms: NDArray[np.float64]
    work_ms: NDArray[np.float64]


# --- the node's process


class Stopwatch:
    """Milliseconds that decoding, embedding and searching take in this process, by the image's stamp."""

    def __init__(self) -> None:
        self.spent_ms: dict[int, float] = {}
        self._stamp = 0
        self._decode, self._localize = messages.decode, Localizer.localize

    def start(self) -> None:
        """Measure from now on."""
        messages.decode = self.decode
        stopwatch = self

        def localize(localizer: Localizer, *arguments: Any) -> Localization:
            answer = stopwatch._localize(localizer, *arguments)
            stopwatch.spent_ms[stopwatch._stamp] += answer.timings_ms["embed"] + answer.timings_ms["search"]
            return answer

        Localizer.localize = localize  # type: ignore[method-assign]

    def decode(self, message: Message, least_size: tuple[int, int] | None = None) -> Image:
        """As the node decodes."""
        begin = time.perf_counter()
        image = self._decode(message, least_size)
        self._stamp = messages.stamp_ns(message.header.stamp)
        self.spent_ms[self._stamp] = (time.perf_counter() - begin) * 1e3
        return image


class InlineNode(Node):
    """The shortest node that localizes: all in the image callback."""

    def __init__(self, kind: type, topic: str, localizer: Localizer) -> None:
        super().__init__("localizer")
        self._localizer = localizer
        self._publisher = self.create_publisher(PoseArray, "~/hypotheses", _DEPTH)
        self.create_subscription(kind, topic, self._answer, _DEPTH)

    def _answer(self, message: Message) -> None:
        image = messages.decode(message, self._localizer.least_size)
        answer = PoseArray(header=Header(stamp=message.header.stamp, frame_id="map"))
        for hypothesis in self._localizer.localize(image).hypotheses:
            x, y, _ = map(float, hypothesis.position_m)
            answer.poses.append(Pose(position=Point(x=x, y=y)))
        self._publisher.publish(answer)


def serve(kind: str, is_raw: bool, given: Mapping[str, Any], parent: Connection) -> None:
    """Run one node until the parent says something, and tell it what the work took."""
    parameters = {
        "image_topic": "camera",
        "image_transport": "raw" if is_raw else "compressed",
        "image_qos": "reliable",
        "lazy": False,
        "filter": kind == FILTERED,
        **given,
    }
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value!s}")]
    logging.disable(logging.WARNING)
    stopwatch = Stopwatch()
    stopwatch.start()
    rclpy.init(args=["--ros-args", "--log-level", "error", "-r", f"__ns:=/{NAMESPACES[kind]}", *words])
    if kind == INLINE:
        localizer = open_localizer(
            given["map_path"], given["bundle_path"], backend=given["backend"], threads=given["threads"] or None
        )
        node: Node = InlineNode(*_kind_and_topic(is_raw), localizer)
    else:
        node = LocalizerNode()
        if not node.start():
            sys.exit(1)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not parent.poll():
        executor.spin_once(timeout_sec=0.1)
    parent.send(stopwatch.spent_ms)
    if isinstance(node, LocalizerNode):
        node.stop()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


# --- the benchmark's process


def _kind_and_topic(is_raw: bool) -> tuple[type, str]:
    return (RosImage, "camera") if is_raw else (CompressedImage, "camera/compressed")


@contextmanager
def served(kind: str, is_raw: bool, given: Mapping[str, Any]) -> Iterator[Connection]:
    """A node in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(kind, is_raw, given, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.join(10.0)
        process.kill()


class Camera:
    """Sends images to one node, one at a time, and waits for their answers."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor, is_raw: bool, namespace: str) -> None:
        self._node, self._executor = node, executor
        kind, topic = _kind_and_topic(is_raw)
        answers = f"/{namespace}/localizer/hypotheses"
        self._publisher = node.create_publisher(kind, f"/{namespace}/{topic}", _DEPTH)
        self._answers = node.create_subscription(PoseArray, answers, self._take, _DEPTH)
        self._last_stamp = self._answered = 0
        self._until(lambda: self._publisher.get_subscription_count() and node.count_publishers(answers))

    def round_trip_ms(self, message: Message) -> tuple[int, float]:
        """The stamp that a message was given, and how long its answer took."""
        self._last_stamp += 1
        stamp = self._last_stamp
        message.header.stamp = messages.to_stamp(stamp)
        begin = time.perf_counter()
        self._publisher.publish(message)
        self._until(lambda: self._answered == stamp)
        return stamp, (time.perf_counter() - begin) * 1e3

    def close(self) -> None:
        """Take it from its node."""
        self._node.destroy_publisher(self._publisher)
        self._node.destroy_subscription(self._answers)

    def _take(self, message: PoseArray) -> None:
        self._answered = messages.stamp_ns(message.header.stamp)

    def _until(self, condition: Any) -> None:
        end_s = time.monotonic() + _TIMEOUT_S
        while not condition():
            if time.monotonic() > end_s:
                raise ConfigError(f"The node gave no answer in {_TIMEOUT_S:g} s.")
            self._executor.spin_once(timeout_sec=0.1)


def frames_of(width: int, height: int, is_raw: bool) -> list[Message]:
    """Images of a size as messages."""
    made: list[Message] = []
    for number in range(_PICTURES):
        picture, data = photograph(number, width, height), array.array("B")
        if is_raw:
            data.frombytes(picture.tobytes())
            made.append(RosImage(width=width, height=height, encoding="rgb8", step=3 * width, data=data))
        else:
            data.frombytes(cv2.imencode(".jpg", picture)[1].tobytes())
            made.append(CompressedImage(format="jpeg", data=data))
    return made


def measured(
    is_raw: bool, given: Mapping[str, Any], frames: int, node: Node, executor: SingleThreadedExecutor
) -> dict[str, list[Measured]]:
    """What each node takes for images of each size."""
    with ExitStack() as stack:
        children = {kind: stack.enter_context(served(kind, is_raw, given)) for kind in NAMESPACES}
        cameras = {kind: Camera(node, executor, is_raw, namespace) for kind, namespace in NAMESPACES.items()}
        trips: dict[str, list[list[tuple[int, float]]]] = {kind: [] for kind in cameras}
        for width, height in SIZES:
            shown = frames_of(width, height, is_raw)
            rounds = [
                {kind: camera.round_trip_ms(shown[number % _PICTURES]) for kind, camera in cameras.items()}
                for number in range(_WARM + frames)
            ]
            for kind, found in trips.items():
                found.append([turn[kind] for turn in rounds[_WARM:]])
        return {kind: _judged(trips[kind], children[kind], cameras[kind]) for kind in cameras}


def _judged(trips: list[list[tuple[int, float]]], child: Connection, camera: Camera) -> list[Measured]:
    """Ask a node what it worked, and join that with its round trips."""
    camera.close()
    child.send("end")
    spent_ms = child.recv()
    return [
        Measured(np.array([whole for _, whole in trip]), np.array([spent_ms[stamp] for stamp, _ in trip]))
        for trip in trips
    ]


def row(name: str, one: Measured, inline: Measured) -> list[str]:
    """One line of the table."""

    def both(values: NDArray[np.float64]) -> list[str]:
        return [f"{value:.2f}" for value in np.percentile(values, [50, 99])]

    ratio = np.percentile(one.round_trip_ms, [50, 99]) / np.percentile(inline.round_trip_ms, [50, 99])
    overhead = one.round_trip_ms - one.work_ms
    work = f"{np.median(one.work_ms):.2f}"
    return [name, work, *both(one.round_trip_ms), *both(overhead), *(f"{value:.2f}" for value in ratio)]


def measure(config: Config) -> None:
    """Measure all nodes and print."""
    if min(config.frames, config.images) < 1:
        raise ConfigError("--frames and --images must be at least 1.")
    logging.disable(logging.INFO)
    bundle = chosen_bundle(config)
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Each release of Fast DDS knows one of the names, or complains about the other.
    old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"] = str(_PROFILE)
    rclpy.init()
    node, executor = rclpy.create_node("benchmark"), SingleThreadedExecutor()
    executor.add_node(node)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        example_map(Path(folder) / "map", config.images, bundle.dimension, bundle.model_id, "exact")
        given = {"map_path": Path(folder) / "map", "bundle_path": bundle.path.resolve(), "backend": config.backend}
        given["threads"] = config.threads or 0
        for is_raw in (True, False):
            found = measured(is_raw, given, config.frames, node, executor)
            for number, (width, height) in enumerate(SIZES):
                name = f"{width}x{height} {'rgb8' if is_raw else 'JPEG'}"
                rows += [row(f"{name}, {kind}", found[kind][number], found[INLINE][number]) for kind in NAMESPACES]
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    header = ["image", "work ms", "round trip p50 ms", "p99", "overhead p50 ms", "p99", "x inline p50", "p99"]
    shape = bundle.preprocessing
    about = f"{bundle.path.name} at {shape.width}x{shape.height}, {config.images} map images, exact search; "
    about += (
        f"{config.frames} frames each. {machine(config.threads or os.cpu_count() or 1, 'ros-rclpy', 'onnxruntime')}."
    )
    publish(f"{table(header, rows)}\n\n{about}", config.docs, "node_latency")


if __name__ == "__main__":
    sys.exit(run(measure, Config, None, "benchmarks/node_latency.py"))
