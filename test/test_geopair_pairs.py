"""Pairs: positives near, negatives far, nearest really nearest; what cannot be used is said."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from vgssl_core.errors import DataError
from vgssl_core.geopair.mining import Miner
from vgssl_core.geopair.pairs import GeoPairs, PairConfig
from vgssl_core.geopair.streams import Stream, generator
from vgssl_core.places import Places, PlaceSet

RANDOM = PairConfig(positive="random")


def places(positions: np.ndarray) -> Places:
    count = len(positions)
    unknown = np.full(count, np.nan)
    paths = tuple(Path(f"{i}.jpg") for i in range(count))
    return Places(paths, positions, unknown, unknown, unknown, unknown, np.full(count, -1, np.int64))


def place_set(database: np.ndarray, queries: np.ndarray) -> PlaceSet:
    return PlaceSet("set", Path("."), places(database), places(queries))


def scattered(seed: int, count: int = 40, side_m: float = 120.0) -> PlaceSet:
    rng = np.random.default_rng(seed)
    database = rng.uniform(0, side_m, (count, 2))
    return place_set(database, database[: count // 2] + rng.uniform(-12, 12, (count // 2, 2)))


def refuse(indices: np.ndarray) -> torch.Tensor:
    raise AssertionError("an image was embedded")


def rows(count: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


@given(st.integers(0, 10**6), st.sampled_from(["nearest", "random"]), st.integers(0, 4))
def test_positives_lie_within_and_negatives_beyond_their_radius(seed: int, positive: str, count: int) -> None:
    chosen = scattered(seed)
    pairs = GeoPairs(chosen, PairConfig(positive=positive))
    queries = pairs.epoch_order(seed, 0, None)
    q, d = rows(len(chosen.queries), 1), rows(len(chosen.database), 2)
    made = Miner(pairs, 1, count, lambda i: q[i], lambda i: d[i]).make_pairs(queries, np.random.default_rng(seed))
    near = chosen.queries.planar_m[made.queries] - chosen.database.planar_m[made.positives[:, 0]]
    assert (np.linalg.norm(near, axis=1) <= 10.0).all()
    far = chosen.queries.planar_m[made.queries][:, None] - chosen.database.planar_m[made.negatives]
    assert made.negatives.shape == (len(queries), count)
    assert (np.linalg.norm(far, axis=2) > 25.0).all()


@given(st.integers(0, 10**6))
def test_mined_images_are_the_nearest_and_the_hardest(seed: int) -> None:
    chosen = scattered(seed)
    pairs = GeoPairs(chosen, PairConfig(positive="nearest"))
    q, d = rows(len(chosen.queries), seed), rows(len(chosen.database), seed + 1)
    made = Miner(pairs, 1, 3, lambda i: q[i], lambda i: d[i]).make_pairs(pairs.usable, np.random.default_rng(0))
    distance = np.linalg.norm(chosen.queries.planar_m[:, None] - chosen.database.planar_m, axis=2)
    for query, positive, negatives in zip(made.queries, made.positives, made.negatives, strict=True):
        similarity = (d @ q[query]).numpy()
        assert similarity[positive] == similarity[distance[query] <= 10].max()
        hardest = np.sort(similarity[distance[query] > 25])[::-1][:3]
        assert np.allclose(similarity[negatives], hardest)


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


def test_queries_without_a_positive_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pairs = GeoPairs(place_set(np.zeros((1, 2)), np.array([[0.0, 5.0], [500.0, 0.0]])), PairConfig())
    assert pairs.dropped == 1 and len(pairs) == 1
    assert "1 of 2 queries have no database image within 10 m" in caplog.text


def test_no_positive_at_all_is_an_error_with_its_remedy() -> None:
    with pytest.raises(DataError, match=r"none of the 1 queries .* --pairs.positive_radius_m"):
        GeoPairs(place_set(np.zeros((1, 2)), np.array([[500.0, 0.0]])), PairConfig())


def test_too_few_negatives_are_an_error_that_names_the_query() -> None:
    pairs = GeoPairs(place_set(np.array([[0.0, 0.0], [90.0, 0.0]]), np.zeros((1, 2))), PairConfig())
    with pytest.raises(DataError, match=r"0\.jpg: only 1 of 2 database images"):
        Miner(pairs, 1, 2, lambda i: rows(len(i), 0), lambda i: rows(2, 1)).make_pairs(
            pairs.usable, np.random.default_rng(0)
        )
