"""The temporal filter: a belief over places and metres that odometry moves and images correct (docs/filter.md)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geomap import GeoMap
from vgssl_core.localization.calibration import Calibration
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.filter_coverage import Coverage
from vgssl_core.localization.filter_mixture import UNKNOWN_Z_VARIANCE, YAW, Mixture, X, Y, Z
from vgssl_core.localization.filter_predict import predicted, travelled_m
from vgssl_core.localization.filter_update import Sighting, updated
from vgssl_core.localization.hypotheses import UNKNOWN_YAW_VARIANCE, Hypothesis
from vgssl_core.localization.localizer import Localization
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.states import State, StateMachine

#: A coordinate with more than this share of the variance of no knowledge is not told.
_UNTOLD = 0.5
#: Which of the states a hypothesis tells, in its order.
_TOLD = np.array([X, Y, Z, YAW])
#: Odometry may jump by this much at any rate: two stamps can be almost the same.
_SLACK_M = 5.0
#: An image is recognised from about this share of the radius, at least that of one square of the coverage.
_RECOGNISED = 0.25
#: Half of the ground's width that an image of a street stands for.
_LANE_M = 6.0
Floats = NDArray[np.float64]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """What the filter believes after an update.

    Attributes:
        stamp_ns: Of the update.
        state: Whether the robot knows where it is.
        hypotheses: Places by falling probability, all with position, covariance and P(within the radius of the
            truth); empty as long as nothing was ever seen. ``support`` counts the last image's matches there.
        accepted: The best one, in `State.LOCALIZED` and while its probability reaches the threshold, once an image
            vouched for it that would be accepted by itself.
    """

    stamp_ns: int
    state: State
    hypotheses: tuple[Hypothesis, ...]
    accepted: Hypothesis | None


class Belief:
    """The filter's mathematics, without states and messages: a mixture over the plane of a map.

    Attributes:
        mixture: The belief.
        config: The settings.
    """

    def __init__(self, coverage: Coverage, area_m2: float, config: FilterConfig) -> None:
        """Begin lost.

        Args:
            coverage: Where the map has images.
            area_m2: Ground that they cover.
            config: The settings.
        """
        self.config, self._coverage, self._area_m2 = config, coverage, area_m2
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.mixture = Mixture.lost()
        self._new = math.inf

    def move(self, dt_s: float, motion: Motion | None) -> float:
        """Let time pass; returns how far the robot went in metres, as far as is known."""
        config = self.config
        way_m = travelled_m(self.mixture, dt_s, motion, config)
        self._new += way_m / config.independent_m + dt_s / config.standing_s
        self.mixture = predicted(self.mixture, dt_s, motion, config)
        return way_m

    def look(self, sighting: Sighting) -> None:
        """Take an image's hypotheses into account; nothing happens where it tells nothing new."""
        newness = -math.expm1(-self._new)
        if newness <= 1e-9:
            return
        mixture, self._new = self.mixture, 0.0
        vague = mixture.covariance[:, YAW, YAW] > _UNTOLD * UNKNOWN_YAW_VARIANCE
        covered = self._coverage.holds(mixture.mean[:, :2], mixture.mean[:, YAW], vague)
        self.mixture = updated(mixture, sighting, covered, newness, self._area_m2, self.config)

    def tidy(self) -> None:
        """Merge and prune."""
        self.mixture = self.mixture.reduced(self.config.max_components, self.config.max_sigma_m)


