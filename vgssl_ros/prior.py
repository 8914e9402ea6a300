"""What something else tells about where the robot is: the map is searched only near it, until that is too old."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import NavSatFix, NavSatStatus

from vgssl_core.errors import DataError
from vgssl_core.geodesy import LocalFrame
from vgssl_core.localization import Region

_SIGMAS = 3.0


@dataclass(frozen=True)
class PriorSettings:
    """How far and how long a prior holds.

    Attributes:
        radius_m: Least radius of the search.
        lifetime_s: Seconds from the message's arrival.
    """

    radius_m: float
    lifetime_s: float


class Prior:
    """The last ``initial_fix`` or ``initial_pose`` as a region of one map.

    Args:
        datum: The map's; None for a local map.
        map_frame: The frame that poses must be told in.
        settings: Present settings.
        now_ns: The node's clock.
        logger: Tells what is left out.
    """

    def __init__(
        self,
        datum: LocalFrame | None,
        map_frame: str,
        settings: Callable[[], PriorSettings],
        now_ns: Callable[[], int],
        logger: RcutilsLogger,
    ) -> None:
        self._datum, self._map_frame = datum, map_frame
        self._settings, self._now_ns, self._logger = settings, now_ns, logger
        self._taken: tuple[Region, int] | None = None
        self._told = ("", "")

    def take_fix(self, message: NavSatFix) -> bool:
        """Search near a fix; False where it is none, which is logged."""
        if self._datum is None:
            return self._left_out("initial_fix", "the map is local, which knows no latitude: send initial_pose")
        place = message.latitude, message.longitude
        # A status that nobody set is no refusal.
        if message.status.status == NavSatStatus.STATUS_NO_FIX or not all(map(math.isfinite, place)):
            return self._left_out("initial_fix", "it is no fix")
        east, north, _ = self._datum.to_enu(*place, self._datum.altitude_m)
        known = message.position_covariance_type != NavSatFix.COVARIANCE_TYPE_UNKNOWN
        variance = max(message.position_covariance[0], message.position_covariance[4]) if known else 0.0
        return self._take("initial_fix", float(east), float(north), variance)

    def take_pose(self, message: PoseWithCovarianceStamped) -> bool:
        """Search near a pose in the map's frame; False where it is none, which is logged."""
        if message.header.frame_id not in ("", self._map_frame):
            reason = f"its frame is {message.header.frame_id!r} and not {self._map_frame!r}"
            return self._left_out("initial_pose", reason)
        position, covariance = message.pose.pose.position, message.pose.covariance
        return self._take("initial_pose", position.x, position.y, max(covariance[0], covariance[7]))

    def region(self) -> Region | None:
        """Where to search now; None for everywhere."""
        if self._taken is None:
            return None
        region, taken_ns = self._taken
        # A clock that jumps back ends it too: what was told belongs to another run.
        if not 0 <= self._now_ns() - taken_ns <= self._settings().lifetime_s * 1e9:
            self._taken = None
            return None
        return region

    def _take(self, name: str, x_m: float, y_m: float, variance: float) -> bool:
        sigma = math.sqrt(variance) if math.isfinite(variance) and variance > 0 else 0.0
        try:
            region = Region(x_m, y_m, max(self._settings().radius_m, _SIGMAS * sigma))
        except DataError as problem:
            return self._left_out(name, str(problem))
        self._taken, self._told = (region, self._now_ns()), ("", "")
        return True

    def _left_out(self, name: str, reason: str) -> bool:
        # Receivers send many a second: the same is told once, until something else happens.
        if self._told != (name, reason):
            self._logger.warning(f"{name} left out: {reason}.")
        self._told = name, reason
        return False
