"""The temporal filter: what a robot may rely on when images lie, are missing, or time runs wild."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from filter_support import CALIBRATION, Street, along, check, drive, errors_m, hypothesis, seen, street_filter
from hypothesis import given
from hypothesis import strategies as st

from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.simulated_odometry import simulate_odometry
from vgssl_core.localization.filter import TemporalFilter
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.states import State, StateMachine

NONE: list[Motion | None] = [None] * 1000
SECOND_NS = 10**9


# --- following


def test_before_anything_is_seen_there_is_no_place() -> None:
    estimate = street_filter().update(0, None)
    assert (estimate.state, estimate.hypotheses, estimate.accepted) == (State.LOST, (), None)


@pytest.mark.parametrize("odometry", [True, False])
def test_a_drive_on_which_half_of_the_images_are_wrong_is_followed(odometry: bool) -> None:
    truth = along(100.0, 200)
    motions = simulate_odometry(truth, np.zeros(200)) if odometry else NONE
    estimates = drive(street_filter(), truth, motions[:200], sure_every=10)
    for estimate in estimates:
        check(estimate)
    assert np.mean(errors_m(estimates, truth)[75:] < 25) > 0.95
    fixes = [(e.accepted, place) for e, place in zip(estimates, truth, strict=True) if e.accepted]
    assert len(fixes) > 60
    assert np.mean([np.linalg.norm(fix.position_m[:2] - place) < 25 for fix, place in fixes]) > 0.99


def test_images_that_are_all_doubtful_are_followed_and_give_no_fix() -> None:
    # A place that the map does not know may show the same wrong matches for long.
    truth = along(100.0, 200)
    followed = drive(street_filter(), truth, simulate_odometry(truth, np.zeros(200)))
    assert followed[-1].state is State.LOCALIZED and followed[-1].hypotheses[0].probability > 0.9
    assert all(estimate.accepted is None for estimate in followed)
    # One image that would be accepted by itself is enough, but not one that was seen elsewhere.
    for sure_at, is_fix in ((truth[-1], True), (truth[0] + (1500.0, 0.0), False)):
        again = street_filter()
        drive(again, truth, simulate_odometry(truth, np.zeros(200)))
        estimate = again.update(200 * 10**8, seen(hypothesis(*sure_at, 0.95), hypothesis(*truth[-1], 0.04)))
        assert (estimate.accepted is not None) == is_fix


def test_an_image_that_would_be_accepted_elsewhere_takes_a_fix_back() -> None:
    truth = along(100.0, 200)
    followed = street_filter()
    drive(followed, truth, simulate_odometry(truth, np.zeros(200)), sure_every=10)
    here, elsewhere = hypothesis(*truth[-1], 0.5), hypothesis(1500, 0, 0.95)
    assert followed.update(20 * SECOND_NS, seen(here)).accepted is not None
    assert followed.update(20 * SECOND_NS + 1, seen(elsewhere)).accepted is None
    assert followed.update(20 * SECOND_NS + 2, seen(here)).accepted is None
    assert followed.update(20 * SECOND_NS + 3, seen(hypothesis(*truth[-1], 0.95))).accepted is not None


@pytest.mark.parametrize("odometry", [True, False])
def test_without_odometry_a_fix_outlives_the_last_sure_image_only_as_long_as_the_robot_must_still_be_near(
    odometry: bool,
) -> None:
    # As where a robot turns off the map, and doubtful matches go on naming the street that it has left.
    followed, forwards, x = street_filter(), Motion(0.5, 0.0, 0.0), 100.0
    for number in range(100):
        x += 0.5
        estimate = followed.update(number * 10**8, seen(hypothesis(x, 0.0, 0.95)), forwards)
    assert estimate.accepted is not None
    given = []
    for number in range(100, 200):
        x += 0.5 * odometry
        doubtful = seen(hypothesis(x, 0.0, 0.6))
        given.append(followed.update(number * 10**8, doubtful, forwards if odometry else None).accepted is not None)
    lasts = round(10 * followed.radius_m / (math.sqrt(2) * FilterConfig.speed_mps))
    assert all(given[: lasts - 1])
    assert all(given) if odometry else not any(given[lasts + 1 :])


def test_a_threshold_of_one_accepts_nothing() -> None:
    truth = along(100.0, 100)
    followed = street_filter(threshold=1.0)
    assert all(
        item.accepted is None for item in drive(followed, truth, simulate_odometry(truth, np.zeros(100)), sure_every=10)
    )


def test_while_nothing_is_vouched_for_an_image_that_would_be_accepted_comes_first() -> None:
    truth = along(100.0, 40)
    followed = street_filter()
    believed = drive(followed, truth, simulate_odometry(truth, np.zeros(40)), probability=0.3)[-1].hypotheses[0]
    estimate = followed.update(4 * SECOND_NS, seen(hypothesis(1500, 0, 0.95)), Motion(0.1, 0.0, 0.0))
    check(estimate)
    assert estimate.accepted is None and estimate.state is not State.LOCALIZED
    assert [round(item.position_m[0]) for item in estimate.hypotheses[:2]] == [
        1500,
        pytest.approx(believed.position_m[0], abs=5),
    ]
    assert estimate.hypotheses[0].probability == pytest.approx(0.95)
    assert sum(item.probability for item in estimate.hypotheses[:2]) <= 1.0


def test_a_start_from_standing_is_followed_though_each_image_names_neighbours_too() -> None:
    # An image shows clusters along the street, of which the robot leaves one after the other: each is as right as the
    # others while it lies within the radius, but the nearest has most of the matches.
    seconds = np.arange(100) / 5
    truth = np.stack([300 + np.where(seconds < 6, 0.7 * seconds**2, 8.4 * (seconds - 3)), np.zeros(100)], axis=1)
    clusters_m, followed, estimates = np.arange(0.0, 1000.0, 17.0), street_filter(), []
    for number, x_m in enumerate(truth[:, 0]):
        near = clusters_m[np.abs(clusters_m - x_m) < 25]
        score = np.exp(-np.abs(near - x_m) / 5)
        places = [replace(hypothesis(x, 0, 0.9), score=part) for x, part in zip(near, score / score.sum(), strict=True)]
        estimates.append(followed.update(number * SECOND_NS // 5, seen(*places)))
    assert (errors_m(estimates, truth) < 25).all()


def test_a_map_without_headings_is_followed_by_odometry_too() -> None:
    # The direction of the street has to be found from where the matches go.
    truth = np.stack([np.full(200, 500.0), 100 + 2.0 * np.arange(200)], axis=1)
    followed = TemporalFilter(_street_northwards(), CALIBRATION)
    motions = simulate_odometry(truth, np.full(200, np.pi / 2))
    estimates = drive(followed, truth, motions, share_right=0.6, heading=False)
    assert np.mean(errors_m(estimates, truth)[100:] < 25) > 0.95
    assert estimates[-1].hypotheses[0].yaw_rad == pytest.approx(np.pi / 2, abs=0.3)


def _street_northwards() -> Street:
    street = Street(heading=False)
    street.positions_m = street.positions_m[:, [1, 0, 2]] + (500.0, 0.0, 0.0)
    return street


def test_the_truth_shifted_by_a_kilometre_changes_nothing() -> None:
    # Odometry is all that the filter hears of the truth: not one bit of where it lies may be in it.
    truth = along(100.0, 100) + np.stack([np.zeros(100), 3 * np.sin(np.arange(100) / 20)], axis=1)
    motions = [simulate_odometry(truth + shift, seed=3) for shift in (0.0, 1000.0)]
    near, far = (drive(street_filter(), truth, run, seed=1) for run in motions)
    for one, other in zip(*motions, strict=True):
        if one is not None and other is not None:
            moved = [(motion.dx_m, motion.dy_m, motion.dyaw_rad) for motion in (one, other)]
            np.testing.assert_allclose(*moved, atol=1e-9)
    for one, other in zip(near, far, strict=True):
        assert one.state is other.state
        for first, second in zip(one.hypotheses, other.hypotheses, strict=True):
            np.testing.assert_allclose(first.position_m[:2], second.position_m[:2], atol=1e-5)
            assert first.probability == pytest.approx(second.probability, abs=1e-7)


def test_the_same_drive_gives_the_same_bits() -> None:
    truth = along(100.0, 60)
    runs = [drive(street_filter(), truth, simulate_odometry(truth, seed=5)) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        for first, second in zip(one.hypotheses, other.hypotheses, strict=True):
            np.testing.assert_array_equal(first.position_m, second.position_m)
            np.testing.assert_array_equal(first.covariance, second.covariance)
            assert first.probability == second.probability


# --- what goes wrong on roads


def test_a_kidnapped_robot_is_found_again() -> None:
    before, after = along(100.0, 80), along(1400.0, 200)
    followed = street_filter()
    drive(followed, before, simulate_odometry(before))
    estimates = drive(followed, after, simulate_odometry(after, seed=1), seed=1, begin_ns=10 * SECOND_NS)
    assert np.mean(errors_m(estimates, after)[120:] < 25) > 0.95
    wrong = [e for e, place in zip(estimates, after, strict=True) if e.accepted and _far(e, place)]
    # For a moment nothing tells a kidnapping from frames that show something else.
    assert len(wrong) < 60
    assert estimates[-1].state is State.LOCALIZED


def _far(estimate, place) -> bool:
    return float(np.linalg.norm(estimate.accepted.position_m[:2] - place)) > 25


def test_a_tunnel_without_images_is_crossed_by_odometry() -> None:
    truth = along(100.0, 160)
    motions = simulate_odometry(truth, np.zeros(160))
    followed = street_filter()
    entering = drive(followed, truth[:100], motions[:100])[-1]
    inside = [followed.update(n * 10**8, None, motions[n]) for n in range(100, 160)]
    for estimate in inside:
        check(estimate)
    assert (errors_m(inside, truth[100:]) < 25).all()
    sigma = [entering.hypotheses[0].sigma_m, inside[30].hypotheses[0].sigma_m, inside[-1].hypotheses[0].sigma_m]
    assert sigma == sorted(sigma)
    assert inside[-1].hypotheses[0].support == 0


def test_a_tunnel_without_odometry_soon_makes_lost() -> None:
    followed = street_filter()
    drive(followed, along(100.0, 100), NONE, share_right=0.9, probability=0.8)
    states = [followed.update((10 + second) * SECOND_NS, None).state for second in range(120)]
    assert states[0] is State.LOCALIZED
    assert states[-1] is State.LOST
    # It is never found again without an image.
    order = [State.LOCALIZED, State.CANDIDATE, State.LOST]
    places = [order.index(state) for state in states]
    assert places == sorted(places)


@pytest.mark.parametrize("silence_s", [3600, 10**6, 10**9])
def test_after_a_long_silence_nothing_is_known_and_all_can_be_learned(silence_s: int) -> None:
    followed = street_filter()
    drive(followed, along(100.0, 100), NONE)
    begin = silence_s * SECOND_NS
    estimate = followed.update(begin, seen(hypothesis(900, 0, 0.3)))
    check(estimate)
    assert estimate.state is not State.LOCALIZED and estimate.accepted is None
    truth = along(900.0, 120)
    estimates = drive(followed, truth, NONE, begin_ns=begin + SECOND_NS)
    assert np.mean(errors_m(estimates, truth)[50:] < 25) > 0.95


def test_a_clock_that_jumps_back_begins_anew() -> None:
    followed, fresh = street_filter(), street_filter()
    drive(followed, along(100.0, 100), NONE)
    truth = along(1500.0, 50)
    for one, other in zip(drive(followed, truth, NONE), drive(fresh, truth, NONE), strict=True):
        assert one.state is other.state
        assert [item.probability for item in one.hypotheses] == [item.probability for item in other.hypotheses]


def test_odometry_across_a_jump_of_the_clock_is_not_even_told_of(caplog: pytest.LogCaptureFixture) -> None:
    # Each round of a looped bag begins with it.
    followed = street_filter()
    drive(followed, along(100.0, 100), NONE)
    jumped = followed.update(0, seen(hypothesis(100.0, 0.0, 0.9)), Motion(-500.0, 20.0, 1.0))
    fresh = street_filter().update(0, seen(hypothesis(100.0, 0.0, 0.9)))
    assert [item.probability for item in jumped.hypotheses] == [item.probability for item in fresh.hypotheses]
    assert "begins anew" in caplog.text and "passed over" not in caplog.text


def test_images_a_little_out_of_order_are_taken_as_they_come() -> None:
    followed = street_filter()
    truth = along(100.0, 100)
    drive(followed, truth, NONE, share_right=0.9, probability=0.8)
    late = followed.update(9_850_000_000, seen(hypothesis(*truth[-1], 0.5)))
    assert late.state is State.LOCALIZED and late.stamp_ns == 9_850_000_000
    check(late)


def test_a_standing_robot_does_not_grow_sure_of_one_wrong_match() -> None:
    still = Motion(0.0, 0.0, 0.0)
    followed = street_filter()
    first = followed.update(0, seen(hypothesis(700, 0, 0.3)))
    for number in range(1, 100):
        last = followed.update(number * 10**8, seen(hypothesis(700, 0, 0.3)), still)
        assert last.accepted is None
    assert last.hypotheses[0].probability < 0.75
    assert first.hypotheses[0].probability == pytest.approx(0.3, abs=0.02)


def test_a_street_that_looks_the_same_twice_stays_two_places_until_something_tells() -> None:
    followed = street_filter()
    truth = along(300.0, 60)
    for number, motion in enumerate(simulate_odometry(truth, np.zeros(60))):
        x_m = truth[number, 0]
        twice = seen(hypothesis(x_m, 0, 0.45), hypothesis(x_m + 1000, 0, 0.45))
        estimate = followed.update(number * 10**8, twice, motion)
        assert estimate.accepted is None
    places = sorted(item.position_m[0] for item in estimate.hypotheses[:2])
    assert places == pytest.approx([truth[-1, 0], truth[-1, 0] + 1000], abs=5)
    assert [item.probability for item in estimate.hypotheses[:2]] == pytest.approx([0.5, 0.5], abs=0.05)


def test_a_revisited_place_is_recognised_from_wherever_odometry_has_drifted_to() -> None:
    followed = street_filter()
    truth = along(100.0, 100)
    drive(followed, truth, simulate_odometry(truth, np.zeros(100)))
    # No image for 200 m, and a wheel of a wrong size: 15 % too far.
    for number in range(100, 200):
        followed.update(number * 10**8, None, Motion(2.3, 0.0, 0.0, np.diag([0.5, 0.01, 1e-5])))
    back = along(truth[-1, 0] + 200.0, 150)
    estimates = drive(followed, back, simulate_odometry(back, np.zeros(150)), begin_ns=20 * SECOND_NS)
    assert np.mean(errors_m(estimates, back)[75:] < 15) > 0.9


def test_beside_the_map_wrong_matches_do_not_pull_a_known_robot_away() -> None:
    followed = street_filter()
    truth = along(1700.0, 220)
    motions = simulate_odometry(truth, np.zeros(220))
    drive(followed, truth[:150], motions[:150])
    # Past the end of the street, where nothing can be recognised and every match is a wrong one.
    wrong = {"share_right": 0.0, "probability": 0.1, "begin_ns": 15 * SECOND_NS, "seed": 2}
    estimates = drive(followed, truth[150:], motions[150:], **wrong)
    assert np.mean(errors_m(estimates, truth[150:]) < 25) > 0.95


def test_black_frames_tell_nothing() -> None:
    one, other = street_filter(), street_filter()
    for followed in (one, other):
        drive(followed, along(100.0, 50), NONE)
    with_black = one.update(5 * SECOND_NS, seen(hypothesis(1700, 0, 0.0)))
    without = other.update(5 * SECOND_NS, None)
    assert [item.probability for item in with_black.hypotheses] == [item.probability for item in without.hypotheses]


@pytest.mark.parametrize(
    "motion",
    [
        Motion(math.nan, 0.0, 0.0),
        Motion(0.8, 0.0, math.inf),
        Motion(0.8, 0.0, 0.0, np.full((3, 3), np.nan)),
        Motion(0.8, 0.0, 0.0, -np.eye(3)),
        Motion(5000.0, 0.0, 0.0),
    ],
)
def test_odometry_that_cannot_be_is_passed_over(motion: Motion) -> None:
    broken, absent = street_filter(), street_filter()
    for followed in (broken, absent):
        drive(followed, along(100.0, 50), NONE)
    one, other = broken.update(5 * SECOND_NS, None, motion), absent.update(5 * SECOND_NS, None)
    check(one)
    np.testing.assert_array_equal(one.hypotheses[0].position_m, other.hypotheses[0].position_m)


def test_reset_forgets_everything() -> None:
    followed = street_filter()
    drive(followed, along(100.0, 50), NONE)
    followed.reset()
    assert followed.update(5 * SECOND_NS, None).hypotheses == ()


def test_altitude_is_told_where_the_map_knows_it() -> None:
    followed = street_filter()
    for number in range(20):
        estimate = followed.update(number * 10**8, seen(hypothesis(100 + 0.8 * number, 0, 0.8, z_m=240.0)))
    assert estimate.hypotheses[0].position_m[2] == pytest.approx(240, abs=1)
    assert np.isnan(street_filter().update(0, seen(hypothesis(100, 0, 0.8))).hypotheses[0].position_m[2])


# --- whatever comes in

STEPS = st.lists(
    st.tuples(
        st.integers(-3 * SECOND_NS, 10**12),
        st.lists(
            st.tuples(
                st.floats(-1e7, 1e7),
                st.floats(-1e7, 1e7),
                st.floats(0, 1),
                st.one_of(st.just(math.nan), st.floats(-math.pi, math.pi)),
                st.floats(1e-3, 1e4),
            ),
            max_size=6,
        ),
        st.one_of(st.none(), st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(-4, 4))),
    ),
    min_size=1,
    max_size=12,
)


@given(STEPS)
def test_probabilities_and_covariances_are_sound_whatever_comes_in(steps: list) -> None:
    followed, stamp = street_filter(), 0
    for elapsed, places, moved in steps:
        stamp += elapsed
        answer = seen(*(hypothesis(x, y, p, yaw, sigma) for x, y, p, yaw, sigma in places)) if places else None
        estimate = followed.update(stamp, answer, None if moved is None else Motion(*moved))
        check(estimate)
        mixture = followed._belief.mixture
        assert mixture.weight.sum() + math.exp(mixture.log_lost) == pytest.approx(1.0, abs=1e-9)
        assert len(mixture) <= followed.config.max_components
        far_apart = [item for item in estimate.hypotheses if _alone(item, estimate.hypotheses)]
        assert sum(item.probability for item in far_apart) <= 1.0 + 1e-3


def _alone(item, items) -> bool:
    """Whether no other hypothesis can count the same ground."""
    return all(other is item or np.linalg.norm((other.position_m - item.position_m)[:2]) > 50 for other in items)


# --- settings and states


@pytest.mark.parametrize(
    "changes",
    [
        {"speed_mps": 0.0},
        {"mapped_share": 1.0},
        {"confirmations": 2.5},
        {"max_sigma_m": math.nan},
        {"threshold": 1.5},
        {"speed_mps": None},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        FilterConfig(**changes)


def test_states_go_up_by_confirmation_and_down_by_doubt() -> None:
    states = StateMachine(threshold=0.9, leave_threshold=0.5, candidate_threshold=0.3, confirmations=3)

    def after(*updates: tuple[float, bool]) -> list[str]:
        return [states.update(*update).value for update in updates]

    assert after((0.2, True), (0.4, True), (0.2, True), (0.1, True)) == ["LOST", "CANDIDATE", "CANDIDATE", "LOST"]
    assert after((0.95, True), (0.95, True), (0.95, True)) == ["CANDIDATE", "CANDIDATE", "LOCALIZED"]
    # Between the thresholds nothing flickers.
    assert after((0.6, True), (0.55, True), (0.92, True)) == ["LOCALIZED"] * 3
    assert after((0.45, True)) == ["CANDIDATE"]
    # Confirmation has to be in a row, and at one place.
    assert after((0.95, True), (0.95, True), (0.8, True), (0.95, True)) == ["CANDIDATE"] * 4
    assert after((0.95, True), (0.95, False), (0.95, True), (0.95, True)) == ["CANDIDATE"] * 3 + ["LOCALIZED"]
    # A place that jumps must be confirmed anew, however sure it is.
    assert after((0.99, False), (0.99, True), (0.99, True)) == ["CANDIDATE", "CANDIDATE", "LOCALIZED"]
    assert after((0.0, False)) == ["LOST"]
