"""The query beside its match, for people to look at; without ROS, because the result bag shows it too."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vgssl_core.errors import VgsslError
from vgssl_core.geomap.pictures import MapPictures
from vgssl_core.imaging import Image
from vgssl_core.localization import Hypothesis, Localization, Localizer

_HEIGHT, _LINE, _MARGIN = 240, 22, 6
_WHITE, _GREEN, _ORANGE = (255, 255, 255), (90, 220, 90), (255, 170, 60)


@dataclass(frozen=True)
class Match:
    """What is to be shown.

    Attributes:
        query: RGB.
        pictures: Of the map.
        index: Of the map's image that the query matches.
        text: What was made of it.
        is_accepted: Whether it counts.
    """

    query: Image
    pictures: MapPictures
    index: int
    text: str
    is_accepted: bool

    def jpeg(self) -> bytes:
        """Drawn and compressed."""
        return cv2.imencode(".jpg", cv2.cvtColor(side_by_side(self), cv2.COLOR_RGB2BGR))[1].tobytes()


def nearest_match(localizer: Localizer, localization: Localization, best: Hypothesis) -> int:
    """Index of the nearest of the matches that lie where the best hypothesis is, or else of the nearest of all."""
    positions = localizer.geomap.positions_m[localization.indices][:, :2]
    near = np.flatnonzero(np.hypot(*(positions - best.position_m[:2]).T) <= localizer.config.cluster_radius_m)
    return int(localization.indices[near[0] if len(near) else 0])


def caption(best: Hypothesis, is_accepted: bool, state: str) -> str:
    """What was made of a query, in one line."""
    return f"P {best.probability:.2f} {'' if is_accepted else 'not '}accepted {state}".rstrip()


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
