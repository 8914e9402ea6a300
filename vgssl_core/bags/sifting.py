"""Which of the recorded positions are good enough to be used, and how many are not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vgssl_core.bags.records import Fix, OdometryPose

Position = TypeVar("Position", Fix, OdometryPose)
#: Names of ``NavSatStatus`` of a fix, each better than the one before.
STATUSES = ("fix", "sbas", "gbas")


@dataclass(frozen=True)
class FixGate:
    """What a fix must be to count.

    Attributes:
        least_status: Least ``NavSatStatus``: 0 any fix, 1 satellite- and 2 ground-augmented.
        max_sigma_m: Largest horizontal standard deviation in metres; a fix that states none passes.
    """

    least_status: int = 0
    max_sigma_m: float = math.inf

    def objection(self, fix: Fix) -> str | None:
        """Why a fix does not count, as words to follow a number; None when it does."""
        if fix.status < 0:
            return "without a fix"
        if not fix.is_valid:
            return "NaN or off the Earth"
        if fix.status < self.least_status:
            return f"with a status below {STATUSES[self.least_status]}"
        if fix.sigma_m > self.max_sigma_m:
            return f"with a standard deviation above {self.max_sigma_m:g} m"
        return None


@dataclass(frozen=True)
class Sifted(Generic[Position]):
    """What of a topic's positions counts.

    Attributes:
        good: Sorted by stamp; of equal stamps the first recorded.
        recorded: All there were.
        dropped: Reason → how many were dropped for it; several positions of one stamp are not counted here.
    """

    good: Sequence[Position]
    recorded: int
    dropped: dict[str, int]

    def __str__(self) -> str:
        reasons = [f"{count} {reason}" for reason, count in self.dropped.items()]
        return f"{self.recorded} messages" + (f", of which {', '.join(reasons)}" if reasons else "")


def sift_fixes(fixes: Sequence[Fix], gate: FixGate) -> Sifted[Fix]:
    """The fixes that pass a gate."""
    return _sifted(fixes, [gate.objection(fix) for fix in fixes])


def sift_odometry(poses: Sequence[OdometryPose]) -> Sifted[OdometryPose]:
    """The poses that are poses."""
    return _sifted(poses, [None if pose.is_valid else "NaN or no rotation" for pose in poses])


def _sifted(positions: Sequence[Position], objections: Sequence[str | None]) -> Sifted[Position]:
    # A bag that was recorded over a loop comes out sorted.
    pairs = zip(reversed(positions), reversed(objections), strict=True)
    good = {position.stamp_ns: position for position, objection in pairs if objection is None}
    dropped = Counter(objection for objection in objections if objection is not None)
    return Sifted([good[stamp] for stamp in sorted(good)], len(positions), dict(dropped))
