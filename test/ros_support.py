"""ROS in tests: real processes on real DDS, alone on the loopback interface, waiting for events and never sleeping."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from tiny import DATUM, picture

from training.build_map import main as build_map_program
from vgssl_core.bags import BagWriter
from vgssl_core.imaging import Image

ROOT = Path(__file__).resolve().parent.parent
#: Nothing here takes longer than this; what does is broken, and is ended.
TIMEOUT_S = 60.0
#: After this time without an answer a service is called again.
_PATIENCE_S = 15.0
IMAGE_TOPIC = "/camera/image_raw"
STEP_M = 30.0
FIRST_STAMP_NS = 1_700_000_000_123_456_789
_BLOCKED = "raise ImportError('torch is blocked in this test')\n"


@functools.cache
def _own_domain() -> tuple[int, socket.socket]:
    """A ROS domain that no other test run on this machine has, and what holds it until this process ends.

    By the process's number alone two runs would now and then hear each other: a node then has two cameras.
    """
    for domain in sorted(range(1, 101), key=lambda number: (number - os.getpid()) % 100):
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0vgssl_ros.test.domain.{domain}")
        except OSError:
            held.close()
        else:
            return domain, held
    raise RuntimeError("100 test runs at once have all domains")


def environment() -> dict[str, str]:
    """What every process of a test run shares: an own domain, no traffic off the machine."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ROS_DOMAIN_ID": str(_own_domain()[0]),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds_local.xml"),
        "RCUTILS_LOGGING_BUFFERED_STREAM": "0",
    }


def without_modules(folder: Path, *names: str) -> dict[str, str]:
    """`environment` for a process in which importing these modules fails."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(_BLOCKED.replace("torch", name))
    given = environment()
    return {**given, "PYTHONPATH": os.pathsep.join([str(folder), given["PYTHONPATH"]])}


class Program:
    """A child process whose lines are kept, and which does not outlive its test."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=env or environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Wait until a line contains a text."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or text in self.output, TIMEOUT_S)
        assert text in self.output, f"{text!r} was not said:\n{self.output}"

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def interrupt_until_it_ends(self, number: signal.Signals = signal.SIGINT) -> None:
        """As a terminal, a launch and an impatient user do it together."""
        while self.process.poll() is None:
            self.interrupt(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.005)

    def end(self) -> int:
        """Wait for the end of the process and of its output."""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def localizer(parameters: dict[str, Any], env: dict[str, str] | None = None) -> Program:
    """The localizer node as its own process; a parameter that is None is not given."""
    return Program(["vgssl_ros.localizer_node", *ros_arguments(parameters)], env)


def ros_arguments(parameters: dict[str, Any]) -> list[str]:
    """Parameters as ROS's command line takes them."""
    given = [("-p", f"{name}:={_yaml(value)}") for name, value in parameters.items() if value is not None]
    return ["--ros-args", *(word for pair in given for word in pair)]


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, Path) else json.dumps(value)


class Ros:
    """A node in the test's own process."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor) -> None:
        self.node, self._executor = node, executor
        self._clients: dict[str, Any] = {}

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Let ROS work until a condition holds."""
        end_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end_s, f"{what} did not happen in {TIMEOUT_S:g} s"
            self._executor.spin_once(timeout_sec=0.02)

    def call(self, kind: Any, name: str, request: Any, meanwhile: Callable[[], Any] = lambda: None) -> Any:
        """Call a service and wait for its answer, doing something meanwhile.

        Fast DDS gives up an answer after 100 ms where the server has not discovered the client's reader by then, which
        happens on a busy machine the moment a node appears (ros2/rmw_fastrtps, issue 842); then it is called again.
        """
        if name not in self._clients:  # A new one each time would have to be discovered each time.
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        self.wait(client.service_is_ready, f"service {name}")
        futures: list[Any] = []
        due_s = 0.0

        def is_answered() -> bool:
            nonlocal due_s
            if time.monotonic() >= due_s:
                futures.append(client.call_async(request))
                due_s = time.monotonic() + _PATIENCE_S
            meanwhile()
            return any(future.done() for future in futures)

        self.wait(is_answered, f"answer of {name}")
        return next(future.result() for future in futures if future.done())

    def collect(self, kind: Any, topic: str, depth: int = 100) -> list[Any]:
        """A list that fills with a topic's messages."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, depth)
        return received


@contextlib.contextmanager
def ros_node(name: str = "test") -> Iterator[Ros]:
    """A node on the domain of the test run."""
    os.environ.update(environment())
    context = Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    node = rclpy.create_node(name, context=context)
    executor.add_node(node)
    try:
        yield Ros(node, executor)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def jpeg(image: Image) -> bytes:
    """An RGB image as JPEG."""
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert encoded
    return data.tobytes()


def write_drive(folder: Path, count: int = 12, period_ns: int = 100_000_001, seed: int = 0) -> Path:
    """A drive to the east: image i shows ``picture(seed + i)``, `STEP_M` further along; with fixes and odometry."""
    with BagWriter(folder) as bag:
        for number in range(count):
            stamp = FIRST_STAMP_NS + number * period_ns
            position = np.array([number * STEP_M, 0.0, 0.0])
            bag.fix("/gps/fix", stamp, "gps", *map(float, DATUM.to_wgs84(position)), sigma_m=(0.1, 0.1, 0.2))
            bag.odometry("/ground_truth/odom", stamp, "map", "base_link", position, 0.0)
            bag.compressed_image(f"{IMAGE_TOPIC}/compressed", stamp, "camera", jpeg(picture(seed + number)))
    return folder


def build_map(folder: Path, bundle: Path, drive: Path, position_topic: str = "/gps/fix") -> Path:
    """A map of a drive, by the program that users call; odometry as positions gives a local one."""
    arguments = ["--bundle", str(bundle), "--bag", str(drive), "--out", str(folder), "--position_topic", position_topic]
    assert build_map_program(arguments) == 0
    return folder
