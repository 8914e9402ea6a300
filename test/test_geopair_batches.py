"""Batches: what a method that wants negatives in two views gets, and what each of several processes gets."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from tiny import make_place_set

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair.augment import AugmentConfig, PairAugmentation
from vgssl_core.geopair.batches import BatchLoader, PixelBatch
from vgssl_core.geopair.images import ImageMemory, ImageStore
from vgssl_core.geopair.pairs import PairList
from vgssl_core.imaging import Preprocessing
from vgssl_core.places import read_place_set

SIZE = Preprocessing(32, 24)
PAIRS = PairList(np.array([0, 1]), np.array([[0], [1]]), np.array([[3, 4, 5], [4, 5, 3]]), np.zeros(2, bool))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[ImageStore]:
    places = read_place_set(make_place_set(tmp_path_factory.mktemp("places")))
    return [ImageStore(part.paths, SIZE, ImageMemory(64), 1) for part in (places.queries, places.database)]


def batch(stores: list[ImageStore], pairs: PairList, views: int) -> PixelBatch:
    loader = BatchLoader(*stores, PairAugmentation(AugmentConfig(), SIZE), 2, 2, views)
    return next(iter(loader.batches(pairs, (0, 0, 0))))


def test_two_views_of_a_negative_are_augmented_independently(stores: list[ImageStore]) -> None:
    made, again = batch(stores, PAIRS, 2), batch(stores, PAIRS, 2)
    assert made.negatives.shape == made.negatives_y.shape == (2, 3, 24, 32, 3)
    for first, second in zip(made.negatives.reshape(6, -1), made.negatives_y.reshape(6, -1), strict=True):
        assert not np.array_equal(first, second)
    assert np.array_equal(made.negatives_y, again.negatives_y)
    # The pair itself is what it is without them.
    assert np.array_equal(made.x, batch(stores, PAIRS, 1).x)


def test_one_view_of_a_negative_is_the_image_itself(stores: list[ImageStore]) -> None:
    made = batch(stores, PAIRS, 1)
    assert np.array_equal(made.negatives[0, 1], stores[1][4]) and made.negatives_y.shape == (2, 0, 24, 32, 3)


@pytest.mark.parametrize("views", [1, 2])
def test_no_negatives_have_no_views(stores: list[ImageStore], views: int) -> None:
    made = batch(stores, replace(PAIRS, negatives=np.zeros((2, 0), np.int64)), views)
    assert made.negatives.shape == made.negatives_y.shape == (2, 0, 24, 32, 3)


def many_pairs(count: int) -> PairList:
    rng = np.random.default_rng(0)
    positives, negatives = rng.integers(0, 6, (count, 3)), rng.integers(0, 6, (count, 2))
    return PairList(rng.integers(0, 2, count), positives, negatives, rng.random(count) < 0.5)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_all_processes_are_the_batches_of_one(stores: list[ImageStore], world: int, views: int) -> None:
    augmentation, pairs = PairAugmentation(AugmentConfig(jitter=0.3, swap=0.5), SIZE), many_pairs(20)
    whole = list(BatchLoader(*stores, augmentation, 6, 2, views).batches(pairs, (1, 2, 3), 1))
    loaders = [BatchLoader(*stores, augmentation, 6, 1, views, rank, world) for rank in range(world)]
    shares = [list(loader.batches(pairs, (1, 2, 3), 1)) for loader in loaders]
    assert len(whole) == 2 and [batch.rows.tolist() for batch in whole] == [[*range(6, 12)], [*range(12, 18)]]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part.rows) for part in parts] == [6 // world] * world
        for field in fields(batch):
            joined = np.concatenate([getattr(part, field.name) for part in parts])
            assert np.array_equal(joined, getattr(batch, field.name)), field.name


def test_a_batch_that_processes_cannot_share_is_refused(stores: list[ImageStore]) -> None:
    with pytest.raises(ConfigError, match=r"7 queries .* 2 processes: .*--batch_size"):
        BatchLoader(*stores, PairAugmentation(AugmentConfig(), SIZE), 7, 1, rank=1, world=2)


def test_every_positive_of_a_query_comes_and_every_image_is_counted(stores: list[ImageStore]) -> None:
    still = PairAugmentation(AugmentConfig(flip=0.0), SIZE)
    pairs = many_pairs(4)
    made = next(iter(BatchLoader(*stores, still, 4, 2).batches(pairs, (0, 0, 0))))
    for row, (first, *further) in enumerate(pairs.positives):
        assert np.array_equal(made.y[row], stores[1][first])
        assert all(np.array_equal(made.positives[row, i], stores[1][index]) for i, index in enumerate(further))
    assert made.images == 4 * (1 + 3 + 2)


def test_identical_pairs_show_one_database_image_twice(stores: list[ImageStore]) -> None:
    still = PairAugmentation(AugmentConfig(flip=0.0, crop_area=(1.0, 1.0), crop_ratio=(4 / 3, 4 / 3)), SIZE)
    pairs = PairList(np.array([5, 1]), np.array([[5], [1]]), np.zeros((2, 0), np.int64), np.array([True, False]))
    made = next(iter(BatchLoader(*stores, still, 2, 2).batches(pairs, (0, 0, 0))))
    assert np.array_equal(made.x[0], stores[1][5]) and np.array_equal(made.y[0], stores[1][5])
    assert np.array_equal(made.x[1], stores[0][1])


def test_an_image_that_no_longer_decodes_ends_the_batches_with_its_name(tmp_path: Path) -> None:
    places = read_place_set(make_place_set(tmp_path))
    queries, database = (ImageStore(part.paths, SIZE, ImageMemory(0), 1) for part in (places.queries, places.database))
    queries.paths[1].write_bytes(b"")
    loader = BatchLoader(queries, database, PairAugmentation(AugmentConfig(), SIZE), 2, 2)
    with pytest.raises(DataError, match=r"does not decode \(0 bytes\)"):
        list(loader.batches(PAIRS, (0, 0, 0)))