class TemporalFilter:
    """Localizations and motions in, estimates out; deterministic, and as fast in a large map as in a small one.

    Positions are those of the localizer's hypotheses: the camera's, in the map's frame.

    Attributes:
        config: The settings.
        threshold: Probability from which a hypothesis can be accepted.
        radius_m: Within it of the truth a position counts as right.
    """

    def __init__(self, geomap: GeoMap, calibration: Calibration, config: FilterConfig | None = None) -> None:
        """Begin lost in a map.

        Args:
            geomap: The map; its poses are read once.
            calibration: Whose probabilities the localizations have.
            config: The settings; None takes the defaults.
        """
        self.config = config or FilterConfig()
        self.threshold = calibration.threshold if self.config.threshold is None else self.config.threshold
        self.radius_m = calibration.radius_m
        self._geomap = geomap
        coverage = Coverage.of_poses(geomap.positions_m, geomap.yaw_rad, len(geomap), _RECOGNISED * self.radius_m)
        area_m2 = len(geomap) * max(geomap.spacing_m, 1.0) * (geomap.spacing_m + _LANE_M)
        self._belief = Belief(coverage, area_m2, self.config)
        #: Without odometry a robot may be anywhere within the radius after this time.
        self._sightless_s = self.radius_m / (math.sqrt(2.0) * self.config.speed_mps)
        self._states = StateMachine(
            self.threshold, self.config.leave_threshold, self.config.candidate_threshold, self.config.confirmations
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything: another bag, another place, another robot."""
        self._belief.reset()
        self._states.reset()
        self._stamp_ns: int | None = None
        self._best: Hypothesis | None = None
        self._vouched = False
        self._blind_s = 0.0

    def update(self, stamp_ns: int, localization: Localization | None, motion: Motion | None = None) -> Estimate:
        """The belief at a time.

        A stamp that lies before the last one by more than the settings' ``jump_back_s`` resets the filter; by less, it
        counts as the last one. Motion that is not finite or faster than anything drives is passed over.

        Args:
            stamp_ns: Of the image, or of now where there is none.
            localization: What the image said; None where there is none or it could not be used.
            motion: Since the last update; None where no odometry tells.
        """
        dt_s, anew = self._elapsed_s(stamp_ns)
        motion = None if anew else self._believable(motion, dt_s)
        way_m = self._belief.move(dt_s, motion)
        seen = () if localization is None else localization.hypotheses
        sighting = Sighting.of(seen, self.config.reversed_share, self.radius_m)
        if sighting is not None:
            self._belief.look(sighting)
        self._belief.tidy()
        hypotheses = self._hypotheses(seen)
        best = next(iter(hypotheses), None)
        continues = self._continues(best, way_m)
        state = self._states.update(0.0 if best is None else best.probability, continues)
        sure = [item for item in seen if item.probability >= self.threshold]
        self._blind_s = 0.0 if sure else self._blind_s + dt_s * (motion is None)
        lasts = continues and state is not State.LOST and self._blind_s <= self._sightless_s
        self._vouched = self._is_vouched_for(sure, best, lasts)
        self._best = best
        if sure and not self._vouched and state is not State.LOCALIZED:
            return Estimate(stamp_ns, state, self._told_first(sure[0], hypotheses), None)
        accept = best is not None and self._vouched and state is State.LOCALIZED and best.probability >= self.threshold
        return Estimate(stamp_ns, state, hypotheses, best if accept else None)

    def _elapsed_s(self, stamp_ns: int) -> tuple[float, bool]:
        """Time since the last update, and whether there is none to go on from; resets where the clock went back."""
        elapsed = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) * 1e-9
        if elapsed < -self.config.jump_back_s:
            _log.warning("The clock went back by %.1f s: the filter begins anew.", -elapsed)
            self.reset()
        anew = self._stamp_ns is None
        self._stamp_ns = stamp_ns if anew else max(stamp_ns, self._stamp_ns)
        return (0.0 if anew else max(elapsed, 0.0)), anew

    def _believable(self, motion: Motion | None, dt_s: float) -> Motion | None:
        if motion is None:
            return None
        if motion.is_finite and motion.distance_m <= self.config.max_speed_mps * dt_s + _SLACK_M:
            return motion
        way = f"{motion.distance_m:.1f} m" if motion.is_finite else "no finite number"
        _log.warning("Odometry that tells of %s in %.3f s is passed over: nothing moves like that.", way, dt_s)
        return None

    def _continues(self, best: Hypothesis | None, way_m: float) -> bool:
        """Whether the best hypothesis lies where the last one can have come to."""
        if best is None or self._best is None:
            return False
        moved = float(np.linalg.norm((best.position_m - self._best.position_m)[:2]))
        return moved <= self.radius_m + way_m

    def _is_vouched_for(self, sure: Sequence[Hypothesis], best: Hypothesis | None, lasts: bool) -> bool:
        """Whether an image by itself would be accepted where the best hypothesis is, or was lately.

        Doubtful images of a place that the map does not know may agree with each other for long: the same wrong
        matches again and again. They make a candidate, and no fix. An image that would be accepted somewhere else
        takes back what others vouched for; so does the time in which a robot without odometry may have left the place.

        Args:
            sure: What the last image would have accepted by itself.
            best: The best hypothesis.
            lasts: Whether what was vouched for before still is.
        """
        return any(self._is_near(item, best) for item in sure) if sure else self._vouched and lasts

    def _is_near(self, one: Hypothesis, other: Hypothesis | None) -> bool:
        return other is not None and math.dist(one.position_m[:2], other.position_m[:2]) <= self.radius_m

    def _told_first(self, sure: Hypothesis, believed: Sequence[Hypothesis]) -> tuple[Hypothesis, ...]:
        """What an image would be accepted for by itself, before a belief that no such image vouches for."""
        doubt = 1.0 - sure.probability
        others = [item for item in believed if not self._is_near(item, sure)]
        told = [
            replace(sure, score=sure.probability),
            *(replace(item, score=item.score * doubt, probability=item.probability * doubt) for item in others),
        ]
        told.sort(key=lambda item: -item.probability)
        return tuple(replace(item, rank=rank) for rank, item in enumerate(told[: self.config.max_hypotheses]))

    def _hypotheses(self, seen: tuple[Hypothesis, ...]) -> tuple[Hypothesis, ...]:
        mixture = self._belief.mixture
        # Members of a group lie within half the radius of its seed, so that one position stands for them all.
        groups = mixture.groups(0.5 * self.radius_m, self.config.max_hypotheses)
        if not groups:
            return ()
        log_shares, means, covariances = (np.stack(part) for part in zip(*map(mixture.moments, groups), strict=True))
        probability = mixture.within(means[:, :2], self.radius_m)
        positions, yaws, told = _told(means, covariances)
        latitude, longitude, altitude = self._geomap.to_wgs84(positions)
        sigma_m = np.sqrt(np.linalg.eigvalsh(told[:, :2, :2])[:, -1])
        support = _support(means[:, :2], seen, self.radius_m)
        return tuple(
            Hypothesis(
                rank=rank,
                position_m=positions[at],
                yaw_rad=float(yaws[at]),
                covariance=told[at],
                score=math.exp(min(float(log_shares[at]), 0.0)),
                probability=float(probability[at]),
                support=int(support[at]),
                latitude_deg=float(latitude[at]),
                longitude_deg=float(longitude[at]),
                altitude_m=float(altitude[at]),
                sigma_m=float(sigma_m[at]),
            )
            for rank, at in enumerate(np.argsort(-probability, kind="stable").tolist())
        )


def _told(means: Floats, covariances: Floats) -> tuple[Floats, Floats, Floats]:
    """Positions (n, 3), yaws (n,) and their (n, 4, 4) covariances of n states; NaN for what is as good as unknown."""
    positions = means[:, _TOLD[:3]]
    positions[covariances[:, Z, Z] >= _UNTOLD * UNKNOWN_Z_VARIANCE, 2] = np.nan
    yaws = np.where(covariances[:, YAW, YAW] < _UNTOLD * UNKNOWN_YAW_VARIANCE, means[:, YAW], np.nan)
    return positions, yaws, covariances[:, _TOLD[:, None], _TOLD]


def _support(places_m: Floats, seen: tuple[Hypothesis, ...], radius_m: float) -> NDArray[np.int64]:
    """(n,) matches of the last image within the radius of each of (n, 2) places."""
    if not seen:
        return np.zeros(len(places_m), np.int64)
    offsets = np.stack([item.position_m[:2] for item in seen]) - places_m[:, None]
    near = (offsets**2).sum(axis=2) <= radius_m**2
    return near @ np.array([item.support for item in seen])
