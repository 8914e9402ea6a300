"""How far the localizer's word can be trusted: its probabilities and fixes held against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.evaluation import figures
from vgssl_core.evaluation.intervals import CONFIDENCE, Share, clopper_pearson
from vgssl_core.evaluation.reliability import Reliability, reliability
from vgssl_core.evaluation.report import Section, Tile
from vgssl_core.evaluation.risk_coverage import RiskCoverage, risk_coverage
from vgssl_core.localization import Localizer

_NOT_CALIBRATED = "this map is not calibrated: the conservative default of other maps and models is in force"
#: Thresholds whose price the tables tell, beside the one in force.
_LISTED = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class AcceptanceRule:
    """When a hypothesis becomes a fix.

    Attributes:
        threshold: Probability from which on it does.
        radius_m: Distance from the truth within which a position counts as right.
        calibration: Where the probabilities come from, in words.
    """

    threshold: float
    radius_m: float
    calibration: str

    @classmethod
    def of(cls, localizer: Localizer) -> AcceptanceRule:
        """The rule of a localizer: its threshold and its calibration's radius."""
        calibration = localizer.calibration
        words = _NOT_CALIBRATED if calibration.is_default else f"calibrated on {calibration.source}"
        return cls(localizer.threshold, calibration.radius_m, words)


@dataclass(frozen=True)
class Trust:
    """F frames: how sure the localizer was of its best hypothesis, and whether that was right.

    Attributes:
        probability: (F,) of the best hypothesis; 0 for a frame without one.
        right: (F,) whether it lies within the rule's radius of the truth.
        mapped: (F,) whether the map has an image within the radius of the truth: the others have no right answer
            to be found.
        rule: When a hypothesis becomes a fix.
    """

    probability: NDArray[np.float64]
    right: NDArray[np.bool_]
    mapped: NDArray[np.bool_]
    rule: AcceptanceRule

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """(F,) whether the frame gets a fix."""
        return self.probability >= self.rule.threshold

    @property
    def fixes(self) -> Share:
        """Frames with a fix, of all."""
        return self.fixes_at(self.rule.threshold)

    @property
    def right_fixes(self) -> Share:
        """Fixes that are right, of all fixes."""
        return self.right_fixes_at(self.rule.threshold)

    @property
    def unmapped_fixes(self) -> Share:
        """Frames with a fix, of those that the map does not cover: each of them is false."""
        return clopper_pearson(int(self.accepted[~self.mapped].sum()), int((~self.mapped).sum()))

    def fixes_at(self, threshold: float) -> Share:
        """Frames with a fix at another threshold."""
        return clopper_pearson(int((self.probability >= threshold).sum()), len(self.probability))

    def right_fixes_at(self, threshold: float) -> Share:
        """Fixes that are right at another threshold."""
        accepted = self.probability >= threshold
        return clopper_pearson(int(self.right[accepted].sum()), int(accepted.sum()))

    @property
    def reliability(self) -> Reliability:
        """Predicted against true shares, over all frames."""
        return reliability(self.probability, self.right)

    @property
    def curve(self) -> RiskCoverage:
        """Risk and coverage of all thresholds."""
        return risk_coverage(self.probability, self.right)


def trust_details(trust: Trust) -> dict[str, Any]:
    """Plain values for ``metrics.json``."""
    calibration = trust.reliability
    return {
        "acceptance": {
            "threshold": round(trust.rule.threshold, 6),
            "radius_m": trust.rule.radius_m,
            "calibration": trust.rule.calibration,
            "accepted": trust.fixes.content(),
            "right": trust.right_fixes.content(),
            "accepted_without_map": trust.unmapped_fixes.content(),
            "confidence": CONFIDENCE,
        },
        "calibration": {
            "ece": round(calibration.expected_error, 6),
            "bins": calibration.content(),
        },
        "risk_coverage": {"area": round(trust.curve.area, 6), "points": trust.curve.content()},
    }


def trust_tiles(details: Mapping[str, Any]) -> list[Tile]:
    """Headline figures, from what `trust_details` gave."""
    accepted, right = (details["acceptance"][name] for name in ("accepted", "right"))
    at = f"at P(correct) ≥ {details['acceptance']['threshold']:.2f}"
    return [
        Tile(
            "Fixes that are right",
            _percent(right["percent"]),
            f"{right['count']} of {right['total']}; 95 %: {right['low']:.1f}–{right['high']:.1f} %",
        ),
        Tile("Frames with a fix", _percent(accepted["percent"]), f"{accepted['count']} of {accepted['total']} {at}"),
        Tile("Calibration error", f"{details['calibration']['ece']:.3f}", "expected (ECE) of P(correct)"),
    ]


def trust_lines(trust: Trust) -> list[str]:
    """The same for a terminal."""
    fixes, right, unmapped = trust.fixes, trust.right_fixes, trust.unmapped_fixes
    lines = [
        f"accepted {fixes.count} of {fixes.total} frames, {fixes}, at P(correct) >= {trust.rule.threshold:.3f}",
        f"right {right.count} of {right.total} accepted, {right}",
        f"expected calibration error {trust.reliability.expected_error:.3f}; {trust.rule.calibration}",
    ]
    if unmapped.total:
        line = (
            f"accepted {unmapped.count} of {unmapped.total} frames without a map image within {trust.rule.radius_m:g} m"
        )
        lines.insert(2, f"{line}, {unmapped}")
    return lines


def trust_section(trust: Trust) -> Section:
    """The part of a report: reliability diagram, risk-coverage curve and the price of each threshold."""
    rule, unmapped = trust.rule, trust.unmapped_fixes
    elsewhere = f" Of the {unmapped.total} frames that the map does not cover, {unmapped.count} got one: {unmapped}."
    return Section(
        "Can it be trusted?",
        "A frame gets a fix when P(correct), the probability that its best hypothesis lies within "
        f"{rule.radius_m:g} m of the truth, reaches {rule.threshold:.3f}: {trust.fixes} of the frames did, and "
        f"{trust.right_fixes} of those fixes were right.{elsewhere if unmapped.total else ''} "
        f"{_sentence(rule.calibration)} On the left: of the frames with a given P(correct) so many were right (on the "
        "diagonal: honest). On the right: what each threshold would accept, and how much of it would be wrong; the "
        "point is the threshold in force. Intervals are exact binomial ones (Clopper-Pearson, 95 %) and take frames as "
        "independent, which neighbouring ones are not.",
        figures=[
            figures.reliability_diagram(trust.reliability),
            figures.risk_coverage_curve(trust.curve, trust.fixes, trust.right_fixes),
        ],
        table=price_table(trust),
    )


def price_table(trust: Trust, listed: Sequence[float] = _LISTED) -> list[list[str]]:
    """What thresholds cost: header and a row each, the one in force marked."""
    rows = [["threshold", "frames with a fix", "fixes that are right", "wrong fixes"]]
    for threshold in sorted({*listed, trust.rule.threshold}):
        fixes, right = trust.fixes_at(threshold), trust.right_fixes_at(threshold)
        mark = " (in force)" if threshold == trust.rule.threshold else ""
        rows.append([f"{threshold:.3f}{mark}", str(fixes), str(right), str(right.total - right.count)])
    return rows


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
