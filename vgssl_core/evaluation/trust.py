"""How far the localizer's word can be trusted: its probabilities and fixes held against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.evaluation import figures
from vgssl_core.evaluation.intervals import CONFIDENCE, Share, clopper_pearson
from vgssl_core.evaluation.report import Section, Tile
from vgssl_core.evaluation.risk_coverage import RiskCoverage, risk_coverage
from vgssl_core.localization import Localizer
from vgssl_core.localization.reliability import Reliability, reliability

_NOT_CALIBRATED = "this map is not calibrated: the conservative default of other maps and models is in force"
#: Whose answers are judged.
SINGLE, FILTERED = "single frames", "filtered over time, as the node does by default"
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
    """F frames: how sure the localizer, or the filter over time, was of its best hypothesis, and whether it was right.

    Attributes:
        probability: (F,) of the best hypothesis; 0 for a frame without one.
        right: (F,) whether it lies within the rule's radius of the truth.
        mapped: (F,) whether the map has an image within the radius of the truth: the others have no right answer
            to be found.
        rule: When a hypothesis becomes a fix.
        confirmed: (F,) whether the filter gave a fix, for which probability is not enough; None for single frames, of
            which each that reaches the threshold gets one.
    """

    probability: NDArray[np.float64]
    right: NDArray[np.bool_]
    mapped: NDArray[np.bool_]
    rule: AcceptanceRule
    confirmed: NDArray[np.bool_] | None = None

    @property
    def of(self) -> str:
        """Whose answers these are, in words."""
        return SINGLE if self.confirmed is None else FILTERED

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """(F,) whether the frame gets a fix."""
        return self.probability >= self.rule.threshold if self.confirmed is None else self.confirmed

    @property
    def fixes(self) -> Share:
        """Frames with a fix, of all."""
        return clopper_pearson(int(self.accepted.sum()), len(self.accepted))

    @property
    def right_fixes(self) -> Share:
        """Fixes that are right, of all fixes."""
        return clopper_pearson(int(self.right[self.accepted].sum()), int(self.accepted.sum()))

    @property
    def false_fixes(self) -> Share:
        """Frames with a fix that is wrong, of all frames: the rate of false accepts."""
        return clopper_pearson(int((self.accepted & ~self.right).sum()), len(self.accepted))

    @property
    def unmapped_fixes(self) -> Share:
        """Frames with a fix, of those that the map does not cover: each of them is false."""
        return clopper_pearson(int(self.accepted[~self.mapped].sum()), int((~self.mapped).sum()))

    def fixes_at(self, threshold: float) -> Share:
        """Frames whose probability reaches another threshold."""
        return clopper_pearson(int((self.probability >= threshold).sum()), len(self.probability))

    def right_fixes_at(self, threshold: float) -> Share:
        """Those of them that are right."""
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
            "of": trust.of,
            "threshold": round(trust.rule.threshold, 6),
            "radius_m": trust.rule.radius_m,
            "calibration": trust.rule.calibration,
            "accepted": trust.fixes.content(),
            "right": trust.right_fixes.content(),
            "false_accepts": trust.false_fixes.content(),
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
    acceptance = details["acceptance"]
    accepted, right, false = (acceptance[name] for name in ("accepted", "right", "false_accepts"))
    at, of = f"at P(correct) ≥ {acceptance['threshold']:.3f}", acceptance["of"]
    return [
        Tile(
            "Fixes that are right",
            _percent(right["percent"]),
            f"{of}: {right['count']} of {right['total']}; 95 %: {right['low']:.1f}–{right['high']:.1f} %",
        ),
        Tile(
            "Frames with a fix", _percent(accepted["percent"]), f"{of}: {accepted['count']} of {accepted['total']} {at}"
        ),
        Tile(
            "False accepts",
            _percent(false["percent"]),
            f"{of}: {false['count']} of {false['total']} frames; 95 %: {false['low']:.2f}–{false['high']:.2f} %",
        ),
        Tile("Calibration error", f"{details['calibration']['ece']:.3f}", f"{of}: expected (ECE) of P(correct)"),
    ]


def trust_lines(trust: Trust) -> list[str]:
    """The same for a terminal."""
    fixes, right, unmapped = trust.fixes, trust.right_fixes, trust.unmapped_fixes
    lines = [
        f"{trust.of}: accepted {fixes.count} of {fixes.total} frames, {fixes}, "
        f"at P(correct) >= {trust.rule.threshold:.3f}",
        f"right {right.count} of {right.total} accepted, {right}",
        f"false accepts {trust.false_fixes.count} of {fixes.total} frames, {trust.false_fixes}",
        f"expected calibration error {trust.reliability.expected_error:.3f}; {trust.rule.calibration}",
    ]
    if unmapped.total:
        line = (
            f"accepted {unmapped.count} of {unmapped.total} frames without a map image within {trust.rule.radius_m:g} m"
        )
        lines.insert(3, f"{line}, {unmapped}")
    return lines


def trust_section(trust: Trust) -> Section:
    """The part of a report: reliability diagram, risk-coverage curve and, of single frames, what thresholds cost."""
    rule, unmapped, is_single = trust.rule, trust.unmapped_fixes, trust.confirmed is None
    elsewhere = f" Of the {unmapped.total} frames that the map does not cover, {unmapped.count} got one: {unmapped}."
    confirmed = "" if is_single else ", and the filter has confirmed the place"
    return Section(
        f"Can it be trusted? {trust.of[0].upper()}{trust.of[1:]}",
        "A frame gets a fix when P(correct), the probability that its best hypothesis lies within "
        f"{rule.radius_m:g} m of the truth, reaches {rule.threshold:.3f}{confirmed}: {trust.fixes} of the frames did, "
        f"and {trust.right_fixes} of those fixes were right. False accepts, wrong fixes of all frames: "
        f"{trust.false_fixes}.{elsewhere if unmapped.total else ''} "
        f"{_sentence(rule.calibration)} On the left: of the frames with a given P(correct) so many were right (on the "
        "diagonal: honest). On the right: what each threshold would accept, and how much of it would be wrong; the "
        "point is what was accepted. Intervals are exact binomial ones (Clopper-Pearson, 95 %) and take frames as "
        "independent, which neighbouring ones are not.",
        figures=[
            figures.reliability_diagram(trust.reliability),
            figures.risk_coverage_curve(trust.curve, trust.fixes, trust.right_fixes),
        ],
        table=price_table(trust) if is_single else (),
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
