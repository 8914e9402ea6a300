"""What a list of matches is worth: features, the model of P(correct), its fit, and its place in the map."""

from __future__ import annotations

import copy
import fcntl
import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_support import make_images, quick_disk  # noqa: F401
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError, DataError, MapError
from vgssl_core.geomap import GeoMap, build_map, load_map, remove_images, store_calibration
from vgssl_core.localization import (
    DEFAULT,
    FEATURES,
    Calibration,
    Examples,
    Localizer,
    LocalizerConfig,
    fit_calibration,
    gather_examples,
    match_features,
    reliability_of,
)
from vgssl_core.localization.fit import LEAST_EXAMPLES

MODEL = "model-a"
CALIBRATION = Calibration(
    is_default=False,
    model_id=MODEL,
    precision="fp32",
    radius_m=25.0,
    threshold=0.93,
    settings={"k": 20, "cluster_radius_m": 12.5, "temperature": 0.2},
    intercept=-4.0,
    coefficients=(1.0, 6.0, 0.5, 0.25, 0.0),
    position_scale=1.5,
    heading_scale=0.25,
    frames=300,
    unknown_frames=280,
    reliability=reliability_of(np.array([0.1, 0.12, 0.9]), np.array([False, True, True])),
    source="streets of another town",
)


def embedder(model_id: str = MODEL, precision: str = "fp32") -> Any:
    return SimpleNamespace(model_id=model_id, precision=precision)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    images = make_images(60, extent_m=200.0)
    build_map(tmp_path / "m", images.descriptors, MODEL, images.positions)
    return tmp_path / "m"


# --- features


def test_features_are_what_their_names_say() -> None:
    distances = np.array([0.4, 0.5, 0.8, 1.0])
    weights = np.array([1.0, 0.5, 0.25, 0.25])
    planar = np.array([[0.0, 0], [10, 0], [300, 0], [0, 400]])
    found = dict(zip(FEATURES, match_features(distances, weights, planar, np.zeros(2), 25.0), strict=True))
    assert found["similarity"] == pytest.approx(1 - 0.4**2 / 2)
    assert found["distinctness"] == pytest.approx(1 - 0.4 / 0.8)
    assert found["share"] == pytest.approx(0.75)
    assert found["agreement"] == pytest.approx(0.5)
    spread = math.sqrt((0.5 * 10**2 + 0.25 * 300**2 + 0.25 * 400**2) / 2)
    assert found["concentration"] == pytest.approx(25 / (25 + spread))


def test_a_hypothesis_beside_the_nearest_match_is_less_distinct_than_none() -> None:
    planar = np.array([[0.0, 0], [500, 0]])
    second = match_features(np.array([0.4, 0.8]), np.array([1.0, 0.2]), planar, planar[1], 25.0)
    assert second[1] == pytest.approx(1 - 0.8 / 0.4)
    # A list of one place has no rival; its last match bounds how near one can be.
    alone = match_features(np.array([0.4, 0.5]), np.ones(2), planar * 0.01, np.zeros(2), 25.0)
    assert alone[1] == pytest.approx(1 - 0.4 / 0.5)


@given(st.integers(1, 20), st.integers(0, 1000), st.sampled_from([0.0, 1e-6, 30.0, 1e4]))
def test_features_are_finite_and_bounded_for_any_list(count: int, seed: int, extent_m: float) -> None:
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.choice([0.0, 1e-9, 0.5, 2.0], count))
    planar = rng.uniform(-extent_m, extent_m, (count, 2))
    found = match_features(distances, rng.uniform(1e-100, 1, count), planar, planar.mean(axis=0), 25.0)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= 1 + 1e-12).all()


# --- the model


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5), st.integers(0, 4), st.floats(0, 1))
def test_probability_is_logistic_and_never_falls_where_a_feature_grows(
    values: list[float], which: int, more: float
) -> None:
    features = np.array(values)
    logit = CALIBRATION.intercept + features @ np.array(CALIBRATION.coefficients)
    probability = CALIBRATION.probability(features)
    assert probability == pytest.approx(1 / (1 + math.exp(-logit)))
    features[which] += more
    assert CALIBRATION.probability(features) >= probability
    assert 0 <= replace(CALIBRATION, intercept=1e6).probability(features) <= 1


def test_the_default_trusts_only_a_list_without_doubt() -> None:
    assert DEFAULT.is_default
    assert DEFAULT.probability(np.ones(5)) > DEFAULT.threshold
    # Every match in one place, and yet the nearest one no nearer than another place could be.
    assert DEFAULT.probability(np.array([0.99, 0.0, 1.0, 1.0, 0.8])) < 0.5
    assert DEFAULT.probability(np.array([0.99, 0.2, 0.9, 1.0, 0.8])) < DEFAULT.threshold


