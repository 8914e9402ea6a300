"""Publish a bag over ROS 2 with ``/clock`` and record a localizer's answers: ``python -m vgssl_ros.replay --help``."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from vgssl_core import command_line
from vgssl_core.bags import BagReader, RawMessage
from vgssl_core.errors import ConfigError, DataError
from vgssl_core.storage import check_output_folder
from vgssl_ros.answers import AnswerRecorder
from vgssl_ros.messages import to_stamp

_log = logging.getLogger(__name__)
#: Published once and kept for those who come later.
_LATCHED = ("/tf_static", "/robot_description")
_DEPTH = 100
#: ``/clock`` ticks at least this often, so that simulated time runs between messages.
_TICK_S = 0.02
_POLL_S = 0.01
_PROGRESS = "{desc}: {n:.1f} of {total:.1f} s |{bar}|"


@dataclass(frozen=True)
class ReplayConfig:
    """Publish a bag over ROS 2 with /clock; stamps stay as they were recorded.

    Attributes:
        bag: Bag folder, or an .mcap or .db3 file.
        rate: Speed; 2 is twice as fast as recorded.
        topics: Topics to publish; all when not given.
        image_topic: The topic whose subscriber is waited for, where there are several image topics; without images
            it is a subscriber of any topic.
        start_s: Skip this much of the bag's time; what is kept for late subscribers (/tf_static) is not skipped.
        duration_s: Publish this much of the bag's time; all when not given.
        loop: Begin again at the end, until Ctrl-C; /clock and the stamps then jump back.
        clock: Publish /clock; a recorded one is left out then.
        wait_s: Longest wait for the subscriber before the start, seconds.
        record: Folder for what the localizer answers: answers.csv and summary.json.
        localizer: Full name of the localizer to record.
        settle_s: Longest wait for the answer to the last image, seconds.
    """

    bag: Path
    rate: float = 1.0
    topics: list[str] | None = None
    image_topic: str | None = None
    start_s: float = 0.0
    duration_s: float | None = None
    loop: bool = False
    clock: bool = True
    wait_s: float = 30.0
    record: Path | None = None
    localizer: str = "/localizer"
    settle_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not self.rate > 0:
            raise ConfigError(f"--rate is {self.rate}: it must be positive.")
        if not (self.start_s >= 0 and self.wait_s >= 0 and self.settle_s >= 0):
            raise ConfigError("--start_s, --wait_s and --settle_s must be at least 0.")
        if self.duration_s is not None and not self.duration_s > 0:
            raise ConfigError(f"--duration_s is {self.duration_s}: it must be positive.")
        if self.loop and self.record is not None:
            raise ConfigError("--record ends with the bag and --loop never does: give one of them.")


class Player:
    """Publishes a bag's messages at the pace of their recording.

    Args:
        node: The node to publish with.
        spin: Lets ROS work for at most so many seconds; returns earlier when something happened.
        rate: Speed.
        clock: Publish ``/clock``.
    """

    def __init__(self, node: Node, spin: Callable[[float], None], rate: float, clock: bool = True) -> None:
        self._node, self._spin, self._rate = node, spin, rate
        self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=1)) if clock else None
        self._publishers: dict[str, Publisher] = {}

    def advertise(self, topics: dict[str, str]) -> None:
        """Create the publishers; types whose package is not installed are named and left out."""
        for topic, message_type in sorted(topics.items()):
            kind = _message_class(message_type)
            if kind is None:
                _log.warning("%s is left out: the package of %s is not installed.", topic, message_type)
                continue
            durability = DurabilityPolicy.TRANSIENT_LOCAL if topic in _LATCHED else DurabilityPolicy.VOLATILE
            qos = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
            self._publishers[topic] = self._node.create_publisher(kind, topic, qos)

    def has_subscriber(self, topics: Sequence[str]) -> bool:
        """Whether someone has matched one of these topics."""
        publishers = (self._publishers[topic] for topic in topics if topic in self._publishers)
        return any(publisher.get_subscription_count() > 0 for publisher in publishers)

    def play(
        self,
        messages: Iterator[RawMessage],
        before_publish: Callable[[RawMessage], None],
        at: Callable[[int], None],
    ) -> int:
        """Publish all messages, each when its time has come; delays do not add up.

        Args:
            messages: In the order of recording.
            before_publish: Called with each message before it goes out.
            at: Called with the bag's time as it passes, nanoseconds.

        Returns:
            How many there were.
        """
        begin_s, begin_ns, count = time.monotonic(), None, 0
        for message in messages:
            if begin_ns is None:
                begin_ns = message.log_ns
            due_s = begin_s + (message.log_ns - begin_ns) / 1e9 / self._rate
            while (rest_s := due_s - time.monotonic()) > 0:
                self._spin(min(rest_s, _TICK_S))
                passed_ns = int((time.monotonic() - begin_s) * 1e9 * self._rate)
                self._tick(min(begin_ns + passed_ns, message.log_ns), at)
            self._tick(message.log_ns, at)
            if message.topic in self._publishers:
                before_publish(message)
                self._publishers[message.topic].publish(message.cdr)
            self._spin(0.0)
            count += 1
        # So that not even a single message is repeated without a pause.
        self._spin(_TICK_S)
        return count

    def _tick(self, now_ns: int, at: Callable[[int], None]) -> None:
        at(now_ns)
        if self._clock is not None:
            self._clock.publish(Clock(clock=to_stamp(now_ns)))


def replay(config: ReplayConfig) -> None:
    """Publish the bag; with ``record`` write the answers and print their summary."""
    if config.record is not None:
        check_output_folder(config.record, "--record")
    with BagReader(config.bag) as bag:
        image_topic = _image_topic(bag, config)
        topics = {name: kind for name, kind in bag.topics.items() if not config.topics or name in config.topics}
        if config.clock:
            topics.pop("/clock", None)
        if missing := sorted(set(config.topics or ()) - set(bag.topics)):
            raise DataError(f"{config.bag} has no topic {', '.join(missing)}; it has {', '.join(sorted(bag.topics))}.")
        with _interrupted() as interrupted:
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
            try:
                _replay(config, bag, topics, image_topic, interrupted)
            finally:
                rclpy.shutdown()


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Set by a SIGINT or SIGTERM, which do nothing else from now on.

    A terminal and `ros2 launch` both pass a Ctrl-C on: Python's own reaction to the second one would be an exception in
    the middle of the clean-up, and what ends as a signal says while the interpreter ends would be an ugly end too.
    """
    event = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        signal.signal(number, lambda *_: event.set())
    try:
        yield event
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _replay(
    config: ReplayConfig, bag: BagReader, topics: dict[str, str], image_topic: str | None, interrupted: threading.Event
) -> None:
    node = rclpy.create_node("replay")
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin(seconds: float) -> None:
        executor.spin_once(timeout_sec=seconds)
        if interrupted.is_set():
            raise KeyboardInterrupt

    player = Player(node, spin, config.rate, config.clock)
    player.advertise(topics)
    recorder = None if config.record is None else AnswerRecorder(node, config.localizer)
    awaited = list(topics) if image_topic is None else [image_topic]

    def is_ready() -> bool:
        return player.has_subscriber(awaited) and (recorder is None or recorder.is_ready)

    _log.info("Waiting for a subscriber of %s.", " or ".join(awaited))
    if not _wait(spin, is_ready, config.wait_s):
        silence = f"Nothing subscribes to {' or '.join(awaited)} within {config.wait_s:g} s"
        if recorder is not None:
            remedy = "start the localizer first, check its image topic, transport and name, and ROS_DOMAIN_ID"
            raise DataError(f"{silence}: {remedy}.")
        _log.warning("%s: playing all the same.", silence)

    def before_publish(message: RawMessage) -> None:
        if recorder is not None and message.topic == image_topic:
            recorder.sent(message.stamp_ns)

    _play(player, bag, list(topics), config, before_publish)
    if recorder is not None and config.record is not None:
        _wait(spin, lambda: recorder.is_complete, config.settle_s)
        recorder.write(config.record)
        print(recorder.summary().line())
    node.destroy_node()


