"""Where a robot was lately by its own odometry, at any time between the messages."""

from __future__ import annotations

import bisect
import math
import threading
from collections import deque
from typing import NamedTuple

#: Newest messages that are kept: 20 s at 200 Hz.
_LENGTH = 4000
#: A stamp that goes back by more than this begins a new recording: a bag that loops, a simulation that starts anew.
_RESTART_NS = 1_000_000_000
#: Beyond the last message the robot goes on as it did over this time.
_BASELINE_NS = 100_000_000


class PlanarPose(NamedTuple):
    """A pose in a plane: metres, and radians counter-clockwise."""

    x_m: float = 0.0
    y_m: float = 0.0
    yaw_rad: float = 0.0

    def __matmul__(self, other: PlanarPose) -> PlanarPose:
        """``other``, which is told in the frame of this pose, in the frame of which this pose is told."""
        cosine, sine = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return PlanarPose(
            self.x_m + cosine * other.x_m - sine * other.y_m,
            self.y_m + sine * other.x_m + cosine * other.y_m,
            math.remainder(self.yaw_rad + other.yaw_rad, math.tau),
        )

    def inverse(self) -> PlanarPose:
        """The origin of the frame, told in the frame of this pose."""
        cosine, sine = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return PlanarPose(-cosine * self.x_m - sine * self.y_m, sine * self.x_m - cosine * self.y_m, -self.yaw_rad)


class OdometryTrack:
    """Newest poses of a robot in the frame of its odometry; one thread may add while others ask."""

    def __init__(self, max_gap_s: float) -> None:
        """Begin empty.

        Args:
            max_gap_s: Longest time between two poses, and after the last one, that is bridged.
        """
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._lock = threading.Lock()
        self._stamps_ns: deque[int] = deque(maxlen=_LENGTH)
        self._poses: deque[PlanarPose] = deque(maxlen=_LENGTH)

    def add(self, stamp_ns: int, pose: PlanarPose) -> None:
        """Keep a pose; one that is not finite or comes late is left out, and a time that restarts begins anew."""
        if not all(map(math.isfinite, (pose.x_m, pose.y_m, pose.yaw_rad))):
            return
        with self._lock:
            last_ns = self._stamps_ns[-1] if self._stamps_ns else None
            if last_ns is not None and stamp_ns < last_ns - _RESTART_NS:
                self._stamps_ns.clear()
                self._poses.clear()
            elif last_ns is not None and stamp_ns <= last_ns:
                return
            self._stamps_ns.append(stamp_ns)
            self._poses.append(pose)

    def at(self, stamp_ns: int) -> PlanarPose | None:
        """The pose at a time, between two others or a little after the last; None where too much would be guessed."""
        with self._lock:
            before = bisect.bisect_right(self._stamps_ns, stamp_ns) - 1
            if before >= 0 and self._stamps_ns[before] == stamp_ns:
                return self._poses[before]
            after = before + 1
            if after == len(self._stamps_ns):
                before, after = self._baseline(), before
            if not 0 <= before < after:
                return None
            begin_ns, end_ns = self._stamps_ns[before], self._stamps_ns[after]
            begin, end = self._poses[before], self._poses[after]
        if max(end_ns - begin_ns, stamp_ns - end_ns) > self._max_gap_ns:
            return None
        share = (stamp_ns - begin_ns) / (end_ns - begin_ns)
        turn = math.remainder(end.yaw_rad - begin.yaw_rad, math.tau)
        return PlanarPose(
            begin.x_m + share * (end.x_m - begin.x_m),
            begin.y_m + share * (end.y_m - begin.y_m),
            math.remainder(begin.yaw_rad + share * turn, math.tau),
        )

    def _baseline(self) -> int:
        """Place of the pose from which to the last one the motion is taken that goes on."""
        if not self._stamps_ns:
            return -1
        return max(bisect.bisect_right(self._stamps_ns, self._stamps_ns[-1] - _BASELINE_NS) - 1, 0)
