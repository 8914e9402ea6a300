"""Reading a bag: a folder, or a bare ``.mcap`` or ``.db3`` file of any ROS 2 distribution."""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Reader

from vgssl_core.bags.message import typestore
from vgssl_core.bags.records import COMPRESSED_IMAGE, IMAGE_TYPES, NAV_SAT_FIX, ODOMETRY, Fix, Frame, OdometryPose
from vgssl_core.errors import DataError

_STORAGE_SUFFIXES = (".mcap", ".db3")
#: Under it drives record where they really were.
_TRUTH = "/ground_truth"


@dataclass(frozen=True)
class RawMessage:
    """A message as it lies in the bag.

    Attributes:
        topic, type: Name and ROS type, for example ``sensor_msgs/msg/Image``.
        log_ns: When the recorder received it, nanoseconds.
        cdr: The serialised message.
    """

    topic: str
    type: str
    log_ns: int
    cdr: bytes

    @property
    def stamp_ns(self) -> int:
        """Stamp of a message that begins with a header, read without deserialising the rest."""
        byte_order = "<" if self.cdr[1] & 1 else ">"
        seconds, nanoseconds = struct.unpack_from(f"{byte_order}iI", self.cdr, 4)
        return seconds * 1_000_000_000 + nanoseconds


class BagReader:
    """Context manager over one bag; iterators stream, so a bag may be larger than memory.

    Args:
        path: Bag folder (with ``metadata.yaml``, or with a single storage file), or a storage file.

    Raises:
        DataError: Not a bag, truncated, or of an unknown storage.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = self._opened()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._reader.is_open:
            self._reader.close()

    @functools.cached_property
    def topics(self) -> dict[str, str]:
        """Type of every topic."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Number of messages of every topic."""
        return {name: info.msgcount for name, info in self._reader.topics.items()}

    def topics_of(self, *types: str) -> list[str]:
        """Topics of the given types, sorted."""
        return sorted(topic for topic, kind in self.topics.items() if kind in types)

    @property
    def measured_odometry(self) -> list[str]:
        """Topics of odometry that a robot would have: not the truth's, sorted."""
        return [topic for topic in self.topics_of(ODOMETRY) if not topic.startswith(_TRUTH)]

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were recorded, nanoseconds."""
        return self._reader.start_time, self._reader.start_time + self._reader.duration

    @property
    def image_topics(self) -> list[str]:
        """Image and CompressedImage topics, sorted."""
        return self.topics_of(*IMAGE_TYPES)

    def image_topic(self, topic: str | None = None) -> str:
        """The given image topic after a check, or the only one of the bag.

        Raises:
            DataError: No images, several image topics and none chosen, or not an image topic.
        """
        return self._choose(topic, IMAGE_TYPES, "images (Image or CompressedImage)", "image topic", "--image_topic")

    def fix_topic(self, topic: str | None = None) -> str:
        """The given NavSatFix topic after a check, or the only one of the bag; raises like `image_topic`."""
        return self._choose(topic, (NAV_SAT_FIX,), "positions (NavSatFix)", "NavSatFix topic", "--position_topic")

    def odometry_topic(self, topic: str | None = None) -> str:
        """The given Odometry topic after a check, or the only one of the bag; raises like `image_topic`."""
        return self._choose(topic, (ODOMETRY,), "odometry (nav_msgs/Odometry)", "Odometry topic", "--position_topic")

    def messages(
        self, topics: Sequence[str] | None = None, begin_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Serialised messages of the given topics (None: all) in the order of recording.

        Args:
            topics: Names.
            begin_ns: Only what was received then or later; None leaves it open.
            end_ns: Only what was received before; None leaves it open.

        Raises:
            DataError: A topic is not in the bag, or the bag is damaged at the point that is read.
        """
        if missing := sorted(set(topics or ()) - set(self.topics)):
            raise DataError(f"{self.path} has no topic {', '.join(missing)}; it has {self._listing()}.")
        connections = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not connections:
            return
        with self._damage_reported():
            stored = iter(self._reader.messages(connections, begin_ns, end_ns))
        while True:
            with self._damage_reported():
                item = next(stored, None)
            if item is None:
                return
            yield RawMessage(item[0].topic, item[0].msgtype, item[1], bytes(item[2]))

    def frames(
        self, topic: str | None = None, begin_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Frame]:
        """Camera images, not decoded; without ``topic`` those of the only image topic; times as in `messages`."""
        for raw in self.messages([self.image_topic(topic)], begin_ns, end_ns):
            yield self._frame(raw)

    def image_stamps_ns(self, topic: str | None = None) -> np.ndarray:
        """(N,) int64 header stamps of the images in the order of recording."""
        stamps = [self._stamp_ns(raw) for raw in self.messages([self.image_topic(topic)])]
        return np.asarray(stamps, np.int64)

    def fixes(self, topic: str | None = None) -> Iterator[Fix]:
        """GNSS fixes, invalid ones too; without ``topic`` those of the only NavSatFix topic."""
        for raw in self.messages([self.fix_topic(topic)]):
            message = self._decoded(raw)
            yield Fix(
                _nanoseconds(message.header.stamp),
                message.latitude,
                message.longitude,
                message.altitude,
                int(message.status.status),
                np.array(message.position_covariance, np.float64),
                int(message.position_covariance_type),
                raw.topic,
            )

    def odometry(self, topic: str | None = None) -> Iterator[OdometryPose]:
        """Odometry poses, invalid ones too; without ``topic`` those of the only Odometry topic."""
        for raw in self.messages([self.odometry_topic(topic)]):
            message = self._decoded(raw)
            position, rotation = message.pose.pose.position, message.pose.pose.orientation
            yield OdometryPose(
                _nanoseconds(message.header.stamp),
                np.array([position.x, position.y, position.z]),
                np.array([rotation.x, rotation.y, rotation.z, rotation.w]),
                message.header.frame_id,
                message.child_frame_id,
                np.array(message.pose.covariance, np.float64),
                raw.topic,
            )

    def _opened(self) -> Reader:
        path = self.path
        if not path.exists():
            raise DataError(f"There is no bag at {path}: give a bag folder or an .mcap or .db3 file.")
        if path.suffix == ".bag":
            raise DataError(f"{path} is a ROS 1 bag: convert it first (rosbags-convert --src {path} --dst FOLDER).")
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            stored = [item for item in sorted(path.iterdir()) if item.suffix in _STORAGE_SUFFIXES]
            if len(stored) != 1:
                raise DataError(
                    f"{path} is not a bag: it has no metadata.yaml and {len(stored)} .mcap or .db3 files. "
                    "Give the bag's folder, or one of its files."
                )
            path = stored[0]
        if path.is_file() and path.suffix not in _STORAGE_SUFFIXES:
            raise DataError(f"{path} is not a bag: give a bag folder or an .mcap or .db3 file.")
        with self._damage_reported():
            reader = Reader(path)
            reader.open()
        return reader

    @contextlib.contextmanager
    def _damage_reported(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        # A damaged file surfaces in rosbags as any of a dozen types, from struct.error to AssertionError.
        except Exception as problem:
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise DataError(
                f"{self.path} is damaged, truncated or no ROS 2 bag ({reason}). "
                "Copy it again, or recover it with `mcap recover` or `ros2 bag reindex`."
            ) from problem

    def _decoded(self, raw: RawMessage) -> Any:
        with self._damage_reported():
            return typestore().deserialize_cdr(raw.cdr, raw.type)

    def _stamp_ns(self, raw: RawMessage) -> int:
        with self._damage_reported():
            return raw.stamp_ns

    def _frame(self, raw: RawMessage) -> Frame:
        message = self._decoded(raw)
        stamp_ns = _nanoseconds(message.header.stamp)
        source = f"{self.path}: {raw.topic} at {stamp_ns} ns"
        head = (raw.topic, stamp_ns, raw.log_ns, message.header.frame_id)
        if raw.type == COMPRESSED_IMAGE:
            return Frame(*head, encoding=message.format, data=message.data, source=source)
        return Frame(
            *head,
            encoding=message.encoding,
            data=message.data,
            width=message.width,
            height=message.height,
            step=message.step,
            is_bigendian=bool(message.is_bigendian),
            is_compressed=False,
            source=source,
        )

    def _choose(self, topic: str | None, types: Sequence[str], content: str, what: str, flag: str) -> str:
        candidates = self.topics_of(*types)
        if topic is not None:
            if topic not in candidates:
                raise DataError(f"{self.path} has no {what} {topic}; it has {self._listing()}.")
            return topic
        if not candidates:
            raise DataError(f"{self.path} holds no {content}; it has {self._listing()}. Give another bag.")
        if len(candidates) > 1:
            raise DataError(
                f"{self.path} has several topics of {content}: {', '.join(candidates)}. Choose one ({flag})."
            )
        return candidates[0]

    def _listing(self) -> str:
        return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(self.topics.items())) or "no topics at all"


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
