"""Pairs: positives near, the first paper's identical pairs, positions of a batch; what cannot be used is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_pairs import Network, place_set, scattered

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.mining import Miner
from vgssl_core.geopair.pairs import GeoPairs, PairConfig, PairList
from vgssl_core.geopair.streams import Stream, generator

RANDOM = PairConfig(positive="random")


def refuse(indices: np.ndarray) -> None:
    raise AssertionError("an image was embedded")


@given(st.integers(0, 10**6), st.integers(0, 5))
def test_an_epoch_visits_each_usable_query_once_in_its_own_order(seed: int, epoch: int) -> None:
    pairs = GeoPairs(scattered(seed % 7), PairConfig())
    order = pairs.epoch_order(seed, epoch, None)
    assert sorted(order) == sorted(pairs.usable)
    assert np.array_equal(order, pairs.epoch_order(seed, epoch, None))


def test_random_streams_of_different_purposes_never_coincide() -> None:
    # The seed sequence fills up with zeros, so that tuples of different lengths would meet without a purpose.
    places = itertools.product((0, 1), repeat=4)
    draws = [generator(purpose, *at).integers(2**62) for at in places for purpose in Stream]
    draws += [generator(Stream.ORDER, seed, epoch).integers(2**62) for seed in (2, 3) for epoch in (0, 1)]
    assert len(set(draws)) == len(draws)


def test_random_positives_without_negatives_embed_nothing() -> None:
    pairs = GeoPairs(scattered(0), RANDOM)
    assert len(Miner(pairs, 1, 0, refuse, refuse).make_pairs(pairs.usable, np.random.default_rng(0))) == len(pairs)


def test_random_positives_reach_every_positive() -> None:
    pairs = GeoPairs(place_set(np.array([[0.0, 0.0], [5.0, 0.0], [90.0, 0.0]]), np.zeros((1, 2))), RANDOM)
    miner, rng = Miner(pairs, 1, 0, refuse, refuse), np.random.default_rng(0)
    assert {int(miner.make_pairs(pairs.usable, rng).positives[0, 0]) for _ in range(50)} == {0, 1}


@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["nearest", "random"]))
def test_of_several_positives_none_comes_twice_before_all_were_there(seed: int, count: int, positive: str) -> None:
    pairs = GeoPairs(scattered(seed, side_m=60.0), PairConfig(positive=positive))
    made = Network(pairs).miner(pairs, positives=count).make_pairs(pairs.usable, np.random.default_rng(seed))
    for query, chosen in zip(made.queries, made.positives, strict=True):
        own = pairs.positives(query)
        assert set(chosen) <= set(own) and len(set(chosen)) == min(count, len(own))
        assert np.bincount(chosen).max() <= -(-count // len(own))


@given(st.integers(0, 10**6), st.sampled_from([0.25, 0.5, 1.0, 3.0]), st.integers(0, 2))
def test_a_negative_ratio_brings_so_many_identical_pairs_of_nobodys_positives(
    seed: int, ratio: float, negatives: int
) -> None:
    pairs = GeoPairs(scattered(seed), PairConfig(negative_ratio=ratio, mining="random"))
    made = Network(pairs).miner(pairs, 2, negatives).make_pairs(pairs.usable, np.random.default_rng(seed))
    identical = made.identical
    assert identical.sum() == round(ratio * len(pairs)) and len(made) == pairs.rows_of(len(pairs))
    assert sorted(made.queries[~identical]) == sorted(pairs.usable)
    assert (made.positives[identical] == made.queries[identical, None]).all()
    everybodys = np.unique(np.concatenate([pairs.positives(query) for query in pairs.usable]))
    assert not np.isin(made.queries[identical], everybodys).any()
    lonely = len(pairs.database) - len(everybodys)
    assert len(np.unique(made.queries[identical])) == min(lonely, identical.sum())
    far = pairs.database.planar_m[made.negatives[identical]] - pairs.database.planar_m[made.queries[identical]][:, None]
    assert (np.linalg.norm(far, axis=2) > 25).all()


def test_identical_pairs_are_shuffled_in() -> None:
    pairs = GeoPairs(scattered(0, count=200, side_m=600.0), PairConfig(positive="random", negative_ratio=1.0))
    made = Miner(pairs, 1, 0, refuse, refuse).make_pairs(pairs.usable, np.random.default_rng(0))
    halves = made.identical[: len(pairs)].mean(), made.identical[len(pairs) :].mean()
    assert all(0.3 < share < 0.7 for share in halves)


def test_a_negative_ratio_without_a_lonely_image_is_an_error_with_its_remedy() -> None:
    pairs = GeoPairs(place_set(np.zeros((3, 2)), np.zeros((2, 2))), PairConfig(positive="random", negative_ratio=0.5))
    with pytest.raises(DataError, match=r"negative_ratio is 0\.5, .* 3 database images .* set it to 0"):
        Miner(pairs, 1, 0, refuse, refuse).make_pairs(pairs.usable, np.random.default_rng(0))


def test_positions_of_a_batch_are_exact_even_for_a_device_with_single_precision() -> None:
    database, queries = np.array([[0.0, 0.0], [0.01, 0.0], [90.0, 7.0]]), np.array([[0.0, 3.0], [90.0, 5.0]])
    origin = np.array([455_393.47, 5_425_585.62])
    pairs = GeoPairs(place_set(origin + database, origin + queries), RANDOM)
    made = PairList(
        np.array([1, 0, 2]),
        np.array([[2], [0], [2]]),
        np.array([[0, 1], [2, 2], [0, 1]]),
        np.array([False, False, True]),
    )
    queries, negatives = pairs.batch_positions_m(made, np.array([0, 2]))
    assert queries.dtype == np.float64 and queries.shape == (2, 2) and negatives.shape == (2, 2, 2)
    single = np.concatenate([queries, negatives[0]]).astype(np.float32)
    assert np.allclose(single - single[2], [[90.0, 5.0], [90.0, 7.0], [0.0, 0.0], [0.01, 0.0]], atol=1e-5)


def test_queries_without_a_positive_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pairs = GeoPairs(place_set(np.zeros((1, 2)), np.array([[0.0, 5.0], [500.0, 0.0]])), PairConfig())
    assert pairs.dropped == 1 and len(pairs) == 1
    assert "1 of 2 queries have no database image within 10 m" in caplog.text


def test_no_positive_at_all_is_an_error_with_its_remedy() -> None:
    with pytest.raises(DataError, match=r"none of the 1 queries .* --pairs.positive_radius_m"):
        GeoPairs(place_set(np.zeros((1, 2)), np.array([[500.0, 0.0]])), PairConfig())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("positive", "best"),
        ("mining", "hard"),
        ("mining_precision", "int8"),
        ("positive_radius_m", 30),
        ("mining_database", 0),
        ("refresh_queries", -1),
        ("refresh_epochs", 0),
        ("reuse_steps", -1),
        ("mining_memory_mib", 0),
        ("negative_ratio", -0.5),
        ("negative_ratio", float("nan")),
        ("heading_limit_deg", 0.0),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"pairs\.{setting} is {value}"):
        GeoPairs(scattered(0), PairConfig(**{setting: value}))