# --- in the map


def test_a_calibration_comes_back_from_the_map_as_it_was_stored(path: Path) -> None:
    before = load_map(path)
    manifest = store_calibration(path, CALIBRATION.content(), before.manifest.map_id)
    after = load_map(path)
    assert after.manifest == manifest == replace(before.manifest, calibration=CALIBRATION.content())
    assert after.calibration is not None
    assert Calibration.parse(after.calibration) == CALIBRATION
    assert Localizer(embedder(), after).calibration == CALIBRATION
    assert store_calibration(path, None).calibration is None


def test_only_one_process_writes_and_only_the_map_that_was_calibrated(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(MapError, match="Another process"):
        store_calibration(path, CALIBRATION.content())
    os.close(descriptor)
    old = load_map(path).manifest.map_id
    remove_images(path, [0])
    with pytest.raises(MapError, match="calibrate again"):
        store_calibration(path, CALIBRATION.content(), old)
    with pytest.raises(MapError, match="no map"):
        store_calibration(path / "nowhere", CALIBRATION.content())
    assert load_map(path).calibration is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=2), "version 2"),
        (lambda c: c.pop("format"), "version None"),
        (lambda c: c.pop("threshold"), "threshold"),
        (lambda c: c.update(threshold=1.5), "no number from"),
        (lambda c: c.update(threshold=float("nan")), "no number from"),
        (lambda c: c.update(threshold=True), "no number from"),
        (lambda c: c.update(radius_m=0), "no number from"),
        (lambda c: c.update(intercept="1"), "no number from"),
        (lambda c: c.update(model_id=None), "not text"),
        (lambda c: c.update(frames=-1), "no count"),
        (lambda c: c.update(coefficients=[1, 2, 3, 4, 5]), "features"),
        (lambda c: c["coefficients"].pop("share"), "features"),
        (lambda c: c["coefficients"].update(share=-0.1), "no number from"),
        (lambda c: c.update(settings={}), "'k'"),
        (lambda c: c.update(reliability=7), "damaged"),
        (lambda c: c["reliability"].append({"predicted": 2, "right": 0, "count": 1}), "no number from"),
    ],
)
def test_a_calibration_that_nobody_fitted_is_refused(change: Callable, words: str) -> None:
    content = copy.deepcopy(CALIBRATION.content())
    change(content)
    with pytest.raises(MapError, match=rf"{words}.*vgssl calibrate|vgssl calibrate.*{words}"):
        Calibration.parse(content)


@pytest.mark.parametrize(
    ("content", "with_what", "config", "words"),
    [
        (None, {}, {}, "not calibrated"),
        (CALIBRATION.content() | {"model_id": "another"}, {}, {}, "of model another.* is model model-a"),
        (CALIBRATION.content(), {"precision": "int8"}, {}, "for fp32 and the engine computes in int8"),
        (CALIBRATION.content(), {}, {"k": 10}, "k 20, not 10"),
    ],
)
def test_where_no_calibration_fits_the_default_takes_its_place_and_says_so(
    content: Any, with_what: dict, config: dict, words: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        store_calibration(path, content)
    with caplog.at_level(logging.WARNING):
        localizer = Localizer(embedder(**with_what), load_map(path), LocalizerConfig(**config))
    assert localizer.calibration is DEFAULT
    assert localizer.threshold == DEFAULT.threshold
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert re.search(words, record.getMessage())
    assert "vgssl calibrate" in record.getMessage()


def test_another_radius_than_the_calibrations_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"25 m.*radius_m is 10"):
        Localizer(embedder(), load_map(path), LocalizerConfig(radius_m=10.0))
    store_calibration(path, replace(CALIBRATION, radius_m=10.0).content())
    assert Localizer(embedder(), load_map(path), LocalizerConfig(radius_m=10.0)).calibration.radius_m == 10.0


def test_the_threshold_is_the_calibrations_unless_the_settings_name_one(path: Path) -> None:
    store_calibration(path, CALIBRATION.content())
    geomap = load_map(path)
    query = geomap.descriptors(slice(3, 4))[0]
    # The query is an image of the map: its probability is 1 / (1 + e^-(-4 + 1 + 6 + …)).
    for threshold, is_accepted in ((None, True), (0.5, True), (0.9999, False), (1.0, False)):
        answer = Localizer(embedder(), geomap, LocalizerConfig(threshold=threshold)).localize_descriptor(query)
        assert answer.threshold == (0.93 if threshold is None else threshold)
        assert (answer.accepted is not None) == is_accepted
        assert answer.accepted in (None, answer.hypotheses[0])
    for value in (0.0, -1.0, 1.01, math.nan):
        with pytest.raises(ConfigError, match="threshold"):
            LocalizerConfig(threshold=value)


