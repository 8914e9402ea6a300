"""Mining: exact in blocks and in each mode, economical with embedding, within its memory, resumable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_pairs import Network, metres, place_set, scattered

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.descriptor_cache import DescriptorCache
from vgssl_core.geopair.negatives import random_negatives, search_blocks
from vgssl_core.geopair.pairs import GeoPairs, PairConfig, PairList
from vgssl_core.places import PlaceSet

#: A thousandth of a megabyte per descriptor: hundreds of images do not fit into one, which is the smallest limit.
LONG = 2048
MODES = st.sampled_from(["random", "partial", "full"])
POSITIVES = st.sampled_from(["nearest", "random"])
SEEDS = st.integers(0, 10**6)


def geo_pairs(seed: int, own: bool = False, count: int = 40, **settings: object) -> GeoPairs:
    chosen = scattered(seed, count, side_m=3 * count)
    if own:
        chosen = PlaceSet("drive", chosen.root, chosen.database, chosen.queries.subset([]))
    return GeoPairs(chosen, PairConfig(**settings))  # type: ignore[arg-type]


def mined(pairs: GeoPairs, network: Network, k: int = 1, m: int = 3, **when: int) -> PairList:
    return network.miner(pairs, k, m).make_pairs(pairs.usable, np.random.default_rng(0), **when)


def brute_force(pairs: GeoPairs, network: Network, query: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Positives and the m hardest negatives, best first."""
    similarity = (network.database @ network.queries[query]).numpy()
    order = np.argsort(-similarity, kind="stable")
    distance = metres(pairs.queries, query, pairs.database, np.arange(len(pairs.database)))
    near = set(pairs.positives(query))
    return np.array([i for i in order if i in near]), order[distance[order] > pairs.config.negative_radius_m][:m]


def same(first: PairList, second: PairList) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def subset(pairs: PairList, rows: np.ndarray) -> PairList:
    return PairList(*(getattr(pairs, name)[rows] for name in vars(pairs)))


@given(SEEDS, POSITIVES, MODES, st.integers(0, 4), st.booleans())
def test_positives_lie_within_and_negatives_beyond_their_radius(
    seed: int, positive: str, mining: str, count: int, own: bool
) -> None:
    pairs = geo_pairs(seed, own, positive=positive, mining=mining, mining_database=35)
    made = mined(pairs, Network(pairs, seed=seed), 2, count)
    assert (metres(pairs.queries, made.queries[:, None], pairs.database, made.positives) <= 10.0).all()
    assert made.negatives.shape == (len(pairs), count)
    assert (metres(pairs.queries, made.queries[:, None], pairs.database, made.negatives) > 25.0).all()
    assert all(len(set(row)) == count for row in made.negatives)
    if own:
        assert (made.positives != made.queries[:, None]).all()


@given(SEEDS, st.booleans(), st.integers(1, 5))
def test_full_mining_is_exact(seed: int, own: bool, count: int) -> None:
    pairs = geo_pairs(seed, own, mining="full")
    network = Network(pairs, seed=seed)
    for query, positives, negatives in zip(*list(vars(mined(pairs, network, 1, count)).values())[:3], strict=True):
        nearest, hardest = brute_force(pairs, network, query, count)
        assert positives[0] == nearest[0]
        assert np.array_equal(negatives, hardest)


@given(SEEDS, st.booleans())
def test_blocks_that_fit_the_memory_give_the_answers_of_one_block(seed: int, own: bool) -> None:
    made = []
    for memory in (1, 64):
        pairs = geo_pairs(seed, own, count=100, mining="full", mining_memory_mib=memory)
        pairs.usable = pairs.usable[:30]
        network = Network(pairs, LONG, seed)
        made.append(mined(pairs, network, 2))
        calls = [len(indices) for store, indices in network.calls if store == "database"]
        assert (len(calls) > 3) == (memory == 1)
    assert same(*made)


