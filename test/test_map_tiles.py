"""Tiles that are loaded and dropped as the robot moves."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from map_support import PRAGUE, make_images, quick_disk  # noqa: F401

from vgssl_core.errors import ConfigError, DataError, MapError
from vgssl_core.geomap import TiledMap, add_images, build_map, compact, load_map
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.geomap.tiles import tile_bytes
from vgssl_core.localization import Localizer, Region

DIMENSION = 256


def make_map(path: Path, **named: Any) -> Path:
    """600 images in 4 x 4 tiles of 500 m."""
    images = make_images(600, extent_m=999.0, dimension=DIMENSION, datum=None)
    build_map(path, images.descriptors, "model-a", images.positions, tile_m=500.0, **named)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_map(tmp_path_factory.mktemp("tiles") / "map")


def cost(path: Path, tiles: int) -> int:
    """What the largest tiles take together."""
    manifest = read_manifest(path)
    return sum(sorted(tile_bytes(item, manifest.dimension) for item in manifest.segments)[-tiles:])


def mapped_bytes(folder: Path) -> int:
    """Bytes of this process's memory that come from files below a folder."""
    resident, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = str(folder) in line
        elif ours and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return resident


def test_on_a_drive_the_tiles_stay_within_the_budget_and_answer_as_the_whole_map_does(whole: Path) -> None:
    queries = make_images(3, seed=1, dimension=DIMENSION).descriptors
    everywhere = load_map(whole).search(queries, 600)
    starts = np.cumsum([0, *(item.count for item in read_manifest(whole).segments)])
    assert mapped_bytes(whole) == 0
    budget = cost(whole, 5)
    tiled, visited = TiledMap(whole, budget), set()
    for step in np.linspace(-1.0, 1.0, 21):
        tiled.move_to(1000.0 * step, 900.0 * np.sin(3.0 * step))
        visited.update(tiled.loaded)
        assert 0 < tiled.loaded_bytes <= budget
        assert 4 <= len(tiled.loaded) < 16
        inside = np.concatenate([np.arange(starts[tile], starts[tile + 1]) for tile in tiled.loaded])
        for k in (1, 7, 1000):
            found = tiled.search(queries, k)
            for row in range(len(queries)):
                loaded = np.isin(everywhere.indices[row], inside)
                np.testing.assert_array_equal(found.indices[row], everywhere.indices[row][loaded][:k])
                np.testing.assert_array_equal(found.distances[row], everywhere.distances[row][loaded][:k])
        # Two files per tile, each of which ends within a page.
        assert tiled.loaded_bytes / 2 < mapped_bytes(whole) <= budget + len(tiled.loaded) * 2 * 4096
    assert len(visited) > 10


def test_fp16_tiles_count_as_what_they_take_in_memory(tmp_path: Path) -> None:
    half = make_map(tmp_path / "half", precision="fp16")
    tiled = TiledMap(half, cost(half, 3))
    tiled.move_to(0.0, 0.0)
    assert tiled.loaded_bytes >= sum(tiled.manifest.segments[tile].count for tile in tiled.loaded) * DIMENSION * 4


def test_a_robot_at_a_border_does_not_load_and_drop_by_turns(whole: Path) -> None:
    for tiles in (1, 2, 3, 5):
        tiled = TiledMap(whole, cost(whole, tiles), hysteresis_m=20.0)
        tiled.move_to(0.0, 0.0)
        rng = np.random.default_rng(0)
        # Where four tiles meet; within half the hysteresis.
        changes = [tiled.move_to(*rng.uniform(-7.0, 7.0, 2)) for _ in range(200)]
        assert sum(changes) <= 1, tiles


@pytest.mark.parametrize("tiles", [1, 2, 4])
def test_a_loaded_tile_is_never_dropped_while_the_robot_stands_in_it(tiles: int, whole: Path) -> None:
    tiled = TiledMap(whole, cost(whole, tiles), hysteresis_m=20.0)
    manifest, rng, place = tiled.manifest, np.random.default_rng(1), np.zeros(2)
    low, high = (np.array([getattr(item, name) for item in manifest.segments]) for name in ("low_m", "high_m"))
    changes = 0
    for _ in range(300):
        place = np.clip(place + rng.normal(0, 40.0, 2), -1000, 1000)
        here = set(np.flatnonzero(((low <= place) & (place <= high)).all(axis=1)).tolist())
        before = set(tiled.loaded)
        changes += tiled.move_to(*place)
        assert before & here <= set(tiled.loaded)
        deep = ((low + 21.0 <= place) & (place <= high - 21.0)).all(axis=1)
        assert set(np.flatnonzero(deep).tolist()) <= set(tiled.loaded)
    assert changes > 5


