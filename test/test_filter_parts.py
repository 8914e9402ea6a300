"""The temporal filter's mathematics, piece by piece, against independent computations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filter_support import CALIBRATION, Street, hypothesis, seen
from hypothesis import given
from hypothesis import strategies as st
from map_support import make_images
from scipy.integrate import dblquad
from scipy.stats import multivariate_normal

from vgssl_core.errors import DataError
from vgssl_core.evaluation.simulated_odometry import OdometryNoise, direction_of_way, simulate_odometry
from vgssl_core.geomap import TiledMap, build_map
from vgssl_core.localization.filter import TemporalFilter
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.filter_coverage import Coverage
from vgssl_core.localization.filter_mixture import (
    STATES,
    VX,
    VY,
    YAW,
    Mixture,
    Y,
    bounded,
    log_sum,
    probability_in_circle,
)
from vgssl_core.localization.filter_predict import motion_noise, predicted
from vgssl_core.localization.filter_update import Sighting, _inverse, updated
from vgssl_core.localization.motion import Motion, VelocityPrior, wrapped

CONFIG = FilterConfig()


def mixture_of(count: int, seed: int = 0, spread_m: float = 100.0) -> Mixture:
    """Random components."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(0, 1, (count, STATES, STATES))
    mean = rng.normal(0, spread_m, (count, STATES))
    mean[:, YAW] = wrapped(mean[:, YAW])
    covariance = bounded(roots @ np.swapaxes(roots, 1, 2))
    return Mixture(np.log(rng.uniform(0.1, 1, count)), mean, covariance, math.log(0.5)).normalised()


def total(mixture: Mixture) -> float:
    return float(mixture.weight.sum() + math.exp(mixture.log_lost))


# --- Gaussians


@pytest.mark.parametrize("offset", [(0.0, 0.0), (10.0, 5.0), (30.0, 0.0)])
@pytest.mark.parametrize("covariance", [((9.0, 0.0), (0.0, 9.0)), ((400.0, 150.0), (150.0, 100.0))])
def test_probability_in_a_circle_equals_the_integral(offset: tuple, covariance: tuple) -> None:
    density = multivariate_normal(offset, covariance)
    integral, _ = dblquad(
        lambda r, angle: r * density.pdf((r * math.cos(angle), r * math.sin(angle))),
        *(0, 2 * math.pi, 0, 25.0),
        epsabs=1e-5,
    )
    found = probability_in_circle(np.array(offset), np.array(covariance), 25.0)
    assert found == pytest.approx(integral, abs=2e-3)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(-0.99, 0.99))
def test_probability_in_a_circle_is_one(x: float, y: float, a: float, c: float, correlation: float) -> None:
    b = correlation * math.sqrt(a * c)
    found = probability_in_circle(np.array((x, y)), np.array(((a, b), (b, c))), 25.0)
    assert 0.0 <= found <= 1.0
    grown = probability_in_circle(np.array((x, y)), np.array(((a, b), (b, c))), 50.0)
    assert grown >= found - 5e-3


@given(st.integers(1, 30), st.integers(0, 1000))
def test_reducing_keeps_the_sum_and_the_limit(count: int, seed: int) -> None:
    mixture = mixture_of(count, seed, spread_m=3.0)
    small = mixture.reduced(8, 200.0)
    assert len(small) <= 8
    assert total(small) == pytest.approx(1.0)
    assert np.linalg.eigvalsh(small.covariance).min() > 0
    everything = mixture.moments(np.arange(count))
    assert everything[0] == pytest.approx(math.log(mixture.weight.sum()))


def test_merging_keeps_mean_and_covariance_of_the_sum() -> None:
    mixture = mixture_of(2, 3)
    mean = np.stack([mixture.mean[0], mixture.mean[0] + 0.1])
    both = Mixture(mixture.log_weight, mean, mixture.covariance, mixture.log_lost)
    merged = both.reduced(8, 200.0)
    assert len(merged) == 1
    share = both.weight / both.weight.sum()
    np.testing.assert_allclose(merged.mean[0], share @ mean, rtol=1e-9)
    spread = (mean - share @ mean).T @ ((mean - share @ mean) * share[:, None])
    np.testing.assert_allclose(merged.covariance[0], np.einsum("m,mab->ab", share, both.covariance) + spread)


def test_headings_are_merged_across_the_wrap() -> None:
    mean = np.zeros((2, STATES))
    mean[:, YAW] = math.pi - 0.05, -math.pi + 0.05
    covariance = np.tile(np.eye(STATES), (2, 1, 1))
    merged = Mixture(np.log([0.4, 0.4]), mean, covariance, math.log(0.2)).reduced(4, 200.0)
    assert len(merged) == 1
    assert abs(merged.mean[0, YAW]) == pytest.approx(math.pi, abs=1e-6)
    assert merged.covariance[0, YAW, YAW] == pytest.approx(1.0, abs=0.01)


