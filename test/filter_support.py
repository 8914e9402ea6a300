"""A street, what a camera on it could say, and drives along it, for tests of the temporal filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vgssl_core.localization import DEFAULT, Hypothesis, Localization
from vgssl_core.localization.filter import Estimate, TemporalFilter
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.motion import Motion

CALIBRATION = replace(DEFAULT, threshold=0.9)
Floats = NDArray[np.float64]


class Street:
    """A map as far as the filter asks it: images every 2 m along given lines, all looking along x."""

    spacing_m = 2.0

    def __init__(self, length_m: float = 2000.0, rows_m: Sequence[float] = (0.0,), heading: bool = True) -> None:
        along = np.arange(0.0, length_m, self.spacing_m)
        self.positions_m = np.array([(x, y, np.nan) for y in rows_m for x in along])
        self.yaw_rad = np.full(len(self.positions_m), 0.0 if heading else np.nan)

    def __len__(self) -> int:
        return len(self.positions_m)

    def to_wgs84(self, positions_m: Floats) -> tuple[Floats, Floats, Floats]:
        unknown = np.full(np.shape(positions_m)[:-1], np.nan)
        return unknown, unknown, unknown


def hypothesis(
    x_m: float, y_m: float, probability: float = 0.5, yaw_rad: float = 0.0, sigma_m: float = 3.0, z_m: float = np.nan
) -> Hypothesis:
    """What a localizer could say."""
    yaw_variance = 0.05 if np.isfinite(yaw_rad) else np.pi**2 / 3
    covariance = np.diag([sigma_m**2, sigma_m**2, 1e4 if np.isnan(z_m) else 4.0, yaw_variance])
    nothing = (np.nan, np.nan, np.nan)
    position = np.array([x_m, y_m, z_m])
    return Hypothesis(0, position, yaw_rad, covariance, probability, probability, 4, *nothing, sigma_m)


def seen(*hypotheses: Hypothesis) -> Localization:
    """A localizer's answer."""
    return Localization(np.zeros(0, np.int64), np.zeros(0, np.float32), hypotheses, {})


def drive(
    followed: TemporalFilter,
    truth_m: Floats,
    motions: Sequence[Motion | None],
    share_right: float = 0.5,
    seed: int = 0,
    begin_ns: int = 0,
    probability: float = 0.5,
    heading: bool = True,
    sure_every: int = 0,
) -> list[Estimate]:
    """Ten frames a second along (F, 2) positions; a share of them is recognised, the others show some other place.

    With ``sure_every`` one in so many is recognised so well that it would be accepted by itself.
    """
    rng, estimates = np.random.default_rng(seed), []
    for number, (x_m, y_m) in enumerate(truth_m):
        right = rng.random() < share_right
        best = rng.normal((x_m, y_m), 2) if right else (rng.uniform(0, 2000), 0.0)
        others = [(x, 0.0) for x in rng.uniform(0, 2000, 3)]
        yaw = 0.0 if heading else np.nan
        sure = right and sure_every > 0 and number % sure_every == 0
        places = [
            hypothesis(*best, 0.95 if sure else probability, yaw),
            *(hypothesis(*other, 0.05, yaw) for other in others),
        ]
        estimates.append(followed.update(begin_ns + number * 10**8, seen(*places), motions[number]))
    return estimates


def along(begin_m: float, frames: int, step_m: float = 2.0) -> Floats:
    """(F, 2) positions along the street."""
    return np.stack([begin_m + step_m * np.arange(frames), np.zeros(frames)], axis=1)


def errors_m(estimates: Sequence[Estimate], truth_m: Floats) -> Floats:
    """(F,) distance of the best hypothesis from the truth."""
    best = np.array([estimate.hypotheses[0].position_m[:2] for estimate in estimates])
    return np.linalg.norm(best - truth_m, axis=1)


def street_filter(**changes: object) -> TemporalFilter:
    """A filter on a street."""
    return TemporalFilter(Street(), CALIBRATION, FilterConfig(**changes))  # type: ignore[arg-type]


def check(estimate: Estimate) -> None:
    """What holds of every estimate, whatever came in."""
    previous = 1.0
    for rank, item in enumerate(estimate.hypotheses):
        assert item.rank == rank
        assert 0.0 <= item.probability <= previous
        previous = item.probability
        assert 0.0 <= item.score <= 1.0
        assert np.isfinite(item.position_m[:2]).all()
        assert np.isfinite(item.covariance).all()
        np.testing.assert_allclose(item.covariance, item.covariance.T, rtol=1e-9)
        assert np.linalg.eigvalsh(item.covariance).min() > 0
        assert np.isfinite(item.sigma_m)
    if estimate.accepted is not None:
        assert estimate.accepted is estimate.hypotheses[0]
        assert estimate.state.value == "LOCALIZED"
