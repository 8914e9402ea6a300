"""Where a vehicle was over time: positions of one topic, interpolated.

Positions on Earth are interpolated in a local ENU frame. Headings come from the orientation of the odometry where
positions come from odometry, and from the direction of travel where they come from fixes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags.records import Fix, OdometryPose
from vgssl_core.geodesy import LocalFrame, yaw_to_compass_deg

Floats = NDArray[np.float64]

#: Shortest path over which a direction of travel is taken from fixes; more where their noise asks for it.
_HEADING_BASELINE_M = 3.0
_HEADING_BASELINE_SIGMAS = 3.0
_LONGEST_HEADING_BASELINE_M = 15.0


@dataclass(frozen=True)
class Track:
    """N positions over time, sorted, each stamp once.

    Attributes:
        stamp_ns: (N,) int64.
        planar_m: (N, 3) metres; z is NaN where unknown.
        heading_deg: (N,) compass heading, NaN where unknown.
        frame: The ENU frame of ``planar_m``; None for odometry.
        topic: Where it comes from.
    """

    stamp_ns: NDArray[np.int64]
    planar_m: Floats
    heading_deg: Floats
    frame: LocalFrame | None
    topic: str

    def between(self, stamps_ns: NDArray[np.int64], max_gap_s: float) -> Between:
        """Which positions enclose other times, and how near."""
        after = np.searchsorted(self.stamp_ns, stamps_ns, side="left").clip(max=len(self.stamp_ns) - 1)
        exact = self.stamp_ns[after] == stamps_ns
        before = np.where(exact, after, (after - 1).clip(min=0))
        span = self.stamp_ns[after] - self.stamp_ns[before]
        inside = exact | ((stamps_ns > self.stamp_ns[before]) & (stamps_ns < self.stamp_ns[after]))
        inside &= span <= max_gap_s * 1e9
        weight = np.where(exact, 0.0, (stamps_ns - self.stamp_ns[before]) / np.maximum(span, 1))
        return Between(before, after, weight, inside)

    def at(self, stamps_ns: NDArray[np.int64], max_gap_s: float) -> tuple[Floats, Floats]:
        """Positions (M, 3) and headings (M,) at other times; all NaN outside the track and in gaps."""
        place = self.between(stamps_ns, max_gap_s)
        planar = _blend(self.planar_m[place.before], self.planar_m[place.after], place.weight[:, None])
        heading = _blend_headings(self.heading_deg[place.before], self.heading_deg[place.after], place.weight)
        planar[~place.inside], heading[~place.inside] = np.nan, np.nan
        return planar, heading


@dataclass(frozen=True)
class Between:
    """Where M times lie among the positions of a track.

    Attributes:
        before, after: (M,) indices of the enclosing positions; equal for the time of a position.
        weight: (M,) in [0, 1), how far each is on the way.
        inside: (M,) whether they are enclosed at all, and not in a gap.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    weight: Floats
    inside: NDArray[np.bool_]


def track_of_odometry(poses: Sequence[OdometryPose], topic: str) -> Track:
    """Positions and headings in the odometry's own frame."""
    return Track(
        np.array([pose.stamp_ns for pose in poses], np.int64),
        np.array([pose.position_m for pose in poses]),
        yaw_to_compass_deg([pose.yaw_rad for pose in poses]),
        None,
        topic,
    )


def track_of_fixes(fixes: Sequence[Fix], max_gap_s: float, topic: str) -> Track:
    """Positions in the ENU frame of the first fix, with the headings of travel."""
    altitudes = np.array([fix.altitude_m for fix in fixes])
    known = altitudes[np.isfinite(altitudes)]
    frame = LocalFrame(fixes[0].latitude_deg, fixes[0].longitude_deg, float(known[0]) if len(known) else 0.0)
    planar = frame.to_enu([fix.latitude_deg for fix in fixes], [fix.longitude_deg for fix in fixes], altitudes)
    stamps_ns = np.array([fix.stamp_ns for fix in fixes], np.int64)
    noise = typical_sigma_m(fixes)
    baseline = min(max(_HEADING_BASELINE_M, _HEADING_BASELINE_SIGMAS * noise), _LONGEST_HEADING_BASELINE_M)
    return Track(stamps_ns, planar, _headings_of_travel(stamps_ns, planar[:, :2], baseline, max_gap_s), frame, topic)


def typical_sigma_m(fixes: Sequence[Fix]) -> float:
    """Median of the horizontal standard deviations that fixes state; 0 where none does."""
    sigmas = np.array([fix.sigma_m for fix in fixes])
    return float(np.median(sigmas[np.isfinite(sigmas)])) if np.isfinite(sigmas).any() else 0.0


def _headings_of_travel(stamps_ns: NDArray[np.int64], planar_m: Floats, baseline_m: float, max_gap_s: float) -> Floats:
    """Compass heading of the motion at every position; NaN where the vehicle does not get ``baseline_m`` far."""
    headings = np.full(len(stamps_ns), np.nan)
    cuts = np.flatnonzero(np.diff(stamps_ns) > max_gap_s * 1e9) + 1
    for part in np.split(np.arange(len(stamps_ns)), cuts):
        knots = part[thinned(planar_m[part], baseline_m)]
        if len(knots) < 2:
            continue
        chords = np.diff(planar_m[knots], axis=0)
        directions = chords / np.linalg.norm(chords, axis=1, keepdims=True)
        middles = (stamps_ns[knots][:-1] - stamps_ns[0]) / 2 + (stamps_ns[knots][1:] - stamps_ns[0]) / 2
        times = (stamps_ns[part] - stamps_ns[0]).astype(float)
        east, north = (np.interp(times, middles, directions[:, axis]) for axis in (0, 1))
        # Halfway through a turning back the two directions cancel: the heading is not known there.
        known = np.hypot(east, north) > 0.3
        headings[part[known]] = np.degrees(np.arctan2(east, north))[known] % 360
    return headings


def thinned(planar_m: Floats, spacing_m: float) -> NDArray[np.int64]:
    """Indices of points of which each lies at least ``spacing_m`` from the one before."""
    if spacing_m <= 0:
        return np.arange(len(planar_m))
    kept = [0]
    for index in range(1, len(planar_m)):
        if np.hypot(*(planar_m[index] - planar_m[kept[-1]])) >= spacing_m:
            kept.append(index)
    return np.array(kept, np.int64)


def _blend(before: Floats, after: Floats, weight: Floats) -> Floats:
    return np.where(weight == 0, before, before + weight * (after - before))


def _blend_headings(before: Floats, after: Floats, weight: Floats) -> Floats:
    turn = (after - before + 180) % 360 - 180
    return _blend(before, before + turn, weight) % 360