def test_hypotheses_come_by_falling_probability(path: Path) -> None:
    localizer = Localizer(embedder(), load_map(path))
    for query in make_images(20, seed=5).descriptors:
        probabilities = [item.probability for item in localizer.localize_descriptor(query).hypotheses]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(0 <= value <= 1 for value in probabilities)


def test_scales_of_the_calibration_stretch_covariances_down_to_the_floors(path: Path) -> None:
    geomap = load_map(path)
    query = make_images(1, seed=5).descriptors[0]

    def covariance(scale: float) -> NDArray[np.float64]:
        store_calibration(path, replace(CALIBRATION, position_scale=scale, heading_scale=scale).content())
        found = Localizer(embedder(), load_map(path)).localize_descriptor(query).hypotheses
        return next(item.covariance for item in found if math.isfinite(item.yaw_rad))

    plain = covariance(1.0)
    np.testing.assert_allclose(covariance(2.5)[:2, :2], 2.5 * plain[:2, :2])
    smallest = covariance(1e-6)
    assert np.linalg.eigvalsh(smallest[:2, :2]).min() == pytest.approx(
        LocalizerConfig().position_floor_m ** 2, rel=1e-3
    )
    assert smallest[3, 3] == pytest.approx(math.radians(LocalizerConfig().heading_floor_deg) ** 2)
    assert len(geomap) == 60


# --- examples


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> GeoMap:
    """A map of 300 random descriptors in a square of 600 m."""
    images = make_images(300, extent_m=300.0, dimension=24)
    return build_map(tmp_path_factory.mktemp("street") / "m", images.descriptors, MODEL, images.positions)


