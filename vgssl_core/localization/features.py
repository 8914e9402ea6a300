"""What a list of matches says about whether a hypothesis is right: few numbers, the larger the more trustworthy.

All but the first compare the list with itself, so that they mean the same for every network.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Names of the features, in the order of `match_features`:
#:
#: - ``similarity``: cosine of the hypothesis' best match and the query.
#: - ``distinctness``: 1 − d / d', the distance of the hypothesis' best match over that of the best match of any other
#:   place (the ratio test of Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004).
#: - ``share``: share of the matches' weight within the radius of the hypothesis.
#: - ``agreement``: share of the nearest `FIRST` matches within the radius of the hypothesis.
#: - ``concentration``: radius / (radius + σ), σ the weighted spread of all matches around the hypothesis (the
#:   spatial uncertainty of Zaffar, Nan and Kooij, "On the estimation of image-matching uncertainty in visual place
#:   recognition", CVPR 2024).
FEATURES = ("similarity", "distinctness", "share", "agreement", "concentration")
#: Matches that are asked for ``agreement``.
FIRST = 5
Floats = NDArray[np.float64]


def match_features(
    distances: NDArray[np.floating], weights: Floats, planar_m: Floats, centre_m: Floats, radius_m: float
) -> Floats:
    """(F,) `FEATURES` of one hypothesis.

    Args:
        distances: (k,) L2 distances of unit descriptors, nearest first.
        weights: (k,) positive, see `match_weights`.
        planar_m: (k, 2) positions of the matches.
        centre_m: (2,) position of the hypothesis.
        radius_m: Within it a position counts as right.

    Returns:
        Finite numbers in [−1, 1].
    """
    distances = np.asarray(distances, np.float64)
    squares = ((planar_m - centre_m) ** 2).sum(axis=1)
    near = squares <= radius_m**2
    # A weighted mean lies between its matches, and may have none of them within a radius that is smaller than theirs.
    near |= squares == squares.min()
    best = float(distances[near].min())
    # Where all matches lie in one place, the last one bounds how near another place can be.
    rival = float(distances[-1] if near.all() else distances[~near].min())
    share = weights / weights.sum()
    return np.array(
        [
            1.0 - 0.5 * best**2,
            max(1.0 - best / max(rival, 1e-9), -1.0),
            share @ near,
            np.count_nonzero(near[:FIRST]) / len(near[:FIRST]),
            radius_m / (radius_m + math.sqrt(share @ squares)),
        ]
    )