@given(SEEDS, st.sampled_from(["fp16", "bf16"]))
def test_half_precision_finds_negatives_that_are_as_hard_within_its_tolerance(seed: int, precision: str) -> None:
    pairs = geo_pairs(seed, mining="full", mining_precision=precision)
    network = Network(pairs, 64, seed)
    made = mined(pairs, network)
    for query, positives, negatives in zip(made.queries, made.positives, made.negatives, strict=True):
        similarity = (network.database @ network.queries[query]).numpy()
        nearest, hardest = brute_force(pairs, network, query, 3)
        assert np.allclose(similarity[negatives], similarity[hardest], atol=0.02)
        assert abs(similarity[positives[0]] - similarity[nearest[0]]) < 0.02


@given(SEEDS, POSITIVES, MODES, st.booleans(), st.sampled_from([1, 64]))
def test_no_image_is_embedded_twice_in_a_refresh_and_none_in_vain(
    seed: int, positive: str, mining: str, own: bool, memory: int
) -> None:
    settings = {"positive": positive, "mining": mining, "mining_database": 60, "mining_memory_mib": memory}
    pairs = geo_pairs(seed, own, 100, **settings)
    pairs.usable = pairs.usable[:20]
    network = Network(pairs, LONG, seed)
    mined(pairs, network)
    embedded = network.embedded()
    assert len(set(embedded)) == len(embedded)
    if positive == "random" and mining == "random":
        assert not embedded
    database = {index for store, index in embedded if store == "database"}
    positives = {int(index) for query in pairs.usable for index in pairs.positives(query)}
    others = database - positives - (set(pairs.usable) if own else set())
    assert len(others) <= {"random": 0, "partial": 60, "full": 100}[mining]


@given(SEEDS, st.sampled_from([0, 1, 5, 100]), st.booleans())
def test_what_training_steps_computed_is_not_embedded_again_and_gives_the_same_pairs(
    seed: int, age: int, own: bool
) -> None:
    pairs = geo_pairs(seed, own, mining="full", reuse_steps=5)
    network = Network(pairs, seed=seed)
    fresh = mined(pairs, network)
    network.embedded()
    miner = network.miner(pairs, 1, 3)
    for batch in np.array_split(np.arange(len(fresh)), 5):
        part = subset(fresh, batch)
        miner.note(part, network.queries[part.queries], network.database[part.positives[:, 0]], step=50)
    again = miner.make_pairs(pairs.usable, np.random.default_rng(0), step=50 + age)
    noted = {("database" if own else "queries", int(index)) for index in fresh.queries}
    noted |= {("database", int(index)) for index in fresh.positives[:, 0]}
    assert same(fresh, again)
    assert bool(noted & set(network.embedded())) == (age > 5)


def test_without_reuse_nothing_is_noted() -> None:
    pairs = geo_pairs(3, mining="full")
    network = Network(pairs)
    miner = network.miner(pairs, 1, 3)
    made = miner.make_pairs(pairs.usable, np.random.default_rng(0))
    before = network.embedded()
    miner.note(made, torch.zeros(len(made), 6), torch.zeros(len(made), 6), step=0)
    assert same(made, miner.make_pairs(pairs.usable, np.random.default_rng(0)))
    assert network.embedded() == before


@given(SEEDS, st.booleans())
def test_descriptors_are_renewed_every_so_many_epochs(seed: int, own: bool) -> None:
    pairs = geo_pairs(seed, own, mining="full", refresh_epochs=2)
    network = Network(pairs, seed=seed)
    miner = network.miner(pairs, 1, 3)
    counts = []
    for epoch in range(4):
        for part in np.array_split(pairs.usable, 2):
            miner.make_pairs(part, np.random.default_rng(epoch), epoch=epoch, step=10 * epoch)
        counts.append(len(network.embedded()))
    everything = len(pairs.database) + (0 if own else len(pairs))
    assert counts == [everything, 0, everything, 0]


@given(SEEDS, st.booleans())
def test_a_resumed_training_mines_the_same_pairs(seed: int, own: bool) -> None:
    pairs = geo_pairs(seed, own, mining="partial", mining_database=20, refresh_epochs=3, reuse_steps=4)
    network, other = Network(pairs, seed=seed), Network(pairs, seed=seed)
    miner, resumed = network.miner(pairs, 1, 2), other.miner(pairs, 1, 2)
    made = miner.make_pairs(pairs.usable, np.random.default_rng(0), epoch=0, step=0)
    miner.note(subset(made, np.arange(3)), network.queries[made.queries[:3]] * 0.5, None, step=2)
    resumed.load(miner.state())
    network.embedded()
    for epoch in (1, 2):
        expected, again = (
            one.make_pairs(pairs.usable[::2], np.random.default_rng(epoch), epoch=epoch, step=3)
            for one in (miner, resumed)
        )
        assert same(expected, again)
        assert network.embedded() == other.embedded()


