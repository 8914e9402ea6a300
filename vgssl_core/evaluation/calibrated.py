"""A calibration and what it is worth: fitted on all queries, judged on each by a fit that had not seen it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vgssl_core.errors import DataError
from vgssl_core.evaluation.intervals import Share, clopper_pearson
from vgssl_core.evaluation.trust import AcceptanceRule, Trust, trust_details, trust_lines
from vgssl_core.localization import Calibration
from vgssl_core.localization.examples import Examples
from vgssl_core.localization.fit import FOLDS, out_of_fold

#: Fewer queries in the map say nothing about the last percent.
LEAST_QUERIES = 100


@dataclass(frozen=True)
class JudgedCalibration:
    """A calibration with its cross-validated figures.

    Attributes:
        calibration: Fitted on all examples.
        trust: Every query once, as it is, by a fit without it and the queries beside it.
        unknown_fixes: The same for queries whose place was taken out of the map: each fix among them is false.
    """

    calibration: Calibration
    trust: Trust
    unknown_fixes: Share

    def details(self) -> dict[str, Any]:
        """Plain values for ``metrics.json``."""
        return {
            **trust_details(self.trust),
            "false_accepts_unknown_places": self.unknown_fixes.content(),
            "folds": FOLDS,
            "stored": self.calibration.content(),
        }

    def lines(self) -> list[str]:
        """For a terminal."""
        unknown, mapped = self.unknown_fixes, self.trust.mapped
        return [
            f"asked {len(mapped)} queries, {mapped.sum()} with a map image within {self.trust.rule.radius_m:g} m",
            *trust_lines(self.trust)[:-1],
            f"accepted {unknown.count} of {unknown.total} queries whose place was taken out of the map, {unknown}",
            f"expected calibration error {self.trust.reliability.expected_error:.3f}, all figures cross-validated",
        ]


def judged(examples: Examples, fit: Callable[[Examples], Calibration]) -> JudgedCalibration:
    """Fit a calibration, and judge it by cross-validation.

    The folds are runs of queries, so that neighbours, which look alike, are in one fold.

    Args:
        examples: Queries with truth, those beside each other side by side.
        fit: Makes a calibration of examples.

    Raises:
        DataError: Too few queries with a map image near them, or what ``fit`` raises.
    """
    is_original = np.append(True, examples.query[1:] != examples.query[:-1])
    mapped = int((is_original & examples.is_known).sum())
    calibration = fit(_enough(examples, mapped))
    probability = out_of_fold(examples, fit)
    rule = AcceptanceRule(calibration.threshold, calibration.radius_m, f"calibrated on {calibration.source}")
    trust = Trust(probability[is_original], examples.is_right[is_original], examples.is_known[is_original], rule)
    taken_out = probability[~is_original] >= calibration.threshold
    return JudgedCalibration(calibration, trust, clopper_pearson(int(taken_out.sum()), len(taken_out)))


def _enough(examples: Examples, mapped: int) -> Examples:
    """The same.

    Raises:
        DataError: Too few to fit and to judge.
    """
    if mapped < LEAST_QUERIES:
        raise DataError(
            f"{mapped} queries have a map image near them: a calibration needs at least {LEAST_QUERIES} of them, and "
            "about 400 to promise that 99 % of the fixes are right. Give more queries: another drive through mapped "
            "streets, or more place sets."
        )
    return examples
