"""Settings of the temporal filter."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from vgssl_core.errors import ConfigError

_SHARES = ("leave_threshold", "candidate_threshold", "mapped_share", "detection_share", "reversed_share")


@dataclass(frozen=True)
class FilterConfig:
    """How the filter believes; docs/filter.md holds the equations with the same names.

    Attributes:
        threshold: Probability from which a hypothesis can be accepted; None takes the calibration's.
        leave_threshold: `State.LOCALIZED` is left below this probability, or below the threshold where that is lower.
        candidate_threshold: `State.CANDIDATE` begins at this probability and ends below half of it.
        confirmations: Updates in a row that must reach the threshold at one place before `State.LOCALIZED`.
        max_hypotheses: At most this many are given.
        max_components: Gaussians that are kept; time and memory of an update grow with it, never with the map.
        mapped_share: Share of its time that a robot spends where the map has images.
        detection_share: Share of frames, taken where the map has images of that heading, whose matches hold the place.
        reversed_share: Share of right matches that look the other way along the street.
        kidnap_rate_hz: How often a robot is carried away unseen, per second.
        independent_m: Images nearer to the last one than this tell little new.
        standing_s: The same in time, for a robot that stands: its surroundings change a little.
        speed_mps: Standard deviation of each component of the velocity, where no odometry tells it.
        speed_memory_s: After this time without odometry, 63 % of the velocity is forgotten.
        turn_deg: Standard deviation of the heading after one second without odometry; grows with the root of time.
        odometry_share: Least standard deviation of odometry's distance after one metre, as a share of it.
        odometry_turn_deg: Least standard deviation of its heading after one metre; both grow with the root.
        max_speed_mps: Odometry that tells of more is not believed: its frame was reset.
        max_sigma_m: A place known less well than this is not known.
        jump_back_s: A clock that goes back by more than this starts anew; by less, images came out of order.
    """

    threshold: float | None = None
    leave_threshold: float = 0.5
    candidate_threshold: float = 0.3
    confirmations: int = 3
    max_hypotheses: int = 5
    max_components: int = 48
    mapped_share: float = 0.8
    detection_share: float = 0.4
    reversed_share: float = 0.1
    kidnap_rate_hz: float = 1e-3
    independent_m: float = 40.0
    standing_s: float = 300.0
    speed_mps: float = 6.0
    speed_memory_s: float = 150.0
    turn_deg: float = 20.0
    odometry_share: float = 0.05
    odometry_turn_deg: float = 0.5
    max_speed_mps: float = 70.0
    max_sigma_m: float = 200.0
    jump_back_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value that is not positive or not finite, a share of 1 or more, no whole number of
                confirmations, hypotheses or components.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and item.name == "threshold":
                continue
            if value is None or not (math.isfinite(value) and value > 0):
                raise ConfigError(f"The filter's {item.name} is {value}: it must be positive.")
            if item.name == "threshold" and value > 1:
                raise ConfigError(f"The filter's threshold is {value}: it is a probability, at most 1.")
            if item.name in _SHARES and value >= 1:
                raise ConfigError(f"The filter's {item.name} is {value}: it must lie between 0 and 1.")
            if item.type == "int" and value != int(value):
                raise ConfigError(f"The filter's {item.name} is {value}: it must be a whole number.")
