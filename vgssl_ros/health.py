"""What the node has done so far, and what to tell about it: figures, a level, and the cause of a silence."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

#: Latencies that the percentiles are taken over.
_WINDOW = 200
#: A silence longer than this, seconds, is told with its likely cause.
SILENCE_S = 3.0


@dataclass(frozen=True)
class Figures:
    """The counters at one moment.

    Attributes:
        received: Frames that the subscription delivered.
        processed: Frames that were answered.
        overwritten: Frames that a newer one replaced before the worker was free.
        undecodable: Frames that did not decode; ``last_error`` tells why.
        failed: Frames on which the localizer failed; ``last_error`` tells why.
        last_error: Reason of the last frame that got no answer.
        last_frame_ok: Whether the last finished frame was answered.
        rate_hz: Answers per second since the last reading.
        latency_p50_ms, latency_p95_ms: From the frame's arrival to its answer; None before the first.
        silent_s: Seconds since the last frame arrived, or since activation.
    """

    received: int
    processed: int
    overwritten: int
    undecodable: int
    failed: int
    last_error: str
    last_frame_ok: bool
    rate_hz: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    silent_s: float


class Statistics:
    """Counters that the callback and the worker thread both write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=_WINDOW)
        self._last_error = ""
        self._last_frame_ok = True
        self._last_arrival_s = time.monotonic()
        self._last_reading = (time.monotonic(), 0)

    def activated(self) -> None:
        """Subscribed again: a silence begins now."""
        with self._lock:
            self._last_arrival_s = time.monotonic()

    def received(self, overwrote: bool) -> None:
        """A frame arrived, and maybe replaced one that nobody took."""
        with self._lock:
            self._counts["received"] += 1
            self._counts["overwritten"] += overwrote
            self._last_arrival_s = time.monotonic()

    def answered(self, latency_ms: float) -> None:
        """A frame was answered."""
        with self._lock:
            self._counts["processed"] += 1
            self._latencies_ms.append(latency_ms)
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
            now = time.monotonic()
            before, processed_before = self._last_reading
            processed = self._counts["processed"]
            self._last_reading = (now, processed)
            latencies = np.percentile(self._latencies_ms, [50, 95]) if self._latencies_ms else (None, None)
            return Figures(
                received=self._counts["received"],
                processed=processed,
                overwritten=self._counts["overwritten"],
                undecodable=self._counts["undecodable"],
                failed=self._counts["failed"],
                last_error=self._last_error,
                last_frame_ok=self._last_frame_ok,
                rate_hz=(processed - processed_before) / max(now - before, 1e-6),
                latency_p50_ms=latencies[0],
                latency_p95_ms=latencies[1],
                silent_s=now - self._last_arrival_s,
            )

    def _no_answer(self, kind: str, reason: str) -> None:
        with self._lock:
            self._counts[kind] += 1
            self._last_error = reason
            self._last_frame_ok = False


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


def judge(figures: Figures, state: str, topic: str, publishers: int) -> Health:
    """Put the figures into words.

    Args:
        figures: The counters.
        state: Lifecycle state: ``unconfigured``, ``inactive``, ``active`` or ``finalized``; ``stopping`` after a
            deactivation that the image in work held up.
        topic: The image topic that is subscribed.
        publishers: How many publish on it.
    """
    if state == "stopping":
        is_ok, summary = False, "the image in work does not end: try to deactivate again, or end the node"
    elif state != "active":
        is_ok, summary = True, state
    elif publishers == 0:
        is_ok, summary = False, f"no publisher on {topic}: check the topic's name and ROS_DOMAIN_ID"
    elif figures.silent_s > SILENCE_S:
        is_ok = False
        summary = (
            f"a publisher on {topic} but no frame for {figures.silent_s:.0f} s: the camera stands still, the QoS does "
            "not match, or best-effort images are larger than the shared-memory segment of the publisher"
        )
    elif not figures.last_frame_ok:
        is_ok, summary = False, figures.last_error
    else:
        is_ok, summary = True, f"answers {figures.rate_hz:.1f} images per second"
    shown = {
        "state": state,
        "image_topic": topic,
        "publishers": str(publishers),
        "rate_hz": f"{figures.rate_hz:.2f}",
        "latency_p50_ms": _text(figures.latency_p50_ms),
        "latency_p95_ms": _text(figures.latency_p95_ms),
        "received": str(figures.received),
        "processed": str(figures.processed),
        "overwritten": str(figures.overwritten),
        "undecodable": str(figures.undecodable),
        "failed": str(figures.failed),
        "last_error": figures.last_error,
    }
    return Health(is_ok, summary, shown)


def _text(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.2f}"