def test_poses_and_sources_of_any_image_are_there_loaded_or_not(whole: Path) -> None:
    geomap, tiled = load_map(whole), TiledMap(whole, cost(whole, 2))
    indices = np.random.default_rng(2).permutation(600)[:50]
    for _ in range(2):
        np.testing.assert_array_equal(tiled.positions_m[indices], geomap.positions_m[indices])
        np.testing.assert_array_equal(tiled.yaw_rad[indices], geomap.yaw_rad[indices])
        tiled.move_to(0.0, 0.0)
    np.testing.assert_array_equal(tiled.positions_m[7], geomap.positions_m[7])
    np.testing.assert_array_equal(tiled.positions_m[10:90:7], geomap.positions_m[10:90:7])
    assert [tiled.sources[int(index)] for index in indices[:5]] == [geomap.sources[index] for index in indices[:5]]
    assert len(tiled) == len(tiled.positions_m) == len(tiled.sources) == 600
    for index in (-1, 600):
        with pytest.raises(IndexError):
            tiled.positions_m[np.array([index])]


@pytest.mark.parametrize("datum", [None, PRAGUE])
def test_a_localizer_answers_with_tiles_as_with_the_whole_map(datum: Any, tmp_path: Path) -> None:
    images = make_images(100, datum=datum, extent_m=999.0)
    geomap = build_map(tmp_path / "m", images.descriptors, "model-a", images.positions, tile_m=1000.0)
    tiled = TiledMap(tmp_path / "m", 10**9)
    tiled.move_to(0.0, 0.0)
    embedder: Any = SimpleNamespace(model_id="model-a")
    for query in make_images(5, seed=1).descriptors:
        one, other = (Localizer(embedder, stand).localize_descriptor(query) for stand in (geomap, tiled))
        np.testing.assert_array_equal(one.indices, other.indices)
        assert str(one.hypotheses) == str(other.hypotheses)
        region = Region(100.0, -50.0, 700.0)
        one, other = (Localizer(embedder, stand).localize_descriptor(query, region) for stand in (geomap, tiled))
        np.testing.assert_array_equal(one.indices, other.indices)
        assert str(one.hypotheses) == str(other.hypotheses)
    for name in ("model_id", "dimension", "datum", "spacing_m", "calibration", "path"):
        assert getattr(tiled, name) == getattr(geomap, name)
    with pytest.raises(MapError, match=r"model-a.*model-b"):
        Localizer(SimpleNamespace(model_id="model-b"), tiled)


def test_what_cannot_be_answered_is_refused(whole: Path) -> None:
    tiled = TiledMap(whole, cost(whole, 1))
    query = make_images(1, dimension=DIMENSION).descriptors
    with pytest.raises(MapError, match="move_to"):
        tiled.search(query, 3)
    with pytest.raises(DataError, match="position"):
        tiled.move_to(np.nan, 0.0)
    tiled.move_to(0.0, 0.0)
    with pytest.raises(MapError, match="length 256"):
        tiled.search(query[:, :5], 3)
    with pytest.raises(DataError, match="at least 1"):
        tiled.search(query, 0)
    with pytest.raises(MapError, match="budget is"):
        TiledMap(whole, cost(whole, 1) - 1)
    with pytest.raises(ConfigError, match="hysteresis_m"):
        TiledMap(whole, 10**9, hysteresis_m=-1)
    with pytest.raises(MapError, match="no map"):
        TiledMap(whole.parent, 10**9)


def test_a_map_that_is_switched_under_way_is_followed(tmp_path: Path) -> None:
    path = make_map(tmp_path / "m")
    tiled = TiledMap(path, cost(path, 4))
    tiled.move_to(-900.0, -900.0)
    query = make_images(1, dimension=DIMENSION).descriptors
    answer = tiled.search(query, 5).distances
    more = make_images(40, seed=1, dimension=DIMENSION, datum=None)
    add_images(path, more.descriptors, "model-a", more.positions)
    compact(path)
    # What is open goes on answering.
    np.testing.assert_array_equal(tiled.search(query, 5).distances, answer)
    compact(path, tile_m=500.0)
    assert tiled.move_to(900.0, 900.0)
    assert len(tiled) == 640
    assert tiled.manifest == read_manifest(path)
    build_map(path, more.descriptors, "model-b", more.positions, tile_m=500.0)
    with pytest.raises(MapError, match="taken the place"):
        tiled.move_to(-900.0, -900.0)


def test_a_damaged_tile_is_an_error_and_not_a_loop(tmp_path: Path) -> None:
    path = make_map(tmp_path / "m")
    tiled = TiledMap(path, 10**9)
    file = path / "segments" / tiled.manifest.segments[3].name / "poses.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(MapError, match="truncated"):
        tiled.move_to(0.0, 0.0)