def _play(
    player: Player,
    bag: BagReader,
    topics: Sequence[str],
    config: ReplayConfig,
    before_publish: Callable[[RawMessage], None],
) -> None:
    """Play the chosen part once, or again and again, with a line of progress.

    Raises:
        DataError: There is nothing in that part.
    """
    first_ns, last_ns = bag.span_ns
    begin_ns = first_ns + int(config.start_s * 1e9)
    end_ns = last_ns if config.duration_s is None else min(last_ns, begin_ns + int(config.duration_s * 1e9))
    seconds = max(end_ns - begin_ns, 0) / 1e9
    with tqdm(total=seconds, desc=f"replay at {config.rate:g}x", bar_format=_PROGRESS) as bar:
        for again in itertools.count(1):
            played = player.play(
                _window(bag, topics, begin_ns, end_ns),
                before_publish,
                lambda now_ns: bar.update((now_ns - begin_ns) / 1e9 - bar.n),
            )
            if not played:
                raise DataError(
                    f"{bag.path} holds no message of the chosen topics in that part: it lasts "
                    f"{(last_ns - first_ns) / 1e9:.1f} s. Choose another --start_s, --duration_s or --topics."
                )
            if not config.loop:
                return
            bar.reset()
            bar.set_description(f"replay at {config.rate:g}x, again ({again})")


def _image_topic(bag: BagReader, config: ReplayConfig) -> str | None:
    """The topic whose subscribers are waited for; None, which waits for any, where no images are played."""
    chosen = [topic for topic in bag.image_topics if not config.topics or topic in config.topics]
    if config.image_topic is not None or config.record is not None or len(chosen) > 1:
        return bag.image_topic(config.image_topic or (chosen[0] if len(chosen) == 1 else None))
    return chosen[0] if chosen else None


def _window(bag: BagReader, topics: Sequence[str], begin_ns: int, end_ns: int) -> Iterator[RawMessage]:
    """The messages from begin to end, and before them what was said earlier once and for all."""
    if latched := [topic for topic in topics if topic in _LATCHED]:
        for message in bag.messages(latched, end_ns=begin_ns):
            yield dataclasses.replace(message, log_ns=begin_ns)
    yield from bag.messages(topics, begin_ns, end_ns + 1)


def _wait(spin: Callable[[float], None], condition: Callable[[], bool], timeout_s: float) -> bool:
    """Let ROS work until a condition holds, at most so long; whether it holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= end_s:
            return False
        spin(_POLL_S)
    return True


def _message_class(message_type: str) -> Any:
    """Class of ``package/msg/Name``; None where the package is not installed."""
    package, name = message_type.split("/")[0], message_type.split("/")[-1]
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this program."""
    return command_line.run(replay, ReplayConfig, arguments, "vgssl replay")


if __name__ == "__main__":
    sys.exit(main())
