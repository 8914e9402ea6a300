"""Settings of the localizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from vgssl_core.errors import ConfigError


@dataclass(frozen=True)
class LocalizerConfig:
    """How matches become hypotheses.

    Attributes:
        k: Map images that are compared with each query.
        cluster_radius_m: Matches within this distance of a cluster's seed belong to it. Half of the 25 m within
            which a position counts as right, so that all members of a cluster lie within 25 m of each other.
        max_hypotheses: At most this many are given.
        temperature: Weight of a match = exp((cosine − best) / (temperature · (best − worst))) over its match list. It
            is relative to the list's own spread, because networks differ in how far apart they hold their
            descriptors. The default did well with hand-made, hardly trained and trained ones.
        position_floor_m: Standard deviation that no position goes below; added to the map's spacing.
        heading_floor_deg: Standard deviation that no heading goes below.
        unknown_altitude_m: Standard deviation stated where the altitude is not known.
        threshold: A hypothesis of at least this probability is accepted; None takes the calibration's threshold.
        radius_m: Within it a position counts as right; None takes the calibration's, and another one is refused.
    """

    k: int = 20
    cluster_radius_m: float = 12.5
    max_hypotheses: int = 5
    temperature: float = 0.2
    position_floor_m: float = 1.0
    heading_floor_deg: float = 5.0
    unknown_altitude_m: float = 100.0
    threshold: float | None = None
    radius_m: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: A value that is not positive or not finite, or a threshold above 1.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"The localizer's {item.name} is {value}: it must be positive.")
        if self.threshold is not None and self.threshold > 1:
            raise ConfigError(f"The localizer's threshold is {self.threshold}: it is a probability, at most 1.")
