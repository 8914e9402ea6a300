"""The query beside its match, drawn by a thread of its own, so that no answer waits for it."""

from __future__ import annotations

import array
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from vgssl_ros.latest_slot import LatestSlot, Worker
from vgssl_ros.match_picture import Match

_REPEAT_S = 30.0


class MatchView:
    """Draws the newest match and publishes it.

    Args:
        publish: Takes the drawn image.
        logger: Tells what went wrong.
    """

    def __init__(self, publish: Callable[[CompressedImage], None], logger: RcutilsLogger) -> None:
        self._publish, self._logger = publish, logger
        self._slot: LatestSlot[tuple[Match, Header]] = LatestSlot()
        self._worker = Worker(self._slot, self._draw, "match_view")

    def show(self, match: Match, header: Header) -> None:
        """Draw this one next, under the query's header, instead of what still waits."""
        self._slot.put((match, header))

    def stop(self, timeout_s: float) -> bool:
        """End the thread; whether it has ended."""
        return self._worker.stop(timeout_s)

    def _draw(self, item: tuple[Match, Header]) -> None:
        match, header = item
        try:
            data = array.array("B", match.jpeg())
            if not self._slot.is_closed:
                self._publish(CompressedImage(header=header, format="jpeg", data=data))
        # Whatever it is, the next match may be drawn.
        except Exception as problem:
            self._logger.warning(f"No picture of the match: {problem!r}", throttle_duration_sec=_REPEAT_S)
