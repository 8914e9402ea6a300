"""What a threshold costs: the share of frames that it accepts and the share of those that are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LISTED = 60


@dataclass(frozen=True)
class RiskCoverage:
    """One point for each threshold that makes a difference, from the strictest to accepting everything.

    Attributes:
        threshold: (T,) falling.
        coverage: (T,) share of frames whose probability reaches the threshold, rising to 1.
        risk: (T,) share of those that are wrong.
    """

    threshold: NDArray[np.float64]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area under the curve (Geifman and El-Yaniv 2017): mean risk over all coverages; 0 is perfect."""
        return float(self.risk @ np.diff(self.coverage, prepend=0.0))

    def content(self) -> list[dict[str, float]]:
        """Plain values of at most about sixty points, evenly spread."""
        chosen = np.unique(np.linspace(0, len(self.threshold) - 1, _LISTED).round().astype(int))
        return [
            {
                "threshold": round(float(self.threshold[i]), 4),
                "coverage": round(float(self.coverage[i]), 4),
                "risk": round(float(self.risk[i]), 4),
            }
            for i in chosen
        ]


def risk_coverage(probability: NDArray[np.float64], right: NDArray[np.bool_]) -> RiskCoverage:
    """The curve of all thresholds.

    Args:
        probability: (F,) in [0, 1], at least one.
        right: (F,) whether the frame was right.
    """
    order = np.argsort(-probability, kind="stable")
    ordered, wrong = probability[order], np.cumsum(~right[order])
    # Frames of one probability are accepted together.
    last = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True))
    accepted = last + 1
    return RiskCoverage(ordered[last], accepted / len(ordered), wrong[last] / accepted)