def test_logarithms_of_weights_hold_where_weights_vanish() -> None:
    mixture = mixture_of(3)
    tiny = Mixture(mixture.log_weight - 5000.0, mixture.mean, mixture.covariance, -4999.0)
    assert total(tiny.normalised()) == pytest.approx(1.0)
    assert log_sum(np.zeros(0)) == -math.inf
    empty = Mixture(np.full(3, -np.inf), mixture.mean, mixture.covariance, -math.inf)
    assert math.exp(empty.normalised().log_lost) == 1.0


def test_small_matrices_are_inverted_by_hand() -> None:
    matrices = mixture_of(5).covariance[:, :2, :2]
    np.testing.assert_allclose(_inverse(matrices), np.linalg.inv(matrices), rtol=1e-9)
    np.testing.assert_allclose(_inverse(matrices[:, :1, :1]), np.linalg.inv(matrices[:, :1, :1]))


# --- moving


@given(st.floats(1e-9, 1e9), st.floats(0.1, 50), st.floats(1, 1000))
def test_the_velocity_prior_is_a_process(dt: float, speed: float, memory: float) -> None:
    prior = VelocityPrior(speed, memory)
    whole, noise = prior.step(dt)
    half, added = prior.step(dt / 2)
    np.testing.assert_allclose(half @ half, whole, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(half @ added @ half.T + added, noise, rtol=2e-3, atol=1e-12 * noise.max())
    # The stationary velocity stays what it is.
    assert whole[1, 1] ** 2 * speed**2 + noise[1, 1] == pytest.approx(speed**2)


POSE = st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(-3, 3))


@given(POSE, POSE)
def test_a_motion_leads_from_one_pose_to_the_other(before: tuple, after: tuple) -> None:
    motion = Motion.between(before, after)
    cosine, sine = math.cos(before[2]), math.sin(before[2])
    assert before[0] + cosine * motion.dx_m - sine * motion.dy_m == pytest.approx(after[0], abs=1e-6)
    assert before[1] + sine * motion.dx_m + cosine * motion.dy_m == pytest.approx(after[1], abs=1e-6)
    assert math.cos(before[2] + motion.dyaw_rad) == pytest.approx(math.cos(after[2]), abs=1e-9)


@given(POSE, POSE, st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3)))
def test_a_mounted_camera_moves_with_its_robot(before: tuple, after: tuple, mount: tuple) -> None:
    def camera(pose: tuple) -> tuple:
        cosine, sine = math.cos(pose[2]), math.sin(pose[2])
        x, y = pose[0] + cosine * mount[0] - sine * mount[1], pose[1] + sine * mount[0] + cosine * mount[1]
        return x, y, pose[2] + mount[2]

    told = Motion.between(before, after, np.diag([0.1, 0.2, 0.01])).of_mounted(*mount)
    seen = Motion.between(camera(before), camera(after))
    found = (told.dx_m, told.dy_m, math.cos(told.dyaw_rad))
    assert found == pytest.approx((seen.dx_m, seen.dy_m, math.cos(seen.dyaw_rad)), abs=1e-6)
    assert np.linalg.eigvalsh(told.covariance).min() > 0


def test_a_component_moves_along_its_heading_and_doubts_it() -> None:
    mean = np.zeros((1, STATES))
    mean[0, YAW] = math.pi / 2
    covariance = bounded(np.diag([1.0, 1.0, 0.1**2, 4.0, 4.0, 1.0])[None])
    before = Mixture(np.zeros(1), mean, covariance, math.log(1e-6)).normalised()
    after = predicted(before, 1.0, Motion(10.0, 0.0, 0.2), CONFIG)
    np.testing.assert_allclose(after.mean[0, :5], (0.0, 10.0, math.pi / 2 + 0.2, 0.0, 10.0), atol=1e-9)
    # Ten metres by an uncertain heading are a metre aside; along the way only the odometry errs.
    assert after.covariance[0, 0, 0] == pytest.approx(1.0 + (10 * 0.1) ** 2, rel=0.05)
    assert after.covariance[0, 1, 1] == pytest.approx(1.0 + 10 * CONFIG.odometry_share**2, rel=0.05)


def test_an_unknown_heading_becomes_all_headings_when_odometry_comes() -> None:
    mean, covariance = np.zeros((1, STATES)), np.diag([1.0, 1.0, math.pi**2 / 3, 4.0, 4.0, 1.0])[None]
    before = Mixture(np.zeros(1), mean, covariance, math.log(1e-6)).normalised()
    after = predicted(before, 1.0, Motion(10.0, 0.0, 0.0), CONFIG)
    np.testing.assert_allclose(np.linalg.norm(after.mean[:, :2], axis=1), 10.0)
    np.testing.assert_allclose(after.weight @ after.mean[:, :2], 0.0, atol=1e-6)
    assert total(after) == pytest.approx(1.0)


