"""The index of a map: chosen, built, measured, searched, and never trusted further than its candidates."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from index_support import COUNT, DIMENSION, KINDS, entry_of, faiss, graph_entry, make_map, needs_faiss
from map_support import positions, unit_rows
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError, MapError
from vgssl_core.geomap import GeoMap, load_map, reindex
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.changes import add_images
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.index.build import EFFORTS, write_index
from vgssl_core.geomap.index.choice import bytes_per_image, choose_index
from vgssl_core.geomap.index.search import IndexedSearch
from vgssl_core.geomap.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", params=KINDS)
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map with an index; tests only read it."""
    return make_map(tmp_path_factory.mktemp("indexed") / "map", request.param)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A map without index, that a test may change."""
    return make_map(tmp_path / "map")


# --- choice


@pytest.mark.parametrize(
    ("count", "dimension", "memory_mb", "kind", "word"),
    [
        (10_000, 1024, None, "exact", "one by one"),
        (60_000, 256, None, "exact", "one by one"),
        (100_000, 256, None, "hnsw", "400 MB are given"),
        (100_000, 256, 40, "ivf_pq", "40 MB are given"),
        (1_000_000, 256, None, "ivf_pq", "400 MB are given"),
        (1_000_000, 256, 1000, "hnsw", "1000 MB are given"),
        (1_000_000, 256, 100, "ivf_pq", "100 MB are given"),
        (1_000_000, 256, 10, "exact", "even in ivf_pq"),
        (1, 1, 0.001, "exact", "one by one"),
    ],
)
def test_the_index_is_chosen_by_size_and_memory_and_says_why(
    count: int, dimension: int, memory_mb: float | None, kind: str, word: str
) -> None:
    choice = choose_index(count, dimension, memory_mb)
    assert choice.kind == kind
    assert word in choice.reason
    assert choice.megabytes <= (memory_mb or 400)
    for asked in ("exact", *KINDS):
        assert choose_index(count, dimension, memory_mb, asked).kind == asked


def test_an_unknown_kind_or_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="annoy"):
        choose_index(10, 10, kind="annoy")
    for budget in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="budget"):
            choose_index(10, 10, budget)


@needs_faiss
def test_the_predicted_size_is_that_of_the_file(indexed: Path) -> None:
    entry = entry_of(indexed)
    assert entry.quality.bytes_per_image == pytest.approx(bytes_per_image(entry.kind, COUNT, DIMENSION), rel=0.15)


# --- search


@needs_faiss
def test_an_index_answers_with_the_order_and_distances_of_exact_search(indexed: Path) -> None:
    geomap = load_map(indexed)
    queries = unit_rows(80, DIMENSION, seed=9)
    near, exact = geomap.search(queries, 10), geomap.search(queries, 10, exact=True)
    found = (near.indices[:, :, None] == exact.indices[:, None, :]).any(axis=2)
    assert found.mean() > 0.95
    every = geomap.search(queries, COUNT, exact=True)
    for row in range(len(queries)):
        distance_of = dict(zip(every.indices[row].tolist(), every.distances[row].tolist(), strict=True))
        assert near.distances[row].tolist() == [distance_of[index] for index in near.indices[row].tolist()]
    assert (np.diff(near.distances, axis=1) >= 0).all()
    alone = geomap.search(queries[7], 10)
    np.testing.assert_array_equal(alone.indices[0], near.indices[7])
    np.testing.assert_array_equal(alone.distances[0], near.distances[7])


@needs_faiss
def test_the_measured_quality_is_in_the_manifest_and_in_the_description(indexed: Path) -> None:
    geomap, entry = load_map(indexed), entry_of(indexed)
    quality = entry.quality
    assert 0.9 < quality.recall_at_10 <= 1
    assert quality.recall_at_1 >= 0.98
    assert 0 < quality.p50_ms <= quality.p99_ms
    assert quality.bytes_per_image == round(entry.bytes / COUNT, 1)
    assert entry.bytes == (indexed / entry.file).stat().st_size
    text = "\n".join(describe(geomap))
    assert f"recall@1 {quality.recall_at_1:.3f}" in text
    assert f"{quality.p99_ms:.2f} ms" in text
    assert f"{entry.kind}, faiss" in geomap.search_name


@needs_faiss
def test_a_query_for_which_the_index_finds_too_few_is_searched_exactly(indexed: Path) -> None:
    geomap = load_map(indexed)
    queries = unit_rows(5, DIMENSION, seed=3)
    near, exact = geomap.search(queries, COUNT), geomap.search(queries, COUNT, exact=True)
    np.testing.assert_array_equal(near.indices, exact.indices)
    np.testing.assert_array_equal(near.distances, exact.distances)


@needs_faiss
@pytest.mark.parametrize("kind", KINDS)
def test_images_that_came_after_the_index_are_found_beside_it(kind: str, plain: Path) -> None:
    reindex(plain, kind)
    new = unit_rows(50, DIMENSION, seed=77)
    add_images(plain, new, "model", positions(50, seed=77))
    geomap = load_map(plain)
    assert geomap.index is not None
    assert (geomap.index.count, len(geomap)) == (COUNT, COUNT + 50)
    matches = geomap.search(new, 3)
    assert (matches.distances[:, 0] == 0).all()
    assert sorted(matches.indices[:, 0]) == list(range(COUNT, COUNT + 50))
    old = geomap.search(geomap.descriptors(slice(0, COUNT)), 1)
    assert (old.indices[:, 0] == np.arange(COUNT)).mean() > 0.97
    assert "50 images beside it" in geomap.search_name


def test_candidates_out_of_the_map_are_refused() -> None:
    rows = Blocks([unit_rows(10, 4)])
    entry = graph_entry("index-00000000.faiss", "0" * 64, 1)
    if faiss is None:
        pytest.skip("FAISS is not installed")
    for wrong in (10, -2, 2**40):
        fake = SimpleNamespace(search=lambda queries, k, wrong=wrong: (None, np.full((len(queries), k), wrong)))
        with pytest.raises(MapError, match="does not hold"):
            IndexedSearch(fake, entry, rows).search(unit_rows(2, 4), 3)


@needs_faiss
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5])
def test_the_smallest_maps_can_have_any_index(kind: str, count: int, tmp_path: Path) -> None:
    rows = unit_rows(count, 6)
    rows[:, 0] = 0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for name, blocks in (("once", Blocks([rows])), ("equal", Blocks([rows[:1].repeat(count, axis=0)]))):
        parameters = write_index(blocks, kind, tmp_path / name)
        index = faiss.read_index(str(tmp_path / name))
        entry = replace(graph_entry(name, "0" * 64, 1), kind=kind, count=count)
        entry = replace(entry, parameters={**parameters, **EFFORTS[kind][0]})
        indices, distances = IndexedSearch(index, entry, blocks).search(rows, count)
        exact = ExactSearch(blocks).search(rows, count)
        np.testing.assert_array_equal(indices, exact[0])
        np.testing.assert_array_equal(distances, exact[1])


# --- reindex


@needs_faiss
def test_a_new_index_replaces_the_old_one_which_its_readers_keep(plain: Path) -> None:
    reindex(plain, "hnsw")
    reader, first = load_map(plain), entry_of(plain)
    queries = unit_rows(20, DIMENSION, 4)
    before = reader.search(queries, 5)
    second = reindex(plain, "ivf_pq")
    assert second is not None
    assert second.count == COUNT
    assert sorted(os.listdir(plain)) == sorted(["map.yaml", "segments", second.file])
    assert first.file != second.file
    np.testing.assert_array_equal(reader.search(queries, 5).indices, before.indices)
    assert reindex(plain) is None  # auto: a small map needs none
    assert sorted(os.listdir(plain)) == ["map.yaml", "segments"]
    assert load_map(plain).index is None


def test_what_is_no_map_gets_no_index(tmp_path: Path) -> None:
    with pytest.raises(MapError, match="no map"):
        reindex(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import logging, sys
from vgssl_core.geomap import reindex
print("ready", flush=True)
while True:
    reindex(sys.argv[1], "hnsw")
    reindex(sys.argv[1], "ivf_pq")
"""


@needs_faiss
def test_a_kill_at_any_moment_of_an_indexing_leaves_a_map_that_answers(plain: Path, soak: bool) -> None:
    expected = load_map(plain).search(unit_rows(10, DIMENSION, 6), 1).distances
    rng = random.Random(0)
    for _ in range(20 if soak else 3):
        command = [sys.executable, "-c", KILLED, str(plain)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 1.5))
        child.kill()
        assert child.wait(60) == -signal.SIGKILL
        geomap = load_map(plain)
        geomap_answers(geomap, expected)
    entry = reindex(plain, "hnsw")
    assert entry is not None
    assert sorted(os.listdir(plain)) == sorted(["map.yaml", "segments", entry.file])
    assert read_manifest(plain).index == entry.to_dict()


def geomap_answers(geomap: GeoMap, expected: NDArray[np.float32]) -> None:
    queries = unit_rows(10, DIMENSION, 6)
    np.testing.assert_array_equal(geomap.search(queries, 1, exact=True).distances, expected)
    assert (geomap.search(queries, 1).distances == expected).mean() > 0.8