@given(st.integers(1, 3000), st.integers(1, 10**6), st.sampled_from([64, 1024]), st.sampled_from([2, 4]))
def test_blocks_of_the_search_fit_their_memory(queries: int, database: int, dimension: int, value: int) -> None:
    limit = 16 * 2**20
    blocks = search_blocks(limit, queries, database, dimension, value)
    held = (queries + 2 * blocks.database) * dimension * value + 2 * blocks.queries * blocks.database * value
    assert 1 <= blocks.queries <= queries and 1 <= blocks.database <= database
    assert held <= limit


def test_queries_that_fill_the_memory_are_an_error_with_its_remedy() -> None:
    pairs = geo_pairs(0, count=600, mining="full", mining_memory_mib=1)
    with pytest.raises(ConfigError, match=r"mining_memory_mib .* raise it, or lower pairs\.refresh_queries"):
        mined(pairs, Network(pairs, LONG))


def test_a_method_with_negatives_refuses_mining_none() -> None:
    pairs = geo_pairs(0, mining="none")
    with pytest.raises(ConfigError, match=r"pairs\.mining is none, but the method wants 2 .* random, partial or full"):
        Network(pairs).miner(pairs, 1, 2)
    assert mined(pairs, Network(pairs), 1, 0).negatives.shape == (len(pairs), 0)


@pytest.mark.parametrize(
    ("mining", "message"),
    [
        ("random", "only 1 of 2 database images .* lower --pairs.negative_radius_m"),
        ("full", "only 1 of 2 database images .* lower --pairs.negative_radius_m"),
        ("partial", "only [01] of 1 sampled database images .* raise --pairs.mining_database"),
    ],
)
def test_too_few_negatives_are_an_error_that_names_the_query(mining: str, message: str) -> None:
    config = PairConfig(mining=mining, mining_database=1)
    pairs = GeoPairs(place_set(np.array([[0.0, 0.0], [90.0, 0.0]]), np.zeros((1, 2))), config)
    with pytest.raises(DataError, match=rf"0\.jpg: {message}"):
        mined(pairs, Network(pairs), 1, 2)


def test_random_negatives_reach_all_that_are_beyond_the_radius_equally_often() -> None:
    pairs = geo_pairs(1, count=20, mining="random")
    queries = np.repeat(pairs.usable[:1], 4000)
    chosen = random_negatives(pairs, pairs.queries, queries, 2, np.random.default_rng(0))
    far = metres(pairs.queries, queries[0], pairs.database, np.arange(20)) > 25
    frequency = np.bincount(chosen.ravel(), minlength=20) / len(queries)
    assert np.array_equal(frequency > 0, far)
    assert np.allclose(frequency[far], 2 / far.sum(), atol=0.03)


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=12), st.integers(0, 10))
def test_a_cache_holds_the_newest_of_each_image_within_its_limit(notes: list[list[int]], capacity: int) -> None:
    cache = DescriptorCache(10, capacity * 8, torch.float32)
    newest: dict[int, tuple[float, int]] = {}
    for step, indices in enumerate(notes):
        rows = torch.arange(len(indices), dtype=torch.float32)[:, None] + torch.tensor([100.0 * step, 0.0])
        cache.note(np.array(indices, np.int64), rows, step)
        newest.update({index: (float(row[0]), step) for index, row in zip(indices, rows, strict=True)})
    twin = DescriptorCache(10, capacity * 8, torch.float32)
    twin.load(cache.state())
    held = np.flatnonzero(cache.holds(np.arange(10), 0))
    assert len(held) <= capacity and (capacity < 10 or set(held) == set(newest))
    for index in held:
        value, step = newest[index]
        assert not cache.holds(np.array([index]), step + 1).any()
        for one in (cache, twin):
            assert float(one.rows(np.array([index]))[0, 0]) == value
