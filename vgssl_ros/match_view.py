"""The query beside its match, for people to look at: drawn by a thread of its own, so that no answer waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from vgssl_core.errors import VgsslError
from vgssl_core.geomap.pictures import MapPictures
from vgssl_core.imaging import Image
from vgssl_ros import messages
from vgssl_ros.latest_slot import LatestSlot, Worker

_HEIGHT, _LINE, _MARGIN = 240, 22, 6
_REPEAT_S = 30.0
_WHITE, _GREEN, _ORANGE = (255, 255, 255), (90, 220, 90), (255, 170, 60)


@dataclass(frozen=True)
class Match:
    """What is to be shown.

    Attributes:
        query: RGB.
        pictures: Of the map.
        index: Of the map's image that the query matches.
        header: Of the query.
        text: What was made of it.
        is_accepted: Whether it counts.
    """

    query: Image
    pictures: MapPictures
    index: int
    header: Header
    text: str
    is_accepted: bool


class MatchView:
    """Draws the newest match and publishes it.

    Args:
        publish: Takes the drawn image.
        logger: Tells what went wrong.
    """

    def __init__(self, publish: Callable[[CompressedImage], None], logger: RcutilsLogger) -> None:
        self._publish, self._logger = publish, logger
        self._slot: LatestSlot[Match] = LatestSlot()
        self._worker = Worker(self._slot, self._draw, "match_view")

    def show(self, match: Match) -> None:
        """Draw this one next, instead of what still waits."""
        self._slot.put(match)

    def stop(self, timeout_s: float) -> bool:
        """End the thread; whether it has ended."""
        return self._worker.stop(timeout_s)

    def _draw(self, match: Match) -> None:
        try:
            drawn = side_by_side(match)
            if not self._slot.is_closed:
                self._publish(messages.compressed_image(drawn, match.header))
        # Whatever it is, the next match may be drawn.
        except Exception as problem:
            self._logger.warning(f"No picture of the match: {problem!r}", throttle_duration_sec=_REPEAT_S)


def side_by_side(match: Match) -> Image:
    """Query and match at one height, each with a line of text; the match is grey where its picture is gone."""
    try:
        source, picture = match.pictures.source(match.index), match.pictures.picture(match.index)
    except VgsslError as problem:
        source, picture = str(problem), None
    name = source.rsplit("/", 1)[-1]
    if picture is None:
        picture = np.full_like(match.query, 96)
        name = f"not on this machine: {name}"
    colour = _GREEN if match.is_accepted else _ORANGE
    panels = [_panel(match.query, match.text, colour), _panel(picture, name, _WHITE)]
    return np.ascontiguousarray(np.hstack(panels))


def _panel(image: Image, text: str, colour: tuple[int, int, int]) -> Image:
    width = max(1, round(image.shape[1] * _HEIGHT / image.shape[0]))
    resized = cv2.resize(image, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    panel = np.zeros((_HEIGHT + _LINE, width, 3), np.uint8)
    panel[_LINE:] = resized
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    cv2.putText(panel, text, (_MARGIN, _LINE - _MARGIN), font, scale, colour, 1, cv2.LINE_AA)
    return panel