def test_odometry_is_never_believed_beyond_the_floor() -> None:
    noise = motion_noise(Motion(4.0, 0.0, 0.0), CONFIG)
    floor = np.array([CONFIG.odometry_share, CONFIG.odometry_share, math.radians(CONFIG.odometry_turn_deg)])
    np.testing.assert_allclose(np.diagonal(noise), 4.0 * floor**2)
    given_ = np.diag([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(motion_noise(Motion(4.0, 0.0, 0.0, given_), CONFIG), given_)


# --- looking


def test_the_first_image_is_believed_as_its_calibration_says() -> None:
    sighting = Sighting.of([hypothesis(10, 0, 0.6), hypothesis(500, 0, 0.2)], 0.1, 25.0)
    assert sighting is not None
    after = updated(Mixture.lost(), sighting, np.zeros(0, bool), 1.0, 1e4, CONFIG)
    assert total(after) == pytest.approx(1.0)
    assert math.exp(after.log_lost) == pytest.approx(0.2)
    np.testing.assert_allclose(sorted(after.weight), sorted([0.54, 0.06, 0.18, 0.02]))


def test_a_component_pulled_by_one_sure_place_is_a_kalman_update() -> None:
    mixture = mixture_of(1, 5, spread_m=1.0)
    place = hypothesis(*(mixture.mean[0, :2] + (0.5, -0.3)), 0.99, yaw_rad=math.nan)
    sighting = Sighting.of([place], 0.1, 25.0)
    assert sighting is not None
    after = updated(mixture, sighting, np.ones(1, bool), 1.0, 1e12, CONFIG).only(np.array([0]))
    gain = mixture.covariance[0][:, :2] @ np.linalg.inv(mixture.covariance[0, :2, :2] + 9.0 * np.eye(2))
    np.testing.assert_allclose(after.mean[0], mixture.mean[0] + gain @ (0.5, -0.3), atol=1e-6)
    expected = mixture.covariance[0] - gain @ mixture.covariance[0][:2]
    np.testing.assert_allclose(after.covariance[0], expected, atol=1e-4)


def test_a_street_looks_alike_up_and_down() -> None:
    sighting = Sighting.of([hypothesis(10, 0, 0.6, yaw_rad=3.0)], 0.2, 25.0)
    assert sighting is not None
    np.testing.assert_allclose(sighting.share, (0.8, 0.2))
    np.testing.assert_allclose(sighting.yaw_rad, (3.0, 3.0 - math.pi))
    unknown = Sighting.of([hypothesis(10, 0, 0.6, yaw_rad=math.nan)], 0.2, 25.0)
    assert unknown is not None and len(unknown.share) == 1
    assert Sighting.of([hypothesis(10, 0, 0.0)], 0.2, 25.0) is None


def test_hypotheses_that_cover_each_other_share_what_they_promise() -> None:
    # Two neighbours within the radius are right together: they are no more than one place with 0.9.
    near, beside, far = hypothesis(0, 0, 0.9), hypothesis(15, 0, 0.9), hypothesis(500, 0, 0.08)
    seen_together = [replace(near, score=0.6), replace(beside, score=0.2), replace(far, score=0.2)]
    sighting = Sighting.of(seen_together, 0.1, 25.0)
    assert sighting is not None and sighting.probability == pytest.approx(0.98)
    parts = (sighting.share.reshape(2, 3).sum(axis=0)) * sighting.probability
    np.testing.assert_allclose(parts, (0.9 * 0.75, 0.9 * 0.25, 0.08))


def test_a_heading_that_is_seen_after_a_corner_turns_the_velocity_too() -> None:
    mean = np.zeros((1, STATES))
    mean[0, VX] = 8.0
    covariance = np.diag([1.0, 1.0, 0.01, 0.25, 0.25, 1.0])[None]
    after = predicted(Mixture(np.zeros(1), mean, covariance, -20.0).normalised(), 4.0, None, CONFIG)
    angle, noise = math.radians(60), 0.01
    gain = after.covariance[0, :, YAW] / (after.covariance[0, YAW, YAW] + noise)
    turned = after.mean[0] + gain * angle
    assert math.atan2(turned[VY], turned[VX]) == pytest.approx(angle, abs=0.3)
    assert turned[Y] > after.mean[0, Y] + 5
    assert np.linalg.eigvalsh(after.covariance).min() > 0


def test_coverage_knows_places_and_headings() -> None:
    street = Street(heading=True)
    coverage = Coverage.of_poses(street.positions_m, street.yaw_rad, len(street), 6.25)
    places = np.array([(100.0, 0.0), (100.0, 3.0), (100.0, 60.0), (100.0, 0.0), (100.0, 0.0), (-1e12, 1e12)])
    yaw = np.array([0.0, 0.3, 0.0, math.pi, math.pi, 0.0])
    anyhow = np.array([False, False, False, False, True, False])
    np.testing.assert_array_equal(coverage.holds(places, yaw, anyhow), [True, True, False, False, True, False])
    unknown = Street(heading=False)
    everywhere = Coverage.of_poses(unknown.positions_m, unknown.yaw_rad, len(unknown), 6.25)
    assert everywhere.holds(places[:1], np.array([2.0]), np.array([False])).all()


# --- simulated odometry


def test_simulated_odometry_errs_as_documented() -> None:
    truth, yaw = np.stack([np.arange(2001) * 0.5, np.zeros(2001)], axis=1), np.zeros(2001)
    noise = OdometryNoise()
    runs = [simulate_odometry(truth, yaw, seed)[1:] for seed in range(20)]
    forward = np.array([[motion.dx_m for motion in run] for run in runs])
    turns = np.array([[motion.dyaw_rad for motion in run] for run in runs])
    # The way of a run errs by its scale, each step by the root of its length.
    assert np.std(forward.mean(axis=1) / 0.5) == pytest.approx(noise.scale, rel=0.5)
    assert np.mean(np.std(forward, axis=1)) == pytest.approx(noise.share * math.sqrt(0.5), rel=0.05)
    assert np.degrees(np.mean(np.std(turns, axis=1))) == pytest.approx(noise.turn_deg * math.sqrt(0.5), rel=0.05)
    np.testing.assert_allclose(runs[0][0].covariance[0, 0], (noise.share * math.sqrt(0.5)) ** 2)


def test_simulated_odometry_repeats_with_its_seed_and_without_noise_is_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, yaw = rng.normal(0, 5, (20, 2)).cumsum(axis=0), rng.uniform(-9, 9, 20)
    one, other = (simulate_odometry(truth, yaw, 7) for _ in range(2))
    assert [m.dx_m for m in one[1:] if m] == [m.dx_m for m in other[1:] if m]
    exact = simulate_odometry(truth, yaw, 7, OdometryNoise(0.0, 0.0, 0.0))
    assert exact[0] is None
    x, y, heading = truth[0, 0], truth[0, 1], yaw[0]
    for motion in exact[1:]:
        assert motion is not None
        x, y = (
            x + math.cos(heading) * motion.dx_m - math.sin(heading) * motion.dy_m,
            y + math.sin(heading) * motion.dx_m + math.cos(heading) * motion.dy_m,
        )
        heading += motion.dyaw_rad
    np.testing.assert_allclose((x, y), truth[-1], atol=1e-9)
    assert math.cos(heading) == pytest.approx(math.cos(yaw[-1]))


def test_odometry_of_a_turned_and_shifted_truth_is_the_same() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 2, (30, 2)).cumsum(axis=0)
    yaw, angle = direction_of_way(truth), 1.0
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    for one, other in zip(
        simulate_odometry(truth, yaw, 3)[1:], simulate_odometry(truth @ turn + 1000.0, yaw + angle, 3)[1:], strict=True
    ):
        assert one is not None and other is not None
        assert (one.dx_m, one.dy_m, one.dyaw_rad) == pytest.approx((other.dx_m, other.dy_m, other.dyaw_rad), abs=1e-9)


def test_truth_with_holes_makes_no_odometry() -> None:
    with pytest.raises(DataError, match="not finite"):
        simulate_odometry(np.array([(0.0, 0.0), (np.nan, 0.0)]))
    assert direction_of_way(np.zeros((3, 2))).tolist() == [0.0, 0.0, 0.0]


# --- on real maps


def test_a_filter_takes_a_map_whole_and_in_tiles(tmp_path: Path) -> None:
    images = make_images(60, extent_m=200.0)
    whole = build_map(tmp_path / "map", images.descriptors, "model", images.positions, tile_m=100.0)
    tiled = TiledMap(tmp_path / "map", 10**8)
    tiled.move_to(0.0, 0.0)
    answers = []
    for geomap in (whole, tiled):
        followed = TemporalFilter(geomap, CALIBRATION)  # type: ignore[arg-type]
        x_m, y_m, _ = whole.positions_m[7]
        answers.append(followed.update(0, seen(hypothesis(x_m, y_m, 0.8))).hypotheses[0])
    one, other = answers
    np.testing.assert_array_equal(one.position_m, other.position_m)
    assert one.probability == other.probability == pytest.approx(0.8, abs=0.01)
    assert np.isfinite((one.latitude_deg, one.longitude_deg)).all()
