"""The stores of one training stay within its memory together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny import make_place_set

from vgssl_core.geopair.images import ImageMemory, ImageStore
from vgssl_core.imaging import Preprocessing
from vgssl_core.places import read_place_set

#: Three images of it are one MiB and a little.
SIZE = Preprocessing(400, 300)


def test_stores_share_the_memory_in_their_order(tmp_path: Path) -> None:
    places = read_place_set(make_place_set(tmp_path, count=6, queries=2))
    memory = ImageMemory(2)
    first = ImageStore(places.queries.paths, SIZE, memory, 1)
    assert memory.free_bytes == 2 * 2**20 - 2 * 400 * 300 * 3
    second = ImageStore(places.database.paths, SIZE, memory, 1)  # does not fit: takes nothing
    third = ImageStore(places.queries.paths, SIZE, memory, 1)
    assert memory.free_bytes == 2 * 2**20 - 4 * 400 * 300 * 3
    assert all(np.array_equal(store[1], first[1]) for store in (second, third))


def test_no_memory_keeps_nothing(tmp_path: Path) -> None:
    places = read_place_set(make_place_set(tmp_path))
    memory = ImageMemory(0)
    assert ImageStore(places.database.paths, SIZE, memory, 1)[0].shape == (300, 400, 3)
    assert memory.free_bytes == 0
