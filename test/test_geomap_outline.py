"""Outlines of descriptors: bounds that hold, a region search that stays exact, and files that are the map's own."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_support import needs_faiss
from map_support import ENGINES, positions, rewrite, unit_rows
from numpy.typing import NDArray

from vgssl_core.errors import MapError
from vgssl_core.geomap import POSE_DTYPE, add_images, build_map, load_map, reindex, verify_map
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.outline import COLUMNS, Outline, open_outline, slack, write_outline
from vgssl_core.geomap.region import RegionSearch
from vgssl_core.storage import sha256

DIMENSION = 160


def near_axes(count: int, axes: int, seed: int = 0, noise: float = 0.02) -> NDArray[np.float32]:
    """Unit rows near a few axes, as those of trained networks are; the axes are the same for all seeds."""
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((DIMENSION, DIMENSION)))[0]
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [rng.standard_normal((count, axes)), noise * rng.standard_normal((count, DIMENSION - axes))], 1
    )
    rows = rows @ turn + 0.5 * turn[0]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def outlines_of(rows: NDArray, folder: Path, covered: int | None = None):
    blocks = Blocks([rows[:covered]])
    entry = write_outline(blocks, folder / "outline-00000000.npy")
    assert entry is not None
    return open_outline(folder, entry, len(blocks), blocks, verify=True)


@settings(deadline=None)
@given(axes=st.integers(1, 40), noise=st.sampled_from([0.0, 1e-4, 0.02]), seed=st.integers(0, 99), odd=st.booleans())
def test_distances_of_outlines_are_never_above_those_of_descriptors(
    axes: int, noise: float, seed: int, odd: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = near_axes(100, axes, seed, noise)
    outlines = outlines_of(rows, tmp_path_factory.mktemp("outlines"))
    # Queries from anywhere, and the rows themselves, whose distance is 0.
    queries = np.concatenate([unit_rows(20, DIMENSION, seed) if odd else near_axes(20, axes, seed + 1), rows[:20]])
    for query, outline in zip(queries.astype(np.float64), outlines.of(queries), strict=True):
        bounds = ((outlines.rows - outline) ** 2).sum(axis=1)
        assert (bounds <= ((rows - query) ** 2).sum(axis=1) + slack(outline)).all()


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(20, 400),
    covered=st.floats(0.1, 1),
    halves=st.booleans(),
    axes=st.integers(2, 40),
    k=st.integers(1, 30),
    radius_m=st.floats(10, 900),
    seed=st.integers(0, 99),
    odd=st.booleans(),
)
def test_a_region_is_searched_exactly_with_outlines_of_some_of_the_images(
    count: int,
    covered: float,
    halves: bool,
    axes: int,
    k: int,
    radius_m: float,
    seed: int,
    odd: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    poses = np.zeros(count, POSE_DTYPE)
    poses["x"], poses["y"] = rng.uniform(-500, 500, (2, count))
    rows = near_axes(count, axes, seed).astype(np.float16 if halves else np.float32)
    queries = unit_rows(2, DIMENSION, seed) if odd else near_axes(2, axes, seed + 1)
    outlines = outlines_of(rows, tmp_path_factory.mktemp("outlines"), max(round(covered * count), 1))
    near = np.flatnonzero(poses["x"] ** 2 + poses["y"] ** 2 <= radius_m**2)
    for use_faiss in ENGINES:
        indices, found = RegionSearch(Blocks([rows]), poses, use_faiss, outlines).search(queries, k, 0.0, 0.0, radius_m)
        assert indices.shape == (2, min(k, len(near)))
        if len(near):
            truth = ExactSearch([rows[near].astype(np.float32)], False).search(queries, min(k, len(near)))
            np.testing.assert_array_equal(indices, near[truth[0]])
            np.testing.assert_array_equal(found, truth[1])


def test_only_near_outlines_have_their_descriptors_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = near_axes(5000, 20)
    poses = np.zeros(len(rows), POSE_DTYPE)
    blocks = Blocks([rows])
    search = RegionSearch(blocks, poses, outline=outlines_of(rows, tmp_path))
    taken: list[int] = []
    take = blocks.take
    monkeypatch.setattr(blocks, "take", lambda indices: (taken.append(indices.size), take(indices))[1])
    monkeypatch.setattr(blocks, "parts", lambda begin, end: iter(()) if begin == end else pytest.fail("all are read"))
    search.search(near_axes(1, 20, seed=1), 10, 0.0, 0.0, 10.0)
    assert 10 < sum(taken) < 300


def test_descriptors_that_no_few_axes_hold_get_no_outlines(tmp_path: Path) -> None:
    path = tmp_path / "outline-00000000.npy"
    assert write_outline(Blocks([unit_rows(2000, DIMENSION)]), path) is None
    assert write_outline(Blocks([near_axes(100, 3)[:, :90]]), path) is None
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "map"
    build_map(folder, near_axes(600, 20), "model", positions(600))
    reindex(folder, "hnsw")
    return folder


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "map"))


@needs_faiss
def test_a_map_with_an_index_has_outlines_and_they_go_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = Outline.of
    monkeypatch.setattr(Outline, "of", lambda self, rows: (asked.append(len(rows)), original(self, rows))[1])
    geomap = verify_map(path)
    assert geomap.index is not None and geomap.index.outline is not None
    assert geomap.size_bytes == sum(file.stat().st_size for file in path.rglob("*.*") if file.name != "map.yaml")
    assert (path / geomap.index.outline.file).stat().st_size == 128 + 4 * COLUMNS * (DIMENSION + 600)
    add_images(path, near_axes(50, 20, seed=3), "model", positions(50, seed=3))
    query = near_axes(1, 20, seed=4)
    longer = verify_map(path)
    inside = np.flatnonzero(np.linalg.norm(longer.positions_m[:, :2], axis=1) <= 800)
    truth = ExactSearch([longer.descriptors(inside)], False).search(query, 10)
    asked.clear()
    around = longer.search_near(query, 10, 0.0, 0.0, 800.0)
    assert asked == [1]
    np.testing.assert_array_equal(around.indices, inside[truth[0]])
    np.testing.assert_array_equal(around.distances, truth[1])
    reindex(path, "exact")
    add_images(path, near_axes(5, 20, seed=5), "model", positions(5, seed=5))  # sweeps what no manifest lists
    assert sorted(os.listdir(path)) == ["map.yaml", "segments"]


@needs_faiss
@pytest.mark.parametrize("what", ["missing", "truncated", "altered", "of others", "axes", "a name outside"])
def test_outlines_that_are_not_the_maps_are_refused(what: str, path: Path) -> None:
    index = load_map(path).index
    assert index is not None and index.outline is not None
    file, entry = path / index.outline.file, index.outline
    content = np.load(file)
    if what == "missing":
        file.unlink()
    elif what == "truncated":
        file.write_bytes(file.read_bytes()[:-4])
    elif what == "altered":
        file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    elif what == "a name outside":
        entry = dataclasses.replace(entry, file="../outline-00000000.npy")
    else:
        if what == "of others":
            content[DIMENSION:] = np.roll(content[DIMENSION:], 1, axis=0)
        else:
            content[:DIMENSION, 1] = content[:DIMENSION, 2]
        np.save(file, content)
        entry = dataclasses.replace(entry, sha256=sha256(file), bytes=file.stat().st_size)
    if what == "a name outside":
        with pytest.raises(MapError):
            rewrite(path, index=dataclasses.replace(index, outline=entry).to_dict())
        return
    rewrite(path, index=dataclasses.replace(index, outline=entry).to_dict())
    with pytest.raises(MapError, match="vgssl map index"):
        load_map(path)


@needs_faiss
def test_verification_looks_at_every_outline(path: Path) -> None:
    index = load_map(path).index
    assert index is not None and index.outline is not None
    file = path / index.outline.file
    content = np.load(file)
    content[DIMENSION + 5] += 0.1  # none that each load looks at
    np.save(file, content)
    entry = dataclasses.replace(index.outline, sha256=sha256(file))
    rewrite(path, index=dataclasses.replace(index, outline=entry).to_dict())
    load_map(path)
    with pytest.raises(MapError, match="other descriptors"):
        verify_map(path)
