"""Batches: what a method that wants negatives in two views gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import make_place_set

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
