"""Fixes and odometry together: where the fixes say, along the shape that the odometry tells.

Odometry is smooth and drifts, fixes do not drift and are rare. The odometry is turned into the direction of the fixes
by the rotation that lays its path around each fix onto theirs (least squares over a window of the way, so that drift
of its heading is followed), and what still lacks to the fixes is spread evenly between each two of them. So positions
meet the fixes, curves between them are kept, gaps are bridged, and headings are the vehicle's even when it stands or
drives backwards.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags.track import Floats, Track
from vgssl_core.geodesy import LocalFrame, compass_to_yaw_rad

_log = logging.getLogger(__name__)
Complexes = NDArray[np.complex128]

#: Way before and behind a fix over which the odometry's direction is compared with theirs; more where they are noisy
#: (so many standard deviations) or rare (so many times the way between two).
_WINDOW_M, _WINDOW_SIGMAS, _WINDOW_FIXES = 25.0, 15.0, 2.5
#: Root of the summed squared distances in that window that tells a direction: 5 degrees of the fixes' noise.
_LEAST_SPREAD_M, _LEAST_SPREAD_SIGMAS = 5.0, 11.5
#: A vehicle does not move that far from where it faces, on the whole.
_AWRY_RAD = 0.5
#: Odometry that moves faster than this was reset, metres per second.
_FASTEST_M_S = 100.0
#: Odometry may differ from fixes by this share of the way, and by so many of their standard deviations; what is taken
#: for one where they state none, or less than the least.
_MISSED_SHARE, _MISSED_SIGMAS, _LEAST_SIGMA_M, _UNSTATED_SIGMA_M = 0.15, 3.0, 0.3, 1.5


@dataclass(frozen=True)
class FusedTrack:
    """N fixes with odometry between them; where that is missing or contradicts them, the fixes alone.

    Attributes:
        fixes: The fixes.
        reckoned: The odometry turned into the direction of the fixes; x, y and heading are NaN where it is not known.
        correction_m: (N, 3) from the reckoned positions to the fixes, z of the fixes; NaN without odometry.
        agrees: (N,) whether odometry tells the way from each fix to the next.
        max_bridge_s: Fixes further apart in time are not joined.
    """

    fixes: Track
    reckoned: Track
    correction_m: Floats
    agrees: NDArray[np.bool_]
    max_bridge_s: float

    @property
    def is_joined(self) -> bool:
        """Whether the odometry tells any way between two fixes."""
        return bool(self.agrees.any())

    @property
    def frame(self) -> LocalFrame | None:
        """The ENU frame of the positions."""
        return self.fixes.frame

    @property
    def topic(self) -> str:
        """Where the fixes come from."""
        return self.fixes.topic

    def at(self, stamps_ns: NDArray[np.int64], max_gap_s: float) -> tuple[Floats, Floats]:
        """Positions (M, 3) and headings (M,) at other times; all NaN outside the track and in gaps."""
        planar, heading = self.fixes.at(stamps_ns, max_gap_s)
        carried, turned = self.reckoned.at(stamps_ns, max_gap_s)
        place = self.fixes.between(stamps_ns, self.max_bridge_s)
        weight = place.weight[:, None]
        carried += (1 - weight) * self.correction_m[place.before] + weight * self.correction_m[place.after]
        told = place.inside & (self.agrees[place.before] | (place.before == place.after))
        told &= np.isfinite(carried[:, :2]).all(axis=1)
        planar[told] = carried[told]
        return planar, np.where(np.isfinite(turned), turned, heading)


def fuse(fixes: Track, odometry: Track, sigma_m: float, max_gap_s: float, max_bridge_s: float) -> FusedTrack:
    """Join fixes and odometry of one drive.

    Args:
        fixes: The fixes.
        odometry: In a frame with z up; its origin and direction do not matter, and it may drift.
        sigma_m: Standard deviation of the fixes; 0 where they state none.
        max_gap_s: Odometry further apart in time is not interpolated.
        max_bridge_s: Fixes further apart in time are not joined.
    """
    at_fixes, _ = odometry.at(fixes.stamp_ns, max_gap_s)
    place = odometry.between(fixes.stamp_ns, max_gap_s)
    stretch = _stretches(odometry, max_gap_s)
    # A fix in the moment of a reset has no odometry.
    at_fixes[stretch[place.before] != stretch[place.after]] = np.nan
    here, there = _complex(at_fixes), _complex(fixes.planar_m)
    times_s, fix_times_s = ((track.stamp_ns - odometry.stamp_ns[0]) / 1e9 for track in (odometry, fixes))
    steps = np.diff(_complex(odometry.planar_m), prepend=_complex(odometry.planar_m[:1]))
    steps[np.diff(stretch, prepend=0) != 0] = 0
    way_m = np.interp(fix_times_s, times_s, np.cumsum(np.abs(steps)))
    turn = np.full(len(steps), np.nan)
    known = np.isfinite(here)
    for number in np.unique(stretch[place.before[known]]):
        rows = np.flatnonzero(known & (stretch[place.before] == number))
        turns = _turns_rad(here[rows], there[rows], way_m[rows], sigma_m)
        told = np.isfinite(turns)
        if told.any():
            part = stretch == number
            turn[part] = np.interp(times_s[part], fix_times_s[rows[told]], np.unwrap(turns[told]))
    reckoned = _reckoned(odometry, steps, turn, stretch)
    correction_m = fixes.planar_m - reckoned.at(fixes.stamp_ns, max_gap_s)[0]
    correction_m[~known, :2] = np.nan
    missed_m = np.abs(np.diff(_complex(correction_m)))
    agrees = (np.diff(stretch[place.before]) == 0) & (missed_m <= _MISSED_SHARE * np.diff(way_m) + _noise_m(sigma_m))
    _report(agrees, np.isfinite(missed_m), fixes.topic, odometry.topic)
    _check_facing(steps, odometry)
    return FusedTrack(fixes, reckoned, correction_m, np.append(agrees, False), max_bridge_s)


def _report(agrees: NDArray[np.bool_], compared: NDArray[np.bool_], fix_topic: str, odometry_topic: str) -> None:
    if not compared.any():
        _log.warning(
            "%s tells no way between the fixes on %s (it is missing, does not move, or moves otherwise): positions and "
            "headings come from the fixes alone.",
            *(odometry_topic, fix_topic),
        )
    elif disagreeing := int((compared & ~agrees).sum()):
        _log.warning(
            "%s contradicts the fixes on %s between %d of %d pairs of them: there straight lines join the fixes.",
            *(odometry_topic, fix_topic, disagreeing, len(compared)),
        )


def _check_facing(steps: Complexes, odometry: Track) -> None:
    """Tell where the odometry moves another way than it says that it faces: in optical frames z is ahead."""
    along = np.nansum(steps * np.exp(-1j * compass_to_yaw_rad(odometry.heading_deg)))
    if abs(along) > np.abs(steps).sum() / 2 and abs(np.angle(along)) > _AWRY_RAD:
        _log.warning(
            "%s moves %.0f degrees to the left of where its x axis points, and headings are of that axis: correct it "
            "with the yaw of --camera_extrinsics, or leave it out (--odometry_topic none).",
            *(odometry.topic, np.degrees(np.angle(along))),
        )


def _stretches(odometry: Track, max_gap_s: float) -> NDArray[np.int64]:
    """(M,) number of the unbroken stretch that each pose belongs to; a gap or a reset begins another."""
    seconds = np.diff(odometry.stamp_ns) / 1e9
    moved_m = np.abs(np.diff(_complex(odometry.planar_m)))
    breaks = (seconds > max_gap_s) | (moved_m > _FASTEST_M_S * seconds)
    return np.concatenate([[0], np.cumsum(breaks)])


def _turns_rad(here: Complexes, there: Complexes, way_m: Floats, sigma_m: float) -> Floats:
    """(n,) angle from the odometry's frame to ENU around each fix; NaN where the window does not tell it.

    Over a window of the way, the rotation with the least squared error turns ``here`` onto ``there``, both from their
    means: the angle of Σ there · conj(here), in sums that run along the way. What then still lacks must be little, or
    the two do not belong together.
    """
    between_m = (way_m[-1] - way_m[0]) / max(len(way_m) - 1, 1)
    reach_m = max(_WINDOW_M, _WINDOW_SIGMAS * sigma_m, _WINDOW_FIXES * between_m)
    begin = np.searchsorted(way_m, way_m - reach_m, side="left")
    end = np.searchsorted(way_m, way_m + reach_m, side="right")
    here, there = here - here.mean(), there - there.mean()

    def windowed(values: NDArray) -> NDArray:
        sums = np.concatenate([[0], np.cumsum(values)])
        return sums[end] - sums[begin]

    count, mean = end - begin, windowed(here) / (end - begin)
    together = windowed(there * here.conj()) - windowed(there) * mean.conj()
    spread = windowed(np.abs(here) ** 2) - count * np.abs(mean) ** 2
    missed = windowed(np.abs(there) ** 2) - np.abs(windowed(there)) ** 2 / count + spread - 2 * np.abs(together)
    told = spread >= max(_LEAST_SPREAD_M, _LEAST_SPREAD_SIGMAS * sigma_m) ** 2
    told &= missed <= _MISSED_SHARE**2 * spread + count * _noise_m(sigma_m) ** 2
    return np.where(told, np.angle(together), np.nan)


def _noise_m(sigma_m: float) -> float:
    """What the noise of fixes may explain."""
    return _MISSED_SIGMAS * max(sigma_m or _UNSTATED_SIGMA_M, _LEAST_SIGMA_M)


def _reckoned(odometry: Track, steps: Complexes, turn_rad: Floats, stretch: NDArray[np.int64]) -> Track:
    """The odometry turned by an angle that follows its drift: its steps are turned and summed up, in each stretch."""
    between = turn_rad - np.diff(turn_rad, prepend=turn_rad[:1]) / 2
    turned = np.where(np.isfinite(turn_rad) & (steps != 0), steps * np.exp(1j * np.nan_to_num(between)), 0)
    summed = np.where(np.isfinite(turn_rad), np.cumsum(turned), np.nan)
    planar = np.stack([summed.real, summed.imag, np.zeros(len(steps))], axis=1)
    heading = (odometry.heading_deg - np.degrees(turn_rad)) % 360
    return Track(odometry.stamp_ns, planar, heading, None, odometry.topic)


def _complex(planar_m: Floats) -> Complexes:
    """East + i north."""
    return planar_m[:, 0] + 1j * planar_m[:, 1]
