"""A few pairs to overfit: pairs of different images, whichever kind of set they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pairs import place_set, scattered

from vgssl_core.geopair import validation
from vgssl_core.geopair.distributed import Processes
from vgssl_core.geopair.overfit import few_pairs
from vgssl_core.geopair.pairs import GeoPairs, PairConfig
from vgssl_core.geopair.validation import Validation
from vgssl_core.imaging import Preprocessing
from vgssl_core.places import PlaceSet


def test_few_pairs_of_a_set_with_queries_are_those_queries_with_a_positive_each() -> None:
    places = scattered(1)
    few = few_pairs(places, PairConfig(), 6)
    pairs = GeoPairs(few, PairConfig())
    assert len(pairs) == len(few.queries) == 6 and 1 <= len(few.database) <= 6 and not pairs.own_streets


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("images", "count"), [(20, 20), (200, 4), (200, 2), (200, 9)])
def test_few_images_of_ones_own_streets_pair_with_each_other_and_never_with_themselves(
    images: int, count: int, own: bool
) -> None:
    config = PairConfig(own_streets=own)
    few = few_pairs(place_set(np.c_[np.arange(images) * 3.0, np.zeros(images)]), config, count)
    pairs = GeoPairs(few, config)
    assert pairs.own_streets and len(pairs) == len(few.database) and 2 <= len(pairs) <= count
    assert all(query not in pairs.positives(query) for query in range(len(pairs)))


def test_recall_within_one_set_never_finds_the_image_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    images = place_set(np.c_[np.arange(4) * 20.0, np.zeros(4)]).database
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 200.0, 15.0]))  # of another image, 0 finds 1, and all others err
    monkeypatch.setattr(validation, "embed_store", lambda *_: torch.stack([angles.cos(), angles.sin()], dim=1))
    monkeypatch.setattr(validation, "_ROWS", 3)
    alone = PlaceSet("drive", Path("."), images, images)
    measure = Validation(alone, range(4), range(4), Preprocessing(32, 32), radius_m=25.0)  # type: ignore[arg-type]
    recall = measure.recall(None, Processes(torch.device("cpu")))  # type: ignore[arg-type]
    assert recall == {1: 25.0, 5: 100.0, 10: 100.0}
