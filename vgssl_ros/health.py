"""What the node has done so far, and what to tell about it: figures, a level, and the cause of a silence."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

#: Answers that percentiles and acceptance are taken over.
_WINDOW = 200
#: Readings over which the camera is compared with the model: a hiccup is no verdict.
_READINGS = 5
#: So many frames at least, and more than this share of them overwritten, are too much for the model.
_LEAST_FRAMES, _TOO_MUCH = 10, 0.5
#: More than this share of the frames lost on their way is told.
_LOSS = 0.1
#: A silence longer than this, seconds, is told with its likely cause.
SILENCE_S = 3.0
#: Where Fast DDS gets room for large images, in words that a shell understands.
PROFILE = "$(ros2 pkg prefix vgssl_ros)/share/vgssl_ros/config/ros/fastdds_large_images.xml"
_ROOM = (
    "start its driver with FASTRTPS_DEFAULT_PROFILES_FILE (Humble, Jazzy) or FASTDDS_DEFAULT_PROFILES_FILE (Kilted and "
    f"later) set to {PROFILE}, or take image_transport compressed"
)


@dataclass(frozen=True)
class Figures:
    """The counters at one moment.

    Attributes:
        received: Frames that the subscription delivered.
        processed: Frames that were answered.
        overwritten: Frames that a newer one replaced before the worker was free.
        lost: Frames that the middleware lost on their way, as far as it knows of them.
        undecodable: Frames that did not decode; ``last_error`` tells why.
        failed: Frames on which the localizer failed; ``last_error`` tells why.
        last_error: Reason of the last frame that got no answer.
        last_frame_ok: Whether the last finished frame was answered.
        rate_hz: Answers per second since the last reading.
        camera_hz: Frames that arrived per second, over the last readings.
        is_overrun: Whether most of those were overwritten.
        loss: Share of the frames that were lost, over the last readings.
        latency_p50_ms, latency_p95_ms: From the frame's arrival to its answer; None before the first.
        age_p50_ms, age_p95_ms: From the image's stamp to its answer, by the node's clock; None before the first.
        acceptance: Share of the last answers that were accepted; None before the first.
        filter_state: Of the temporal filter at the last answer; empty without one.
        silent_s: Seconds since the last frame of the camera that is silent longest, or since activation.
        silent_topic: That camera's.
    """

    received: int
    processed: int
    overwritten: int
    lost: int
    undecodable: int
    failed: int
    last_error: str
    last_frame_ok: bool
    rate_hz: float
    camera_hz: float
    is_overrun: bool
    loss: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    age_p50_ms: float | None
    age_p95_ms: float | None
    acceptance: float | None
    filter_state: str
    silent_s: float
    silent_topic: str


class Statistics:
    """Counters that the callbacks and the worker thread both write.

    Args:
        now_ns: The node's clock, by which images are old.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        # Latency and age in milliseconds, and whether it was accepted.
        self._answers: deque[tuple[float, float, bool]] = deque(maxlen=_WINDOW)
        self._filter_state = ""
        self._last_error = ""
        self._last_frame_ok = True
        self.activated(())

    def activated(self, topics: Iterable[str]) -> None:
        """Subscribed again to the cameras on these topics: a silence begins now."""
        with self._lock:
            now = time.monotonic()
            self._heard_s = {topic: now for topic in topics}
            self._readings = deque([(now, self._counts.copy())], maxlen=_READINGS)

    def received(self, topic: str, overwrote: bool) -> None:
        """A frame arrived, and maybe replaced one that nobody took."""
        with self._lock:
            self._counts["received"] += 1
            self._counts["overwritten"] += overwrote
            self._heard_s[topic] = time.monotonic()

    def lost(self, count: int) -> None:
        """Frames were lost on their way."""
        with self._lock:
            self._counts["lost"] += count

    def answered(self, latency_ms: float, stamp_ns: int, is_accepted: bool, filter_state: str) -> None:
        """A frame was answered.

        Args:
            latency_ms: Since it arrived.
            stamp_ns: The image's.
            is_accepted: Whether a pose was published.
            filter_state: Of the temporal filter; empty without one.
        """
        with self._lock:
            self._counts["processed"] += 1
            self._answers.append((latency_ms, (self._now_ns() - stamp_ns) / 1e6, is_accepted))
            self._filter_state = filter_state
            self._last_frame_ok = True

    def undecodable(self, reason: str) -> None:
        """A frame did not decode."""
        self._no_answer("undecodable", reason)

    def failed(self, reason: str) -> None:
        """The localizer failed on a frame."""
        self._no_answer("failed", reason)

    def read(self) -> Figures:
        """The figures now; the rate is since the last call."""
        with self._lock:
            now, counts = time.monotonic(), self._counts.copy()
            (first_s, first), (last_s, last) = self._readings[0], self._readings[-1]
            self._readings.append((now, counts))
            arrived, overwritten, lost = (counts[name] - first[name] for name in ("received", "overwritten", "lost"))
            latency_p50, latency_p95 = _percentiles([latency for latency, _, _ in self._answers])
            age_p50, age_p95 = _percentiles([age for _, age, _ in self._answers])
            accepted = sum(is_accepted for _, _, is_accepted in self._answers)
            silent_topic, heard_s = min(self._heard_s.items(), key=lambda item: item[1], default=("", now))
            return Figures(
                received=counts["received"],
                processed=counts["processed"],
                overwritten=counts["overwritten"],
                lost=counts["lost"],
                undecodable=counts["undecodable"],
                failed=counts["failed"],
                last_error=self._last_error,
                last_frame_ok=self._last_frame_ok,
                rate_hz=(counts["processed"] - last["processed"]) / max(now - last_s, 1e-6),
                camera_hz=arrived / max(now - first_s, 1e-6),
                is_overrun=arrived >= _LEAST_FRAMES and overwritten > _TOO_MUCH * arrived,
                loss=lost / max(arrived + lost, _LEAST_FRAMES),
                latency_p50_ms=latency_p50,
                latency_p95_ms=latency_p95,
                age_p50_ms=age_p50,
                age_p95_ms=age_p95,
                acceptance=accepted / len(self._answers) if self._answers else None,
                filter_state=self._filter_state,
                silent_s=now - heard_s,
                silent_topic=silent_topic,
            )

    def _no_answer(self, kind: str, reason: str) -> None:
        with self._lock:
            self._counts[kind] += 1
            self._last_error = reason
            self._last_frame_ok = False


