"""One drive alone: each image finds others of its place, those that teach most first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_pairs import Network, metres, place_set, places

from vgssl_core.errors import DataError
from vgssl_core.geopair.own_streets import own_positives
from vgssl_core.geopair.pairs import GeoPairs, PairConfig
from vgssl_core.places import Places, PlaceSet

CONFIG = PairConfig()


def drive(laps: int = 2, step_m: float = 1.0, side_m: float = 40.0, speed_m_s: float = 1.0, stamps: bool = True):
    """Laps around a square, each a little further out, heading along the way."""
    sides = [((0, 0), (1, 0)), ((1, 0), (1, 1)), ((1, 1), (0, 1)), ((0, 1), (0, 0))]
    positions, headings = [], []
    for lap in range(laps):
        for number, (begin, end) in enumerate(sides):
            for share in np.arange(0, side_m, step_m) / side_m:
                corner = np.array(begin) + share * (np.array(end) - begin)
                positions.append(side_m * corner + 0.5 * lap)
                headings.append((90 - 90 * number) % 360)
    stamp_s = 1000 + np.arange(len(positions)) * step_m / speed_m_s
    return places(np.array(positions), np.array(headings), stamp_s if stamps else None)


def chosen(of: Places, image: int, config: PairConfig = CONFIG) -> list[int]:
    return own_positives(of, config)[image].indices.tolist()


def straight(along_m: list[float], heading_deg: list[float] | None = None, stamp_s: list[float] | None = None):
    return places(np.array([[x, 0.0] for x in along_m]), heading_deg, stamp_s)


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_positives_are_other_images_within_the_radius_whose_views_overlap(seed: int, headed: bool, timed: bool) -> None:
    rng = np.random.default_rng(seed)
    count = 30
    heading = np.where(rng.random(count) < 0.8, rng.uniform(0, 360, count), np.nan) if headed else None
    street = places(rng.uniform(0, 40, (count, 2)), heading, rng.uniform(0, 300, count) if timed else None)
    matrix = own_positives(street, CONFIG)
    distance = np.linalg.norm(street.planar_m[:, None] - street.planar_m, axis=2)
    turn = np.abs((street.heading_deg[:, None] - street.heading_deg + 180) % 360 - 180)
    allowed = (distance <= 10) & ~(turn > 60) & ~np.eye(count, dtype=bool)
    assert not (matrix.toarray() & ~allowed).any()
    assert np.array_equal(matrix.getnnz(axis=1) > 0, allowed.any(axis=1))
    assert matrix.has_sorted_indices


@pytest.mark.parametrize("stamps", [True, False])
def test_another_pass_is_preferred(stamps: bool) -> None:
    street = drive(stamps=stamps)
    lap = len(street) // 2
    for image in range(20, 2 * lap, 37):
        assert {index // lap for index in chosen(street, image)} == {1 - image // lap}


def test_a_short_time_is_no_other_pass() -> None:
    street = drive(speed_m_s=100.0)  # both laps within seconds: one pass, of which no part is preferred
    assert {index // (len(street) // 2) for index in chosen(street, 20)} == {0, 1}


def test_standing_still_is_no_other_pass() -> None:
    rng = np.random.default_rng(0)
    stand = rng.normal(0, 0.2, (300, 2)) + np.array([5.0, 0.0])
    street = places(np.concatenate([[[0.0, 0.0]], stand, [[9.0, 0.0]]]), None, np.arange(302.0))
    assert chosen(street, 5) == [0, 301]


def test_the_next_frame_is_the_last_choice() -> None:
    street = straight([0.0, 1.0, 1.5, 5.0, 9.0], stamp_s=[0.0, 1.0, 2.0, 3.0, 4.0])
    assert chosen(street, 0) == [3, 4]
    lonely = straight([0.0, 1.0, 50.0], stamp_s=[0.0, 1.0, 2.0])
    assert chosen(lonely, 0) == [1]


def test_another_side_is_preferred_up_to_where_views_overlap() -> None:
    street = straight([0.0, 3.0, 5.0, 7.0, 8.0], heading_deg=[0.0, 5.0, 350.0, 40.0, 90.0])
    assert chosen(street, 0) == [3]
    assert chosen(street, 0, PairConfig(heading_limit_deg=30.0)) == [1, 2]
    assert chosen(street, 0, PairConfig(heading_limit_deg=180.0)) == [3, 4]


def test_unknown_headings_are_no_preference() -> None:
    street = straight([0.0, 3.0, 5.0, 7.0], heading_deg=[np.nan, 5.0, 350.0, 90.0])
    assert chosen(street, 0) == [1, 2, 3]


def test_files_in_no_order_of_a_drive_give_no_passes() -> None:
    street = drive(stamps=False)
    mixed = street.subset(np.random.default_rng(0).permutation(len(street)))
    own = own_positives(mixed, CONFIG)
    assert np.diff(own.indptr).mean() > 10  # of both laps
    assert (own != own.T).nnz == 0


def test_a_set_without_queries_trains_on_its_database_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    database = np.concatenate([drive(laps=1).planar_m, [[500.0, 500.0]]])
    pairs = GeoPairs(place_set(database), CONFIG)
    assert pairs.own_streets and pairs.queries is pairs.database
    assert len(pairs) == len(database) - 1 and pairs.dropped == 1
    assert f"1 of {len(database)} images have no other image within 10 m and are left out" in caplog.text


def test_queries_are_left_out_where_the_settings_say_so() -> None:
    chosen_set = place_set(drive(laps=1).planar_m, np.zeros((3, 2)))
    assert len(GeoPairs(chosen_set, CONFIG)) == 3
    pairs = GeoPairs(chosen_set, PairConfig(own_streets=True))
    assert pairs.own_streets and len(pairs) == len(chosen_set.database)


def test_its_queries_and_database_are_embedded_as_one() -> None:
    street = drive(laps=1)
    pairs = GeoPairs(PlaceSet("drive", place_set(street.planar_m).root, street, street.subset([])), CONFIG)
    network = Network(pairs)
    network.miner(pairs, 1, 5).make_pairs(pairs.usable, np.random.default_rng(0))
    assert {store for store, _ in network.embedded()} <= {"database"}


def test_a_drive_without_neighbours_is_an_error_with_its_remedy() -> None:
    message = "no queries, and none of the 2 images has any other image within 10 m: .* --pairs.positive_radius_m"
    with pytest.raises(DataError, match=message):
        GeoPairs(place_set(np.array([[0.0, 0.0], [50.0, 0.0]])), CONFIG)


def test_every_image_of_the_real_drive_finds_a_positive(shared_data) -> None:
    from vgssl_core.places import read_place_set

    drive_set = read_place_set(shared_data / "kitti00_loop")
    pairs = GeoPairs(drive_set, PairConfig(own_streets=True))
    assert pairs.dropped == 0
    nearest_m = [metres(pairs.database, pairs.positives(i), pairs.database, i).min() for i in pairs.usable]
    assert np.median(nearest_m) > CONFIG.near_identical_m