def asked(geomap: GeoMap, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Queries that resemble map images more or less, taken near them."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(geomap), size=count)
    noise = rng.standard_normal((count, geomap.dimension)) * rng.uniform(0.05, 0.45, (count, 1))
    descriptors = geomap.descriptors(rows) + noise
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return descriptors.astype(np.float32), geomap.positions_m[rows, :2] + rng.normal(0, 3, (count, 2))


def test_an_unknown_place_is_the_map_without_its_surroundings(street: GeoMap, tmp_path: Path) -> None:
    descriptors, truth = asked(street, 4, 0)
    truth[3] = 5000.0
    examples = gather_examples(street, descriptors, truth, np.full(4, np.nan))
    assert examples.query.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert examples.is_known.tolist() == [True, False] * 3 + [False]
    assert not examples.is_right[~examples.is_known].any()
    far = np.flatnonzero(np.linalg.norm(street.positions_m[:, :2] - truth[0], axis=1) > 50.0)
    positions = make_images(300, extent_m=300.0, dimension=24).positions
    order = [positions.source.index(street.sources[index]) for index in far]
    without = build_map(tmp_path / "w", street.descriptors(far), MODEL, positions.subset(np.array(order)))
    alone = gather_examples(without, descriptors[:1], truth[:1], np.full(1, np.nan), unknown=False)
    np.testing.assert_allclose(alone.features[0], examples.features[1], atol=1e-4)


def test_examples_of_several_sets_are_numbered_through(street: GeoMap) -> None:
    descriptors, truth = asked(street, 3, 0)
    one = gather_examples(street, descriptors, truth, np.zeros(3))
    both = Examples.joined([one, one])
    assert len(both) == 2 * len(one)
    assert both.query.tolist() == [*one.query, *(one.query + 3)]
    np.testing.assert_array_equal(both.subset(both.query >= 3).features, one.features)


# --- the fit


def simulated(count: int, seed: int, coefficient: float = 6.0) -> Examples:
    """Examples whose true P(correct) is logistic in the first two features; every query also as an unknown place."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(0, 1, (2 * count, len(FEATURES)))
    known = np.arange(2 * count) % 2 == 0
    features[~known, :2] *= 0.3
    probability = 1 / (1 + np.exp(-(coefficient * (features[:, 0] + features[:, 1]) - coefficient)))
    right = known & (rng.random(2 * count) < probability)
    error = np.where(right, np.abs(rng.normal(0, 4, 2 * count)), 100.0)
    return Examples(
        query=np.arange(2 * count) // 2,
        features=features,
        is_known=known,
        is_right=right,
        error_m=error,
        position_misfit=error**2 / 4.0,
        heading_misfit=np.where(right, 9.0, np.nan),
    )


def fitted(examples: Examples, **changes: Any) -> Calibration:
    return fit_calibration(examples, MODEL, "fp32", 25.0, source="simulated", **changes)


def test_a_fit_predicts_how_often_unseen_answers_are_right() -> None:
    calibration = fitted(simulated(1500, 0), unknown_weight=1e-6)
    fresh = simulated(4000, 1)
    known = fresh.is_known
    curve = reliability_of(calibration.probabilities(fresh.features[known]), fresh.is_right[known])
    assert sum(item.count for item in curve) == known.sum()
    assert max(abs(item.predicted - item.right) for item in curve) < 0.08
    assert sum(item.count * abs(item.predicted - item.right) for item in curve) / known.sum() < 0.03
    assert (calibration.frames, calibration.unknown_frames) == (1500, 1500)
    assert (calibration.model_id, calibration.precision, calibration.source) == (MODEL, "fp32", "simulated")
    assert not calibration.is_default
    assert Calibration.parse(calibration.content()) == calibration


def test_what_speaks_against_trust_is_left_out_and_not_turned_round() -> None:
    examples = simulated(500, 0)
    examples.features[:, 2] = 1.0 - examples.features[:, 0]
    calibration = fitted(examples)
    assert calibration.coefficients[2] < 1e-6
    assert min(calibration.coefficients) >= 0


def test_unknown_places_lower_what_looks_like_them() -> None:
    examples = simulated(800, 0)
    unknown = examples.features[~examples.is_known]
    means = [fitted(examples, unknown_weight=w).probabilities(unknown).mean() for w in (1e-6, 0.3, 1.0)]
    assert means == sorted(means, reverse=True)
    assert means[2] < 0.6 * means[0]


def test_the_threshold_keeps_the_wrong_ones_among_unseen_answers_rare() -> None:
    calibration = fitted(simulated(3000, 0, coefficient=14.0))
    assert 0.9 <= calibration.threshold < 0.99
    fresh = simulated(6000, 1, coefficient=14.0)
    accepted = calibration.probabilities(fresh.features) >= calibration.threshold
    assert accepted.mean() > 0.1
    assert fresh.is_right[accepted].mean() > 0.985
    assert accepted[~fresh.is_known].mean() <= 0.01
    # Where nothing proves that few are wrong, the probability itself must promise it.
    assert fitted(simulated(100, 0, coefficient=1.0)).threshold == 0.99
    assert fitted(simulated(100, 0, coefficient=1.0), target_wrong=0.05).threshold >= 0.9


def test_covariances_are_scaled_to_the_errors_of_right_answers() -> None:
    examples = simulated(500, 0)
    calibration = fitted(examples)
    misfit = examples.position_misfit[examples.is_right]
    assert (misfit / calibration.position_scale).mean() == pytest.approx(2.0)
    assert calibration.heading_scale == pytest.approx(9.0)
    blind = replace(examples, heading_misfit=np.full(len(examples), np.nan))
    assert fitted(blind).heading_scale == 1.0


def test_too_few_examples_are_refused() -> None:
    examples = simulated(300, 0)
    right = np.flatnonzero(examples.is_right)
    few = np.ones(len(examples), bool)
    few[right[LEAST_EXAMPLES - 1 :]] = False
    with pytest.raises(DataError, match=f"{LEAST_EXAMPLES - 1} of .* are right"):
        fitted(examples.subset(few))
    with pytest.raises(DataError, match="that are not"):
        fitted(examples.subset(right))


def test_calibrated_on_one_half_of_the_queries_the_other_half_is_trusted_rightly(street: GeoMap) -> None:
    first = gather_examples(street, *asked(street, 250, 1), np.full(250, np.nan))
    store_calibration(street.path, fitted(first).content())
    try:
        localizer = Localizer(embedder(), load_map(street.path))
    finally:
        store_calibration(street.path, None)
    descriptors, truth = asked(street, 250, 2)
    answers = [localizer.localize_descriptor(query) for query in descriptors]
    errors = np.array([np.linalg.norm(a.hypotheses[0].position_m[:2] - t) for a, t in zip(answers, truth, strict=True)])
    accepted = np.array([answer.accepted is not None for answer in answers])
    probability = np.array([answer.hypotheses[0].probability for answer in answers])
    assert accepted.mean() > 0.3
    assert (errors[accepted] <= 25).mean() >= 0.98
    assert abs(probability.mean() - (errors <= 25).mean()) < 0.1
    nobody = make_images(300, seed=77, dimension=street.dimension).descriptors
    assert sum(localizer.localize_descriptor(query).accepted is not None for query in nobody) <= 3
