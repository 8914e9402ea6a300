"""Intervals, calibration error, risk-coverage: against independent computations and known values."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vgssl_core.evaluation.intervals import clopper_pearson
from vgssl_core.evaluation.risk_coverage import risk_coverage
from vgssl_core.evaluation.trust import (
    AcceptanceRule,
    Trust,
    price_table,
    trust_details,
    trust_lines,
    trust_section,
    trust_tiles,
)
from vgssl_core.localization.reliability import reliability

RULE = AcceptanceRule(0.8, 25.0, "calibrated on a street")


@given(st.integers(1, 3000), st.floats(0, 1))
def test_interval_is_the_one_of_an_exact_binomial_test(total: int, share: float) -> None:
    count = round(share * total)
    expected = stats.binomtest(count, total).proportion_ci(0.95, method="exact")
    found = clopper_pearson(count, total)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.low <= count / total <= found.high


def test_interval_of_nothing_claims_nothing() -> None:
    nothing = clopper_pearson(0, 0)
    assert (nothing.low, nothing.high, nothing.percent, str(nothing)) == (0.0, 1.0, None, "–")
    # The rule of three: no failure among n leaves about 3.7 / n two-sided.
    assert clopper_pearson(0, 1000).high == pytest.approx(3.69e-3, rel=1e-2)
    assert str(clopper_pearson(0, 1000)) == "0.0 % (0.00–0.37 %)"


def trust_of(probability: list[float], right: list[bool], mapped: list[bool] | None = None) -> Trust:
    return Trust(np.array(probability), np.array(right), np.array(mapped or [True] * len(right)), RULE)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_calibration_error_equals_a_plain_loop(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    probability, right = random.random(count).round(2), random.random(count) < 0.5
    expected = 0.0
    for low in range(10):
        inside = [i for i in range(count) if low == min(int(probability[i] * 10), 9)]
        if inside:
            gap = np.mean(probability[inside]) - np.mean(right[inside])
            expected += abs(gap) * len(inside) / count
    measured = reliability(probability, right)
    assert measured.expected_error == pytest.approx(expected)
    assert sum(item["count"] for item in measured.content()) == count


def test_honest_probabilities_have_no_error_and_boastful_ones_have() -> None:
    random = np.random.default_rng(0)
    probability = random.random(200_000)
    right = random.random(200_000) < probability
    assert reliability(probability, right).expected_error < 0.005
    assert reliability(np.sqrt(probability), right).expected_error > 0.1


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_each_point_of_the_curve_is_what_its_threshold_does(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    probability, right = random.random(count).round(1), random.random(count) < 0.6
    curve = risk_coverage(probability, right)
    assert sorted(set(probability), reverse=True) == curve.threshold.tolist()
    for threshold, coverage, risk in zip(curve.threshold, curve.coverage, curve.risk, strict=True):
        accepted = probability >= threshold
        assert coverage == pytest.approx(accepted.mean())
        assert risk == pytest.approx((~right[accepted]).mean())
    assert curve.coverage[-1] == 1.0 and 0 <= curve.area <= 1


def test_fixes_are_counted_over_all_frames_and_false_ones_beyond_the_map() -> None:
    trust = trust_of(
        [0.9, 0.8, 0.79, 0.95, 0.1], [True, True, True, False, False], mapped=[True, True, True, False, False]
    )
    assert (trust.fixes.count, trust.fixes.total) == (3, 5)
    assert (trust.right_fixes.count, trust.right_fixes.total) == (2, 3)
    assert (trust.unmapped_fixes.count, trust.unmapped_fixes.total) == (1, 2)
    details = trust_details(trust)
    json.dumps(details, allow_nan=False)
    assert details["acceptance"]["right"]["percent"] == pytest.approx(66.6667)
    assert [tile.value for tile in trust_tiles(details)][:2] == ["66.7 %", "60.0 %"]
    lines = "\n".join(trust_lines(trust))
    assert (
        "single frames: accepted 3 of 5 frames" in lines and "false accepts 1 of 5 frames, 20.0 % (0.5–71.6 %)" in lines
    )
    assert "accepted 1 of 2 frames without a map image within 25 m" in lines
    assert details["acceptance"]["false_accepts"]["percent"] == pytest.approx(20.0)


def test_fixes_of_the_filter_are_those_that_it_confirmed() -> None:
    single = trust_of([0.9, 0.95, 0.85], [True, True, False])
    filtered = replace(single, confirmed=np.array([False, True, False]))
    assert (filtered.fixes.count, filtered.right_fixes.count, filtered.false_fixes.count) == (1, 1, 0)
    section = trust_section(filtered)
    assert "as the node does by default" in section.title and not section.table
    assert "33.3 % (0.8–90.6 %) of the frames did" in section.text
    assert trust_tiles(trust_details(filtered))[1].detail.startswith(
        "filtered over time, as the node does by default: 1"
    )


def test_a_drive_without_any_fix_is_reported_too() -> None:
    trust = trust_of([0.1, 0.2], [True, False])
    details = trust_details(trust)
    json.dumps(details, allow_nan=False)
    assert details["acceptance"]["right"]["percent"] is None
    assert trust_tiles(details)[0].value == "–"
    assert len(trust_section(trust).figures) == 2


def test_the_section_shows_both_figures_and_the_price_of_thresholds() -> None:
    trust = trust_of([0.9, 0.85, 0.4], [True, False, False])
    section = trust_section(trust)
    for figure in section.figures:
        assert ElementTree.fromstring(figure).tag.endswith("svg")
    assert section.figures == trust_section(trust).figures
    assert "50.0 % (1.3–98.7 %)" in section.text and "Calibrated on a street." in section.text
    (in_force,) = [row for row in price_table(trust) if "in force" in row[0]]
    assert in_force[0] == "0.800 (in force)" and in_force[3] == "1"
