"""Whether probabilities mean what they say: reliability diagram and expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Frames sorted by their probability into bins of equal width.

    Attributes:
        predicted: (B,) mean probability in each bin, NaN in an empty one.
        right: (B,) share of frames that are right, NaN in an empty one.
        counts: (B,) int64 frames.
    """

    predicted: NDArray[np.float64]
    right: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean distance of ``predicted`` and ``right``, weighted by frames.

        Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".
        """
        filled = self.counts > 0
        gaps = np.abs(self.predicted[filled] - self.right[filled])
        return float(gaps @ self.counts[filled] / self.counts.sum())

    def content(self) -> list[dict[str, float | int]]:
        """Plain values of the bins that hold frames."""
        return [
            {"predicted": round(float(p), 4), "right": round(float(r), 4), "count": int(n)}
            for p, r, n in zip(self.predicted, self.right, self.counts, strict=True)
            if n
        ]


def reliability(probability: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Compare probabilities with what came true.

    Args:
        probability: (F,) in [0, 1], at least one.
        right: (F,) whether the frame was right.
        bins: Number of bins over [0, 1].
    """
    places = np.minimum((probability * bins).astype(np.int64), bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(places, weights=probability, minlength=bins) / counts
        share = np.bincount(places, weights=right.astype(np.float64), minlength=bins) / counts
    return Reliability(predicted, share, counts)