def _percentiles(values: list[float]) -> tuple[float | None, float | None]:
    """The middle one, and the one that 95 % do not exceed."""
    if not values:
        return None, None
    middle, high = np.percentile(values, [50, 95]).tolist()
    return middle, high


@dataclass(frozen=True)
class Situation:
    """What the node sees around it.

    Attributes:
        unheard: Why no publisher on one of its topics can be heard; empty where all topics have one that can.
        unheard_topic: That topic.
        loses_large_images: Whether the middleware drops best-effort images that exceed its shared memory.
        lacks_clock: Whether time is simulated and nobody publishes it.
        is_default_calibration: Whether the map has no calibration of its own that fits.
    """

    unheard: str = ""
    unheard_topic: str = ""
    loses_large_images: bool = False
    lacks_clock: bool = False
    is_default_calibration: bool = False


@dataclass(frozen=True)
class Health:
    """What a diagnostics message tells.

    Attributes:
        is_ok: Whether the node does its work.
        summary: One line: what it does, or why it is silent.
        values: Figures as text.
    """

    is_ok: bool
    summary: str
    values: dict[str, str]


def judge(figures: Figures, state: str, topic: str, publishers: int, situation: Situation | None = None) -> Health:
    """Put the figures into words.

    Args:
        figures: The counters.
        state: Lifecycle state: ``unconfigured``, ``inactive``, ``active`` or ``finalized``; ``stopping`` after a
            deactivation that the image in work held up.
        topic: The image topic that is subscribed.
        publishers: How many publish on it.
        situation: What else hinders the node; nothing where it is not given.
    """
    situation = situation or Situation()
    causes = list(_causes(figures, topic, publishers, situation)) if state == "active" else []
    if state == "stopping":
        causes = ["the image in work does not end: try to deactivate again, or end the node"]
    summary = "; ".join(causes) or (_work(figures, situation) if state == "active" else state)
    shown = {
        "state": state,
        "filter_state": figures.filter_state,
        "image_topic": topic,
        "publishers": str(publishers),
        "rate_hz": f"{figures.rate_hz:.2f}",
        "camera_hz": f"{figures.camera_hz:.2f}",
        "latency_p50_ms": _text(figures.latency_p50_ms),
        "latency_p95_ms": _text(figures.latency_p95_ms),
        "age_p50_ms": _text(figures.age_p50_ms),
        "age_p95_ms": _text(figures.age_p95_ms),
        "acceptance": _text(figures.acceptance),
        "default_calibration": str(situation.is_default_calibration).lower(),
        "received": str(figures.received),
        "processed": str(figures.processed),
        "overwritten": str(figures.overwritten),
        "lost": str(figures.lost),
        "undecodable": str(figures.undecodable),
        "failed": str(figures.failed),
        "last_error": figures.last_error,
    }
    return Health(not causes, summary, shown)


def _causes(figures: Figures, topic: str, publishers: int, situation: Situation) -> Iterator[str]:
    """What hinders an active node; several things may at once."""
    if publishers == 0:
        yield f"no publisher on {topic}: check the topic's name and ROS_DOMAIN_ID"
    elif situation.unheard or figures.silent_s > SILENCE_S:
        where = situation.unheard_topic or figures.silent_topic or topic
        cause = situation.unheard or _silence(situation)
        yield f"a publisher on {where} but no frame for {figures.silent_s:.0f} s: {cause}"
    elif not figures.last_frame_ok:
        yield figures.last_error
    elif figures.loss > _LOSS:
        yield f"{100 * figures.loss:.0f} % of the images of {topic} get lost on their way" + (
            f": where they are larger than the shared-memory segment of the camera's process, {_ROOM}"
            if situation.loses_large_images
            else ": the machine or the network is too slow for them"
        )
    elif figures.is_overrun:
        yield (
            f"too slow for the camera: {figures.camera_hz:.0f} images per second come and {figures.rate_hz:.1f} are "
            "answered, the newest ones; where that is not enough take fp16 or int8, another engine or a smaller network"
        )
    if situation.lacks_clock:
        yield (
            "simulated time without /clock: use_sim_time is true and nobody publishes /clock; start the player with "
            "it, or set use_sim_time to false"
        )


def _silence(situation: Situation) -> str:
    if not situation.loses_large_images:
        return "the camera stands still"
    return (
        "the camera stands still, or its best-effort images are larger than the shared-memory segment of its process "
        f"(512 KB by default) and get lost: {_ROOM}"
    )


def _work(figures: Figures, situation: Situation) -> str:
    work = f"answers {figures.rate_hz:.1f} images per second"
    if situation.is_default_calibration:
        work += "; the default calibration is in use, which accepts little: calibrate the map (vgssl calibrate)"
    return work


def _text(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.2f}"
