"""Fitting a calibration: regularised logistic regression, its threshold, and the scales of the covariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from vgssl_core.errors import DataError
from vgssl_core.localization.calibration import SETTINGS, Calibration, ReliabilityBin
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.examples import Examples
from vgssl_core.localization.features import FEATURES
from vgssl_core.localization.reliability import BINS, reliability

#: Fewer right, or fewer wrong or unknown, examples tell nothing.
LEAST_EXAMPLES = 20
#: Parts of the queries, each judged by a fit of the others.
FOLDS = 5
#: Nothing less probable is acted on, however well it did on few examples.
_LOWEST_THRESHOLD = 0.9
#: Wrong ones among the accepted that their probabilities may promise, in shares of those that may be wrong.
_MOST_PROMISED = 2.0
Floats = NDArray[np.float64]


def fit_calibration(
    examples: Examples,
    model_id: str,
    precision: str,
    radius_m: float,
    config: LocalizerConfig | None = None,
    source: str = "",
    unknown_weight: float = 0.3,
    target_wrong: float = 0.01,
    target_unknown: float = 0.01,
) -> Calibration:
    """Fit a calibration to examples of one model and precision.

    Args:
        examples: Queries with truth (`gather_examples`), those that follow each other in time side by side.
        model_id: Of the network that made the descriptors.
        precision: That it was computed in.
        radius_m: Within it a position counts as right.
        config: Settings of the localizer, those of the examples.
        source: What the examples come from, for people.
        unknown_weight: Weight of an example of an unknown place, against 1 of one in the map: with 0.3 a robot is taken
            to be where its map does not reach for about a quarter of its frames.
        target_wrong: Share of the accepted positions in the map that may be wrong; sets the threshold.
        target_unknown: Share of the examples of unknown places that may be accepted; sets it too.

    Raises:
        DataError: Too few examples that are right, or too few that are not.
    """
    config = config or LocalizerConfig()
    right, count = int(examples.is_right.sum()), len(examples)
    if min(right, count - right) < LEAST_EXAMPLES:
        raise DataError(
            f"{right} of {count} examples are right: a calibration needs at least {LEAST_EXAMPLES} that are and "
            f"{LEAST_EXAMPLES} that are not. Give more queries, or queries that the map covers."
        )
    whole = _fit(examples, unknown_weight)
    unseen = out_of_fold(examples, lambda others: _fit(others, unknown_weight))
    known, fixed = examples.is_known, examples.is_right
    heading = examples.heading_misfit[fixed & np.isfinite(examples.heading_misfit)]
    return replace(
        whole,
        model_id=model_id,
        precision=precision,
        radius_m=radius_m,
        threshold=_threshold(unseen, examples, target_wrong, target_unknown),
        settings={name: getattr(config, name) for name in SETTINGS},
        position_scale=_scale(examples.position_misfit[fixed] / 2.0),
        heading_scale=_scale(heading),
        frames=int(known.sum()),
        unknown_frames=int((~known).sum()),
        reliability=reliability_of(unseen[known], examples.is_right[known]),
        source=source,
    )


def reliability_of(probabilities: Floats, right: NDArray[np.bool_], bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Reliability curve over bins of equal width of [0, 1]; empty ones are left out."""
    curve = reliability(probabilities, right, bins)
    columns = (curve.predicted.tolist(), curve.right.tolist(), curve.counts.tolist())
    return tuple(ReliabilityBin(*values) for values in zip(*columns, strict=True) if values[2])


def _fit(examples: Examples, unknown_weight: float) -> Calibration:
    """The logistic model alone: convex, so that there is one answer."""
    features, right = examples.features, examples.is_right
    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    standard = (features - centre) / scale
    weights = np.where(examples.is_known, 1.0, unknown_weight)
    # Targets short of 0 and 1 (Platt, "Probabilistic outputs for support vector machines", 1999).
    hits, misses = weights[right].sum(), weights[~right].sum()
    targets = np.where(right, (hits + 1.0) / (hits + 2.0), 1.0 / (misses + 2.0))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logit = parameters[0] + standard @ parameters[1:]
        value = weights @ (np.logaddexp(0.0, logit) - targets * logit) + 0.5 * parameters[1:] @ parameters[1:]
        slope = weights * (expit(logit) - targets)
        return value, np.append(slope.sum(), standard.T @ slope + parameters[1:])

    count = len(FEATURES)
    bounds = [(None, None)] + [(0.0, None)] * count
    # Not L-BFGS-B: for six parameters its BLAS threads wait for each other, 30 times longer than the work takes.
    options = {"maxfun": 10_000}
    found = minimize(loss, np.zeros(count + 1), jac=True, method="TNC", bounds=bounds, options=options).x
    coefficients = found[1:] / scale
    return replace(
        Calibration.unscaled(0.0),
        intercept=float(found[0] - coefficients @ centre),
        coefficients=tuple(coefficients.tolist()),
    )


def out_of_fold(examples: Examples, fit: Callable[[Examples], Calibration]) -> Floats:
    """(n,) probability of each example from a fit without it and its neighbours: folds are runs of queries.

    Raises:
        DataError: What ``fit`` raises, with the part of the queries that it had to do without.
    """
    fold = examples.query * FOLDS // (int(examples.query.max()) + 1)
    unseen = np.zeros(len(examples))
    for number in range(FOLDS):
        mine = fold == number
        try:
            unseen[mine] = fit(examples.subset(~mine)).probabilities(examples.features[mine])
        except DataError as problem:
            part = f"part {number + 1} of {FOLDS} of the queries, which judges the rest"
            raise DataError(f"Without {part}: {problem}") from problem
    return unseen


def _threshold(probabilities: Floats, examples: Examples, target_wrong: float, target_unknown: float) -> float:
    """The lowest threshold at which few enough accepted positions are wrong, in the map and outside it.

    Of the accepted ones in the map the estimate is Jeffreys' (wrong + ½) / (count + 1), so that few are no proof. What
    their probabilities promise may be at most twice as bad: on streets and in weather that the queries did not show it
    is the better estimate. Where that proves nothing the probability itself must promise it.
    """
    known, wrong = examples.is_known, ~examples.is_right
    for threshold in np.arange(_LOWEST_THRESHOLD, 1.0 - target_wrong, 0.005):
        accepted = probabilities >= threshold
        inside = accepted & known
        rate = ((inside & wrong).sum() + 0.5) / (inside.sum() + 1.0)
        if (
            rate <= target_wrong
            and 1.0 - probabilities[inside].mean() <= _MOST_PROMISED * target_wrong
            and accepted[~known].sum() <= target_unknown * (~known).sum()
        ):
            return float(round(threshold, 3))
    return 1.0 - target_wrong


def _scale(misfit: Floats) -> float:
    return float(np.clip(misfit.mean(), 0.01, 100.0)) if len(misfit) else 1.0
