"""The index of a map: chosen, built, measured, opened, and never trusted further than its candidates."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_geomap import ENGINES, positions, unit_rows

from vgssl_core.errors import ConfigError, MapError
from vgssl_core.faiss_package import load_faiss, tuned_for
from vgssl_core.geomap import GeoMap, build_map, load_map, reindex
from vgssl_core.geomap.blocks import Blocks, StoredBlocks, to_float32
from vgssl_core.geomap.changes import add_images
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.gpu import GpuCandidates, gpu_count
from vgssl_core.geomap.index.build import EFFORTS, write_index
from vgssl_core.geomap.index.choice import bytes_per_image, choose_index
from vgssl_core.geomap.index.entry import IndexEntry, IndexQuality, parse_index
from vgssl_core.geomap.index.load import open_index
from vgssl_core.geomap.index.measure import simulated_queries
from vgssl_core.geomap.index.search import IndexedSearch
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.storage import sha256

faiss = load_faiss()
needs_faiss = pytest.mark.skipif(faiss is None, reason="FAISS is not installed")
KINDS = ["hnsw", "hnsw_small", "ivf_rabitq"]
COUNT, DIMENSION = 700, 24
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", params=KINDS)
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map with an index; tests only read it."""
    folder = tmp_path_factory.mktemp("indexed") / "map"
    build_map(folder, unit_rows(COUNT, DIMENSION), "model", positions(COUNT))
    reindex(folder, request.param)
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A map without index, that a test may change."""
    build_map(tmp_path / "map", unit_rows(COUNT, DIMENSION), "model", positions(COUNT))
    return tmp_path / "map"


def graph_entry(file: str, checksum: str, size: int) -> IndexEntry:
    """Of a graph of 10 images."""
    parameters = {"ef_search": 16, "refine_factor": 1}
    return IndexEntry("hnsw", file, checksum, size, ("a",), 10, parameters, IndexQuality(1, 1, 1, 1, 1))


def entry_of(folder: Path) -> IndexEntry:
    entry = load_map(folder).index
    assert entry is not None
    return entry


# --- choice


@pytest.mark.parametrize(
    ("count", "dimension", "memory_mb", "kind", "word"),
    [
        (10_000, 1024, None, "exact", "one by one"),
        (60_000, 256, None, "exact", "one by one"),
        (100_000, 256, None, "hnsw", "400 MB are given"),
        (100_000, 256, 40, "hnsw_small", "40 MB are given"),
        (1_000_000, 256, None, "hnsw_small", "400 MB are given"),
        (1_000_000, 256, 1000, "hnsw", "1000 MB are given"),
        (1_000_000, 256, 100, "ivf_rabitq", "100 MB are given"),
        (1_000_000, 256, 10, "exact", "even in ivf_rabitq"),
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


# --- exact search


def test_halves_become_the_floats_that_numpy_makes_of_them() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    expected = halves.astype(np.float32)
    np.testing.assert_array_equal(to_float32(halves).view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(to_float32(halves.reshape(2, -1)[:, ::3]), expected.reshape(2, -1)[:, ::3])


@pytest.mark.parametrize("use_faiss", ENGINES)
def test_a_half_precision_map_is_searched_exactly_without_a_float_copy(use_faiss: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("vgssl_core.geomap.blocks._HALF_BYTES_AT_ONCE", 1 << 16)
    rows, queries = unit_rows(10_000, 64).astype(np.float16), unit_rows(3, 64, 1)
    search = ExactSearch([rows[:4_000], rows[4_000:]], use_faiss)
    search.search(queries, 5)
    tracemalloc.start()
    indices, distances = search.search(queries, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.nbytes  # half of what a float copy takes
    expected = ExactSearch([rows.astype(np.float32)], False).search(queries, 5)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(distances, expected[1])


@needs_faiss
@pytest.mark.parametrize("queries", [1, 100])
def test_a_search_leaves_faiss_as_it_was(queries: int) -> None:
    before = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    with pytest.raises(ZeroDivisionError), tuned_for(faiss, queries):
        assert faiss.cvar.distance_compute_blas_threshold != before[1]
        raise ZeroDivisionError
    assert (faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold) == before


def test_single_rows_are_read_from_the_files_and_not_mapped(tmp_path: Path) -> None:
    parts = [unit_rows(20, 8), unit_rows(30, 8, 1).astype(np.float16)]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part)
    stored = StoredBlocks([np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(2)])
    indices = np.array([[0, 49, 20], [19, 33, 7]])
    np.testing.assert_array_equal(stored.take(indices), Blocks(parts).take(indices))
    assert stored.take(np.empty(0, np.int64)).shape == (0, 8)
    # They are open: what a writer sweeps stays readable.
    (tmp_path / "0.npy").unlink()
    np.testing.assert_array_equal(stored.take(indices), Blocks(parts).take(indices))
    os.truncate(tmp_path / "1.npy", 200)
    with pytest.raises(MapError, match=r"1\.npy ends before row"):
        stored.take(indices)
    with pytest.raises(MapError, match="Cannot read"):
        StoredBlocks(stored_arrays(tmp_path))


def stored_arrays(folder: Path) -> list[np.memmap]:
    np.save(folder / "gone.npy", unit_rows(3, 8))
    gone = np.load(folder / "gone.npy", mmap_mode="r")
    (folder / "gone.npy").unlink()
    return [gone]


class StandardGpuResources:
    """FAISS's of this name; must outlive the index."""

    alive = 0

    def __init__(self) -> None:
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1


class GpuIndexFlatL2:
    """A stand-in with the names and arguments of FAISS's Python bindings (gpu/GpuIndexFlat.h), on the CPU.

    Its arithmetic rounds as another device's may, and it selects no more neighbours than CUDA's kernel.
    """

    def __init__(self, provider: StandardGpuResources, dims: int) -> None:
        assert isinstance(provider, StandardGpuResources)
        self.rows = np.empty((0, dims), np.float32)

    def add(self, x: NDArray[np.float32]) -> None:
        assert x.dtype == np.float32 and x.flags.c_contiguous
        self.rows = np.concatenate([self.rows, x])

    def search(self, x: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        assert x.dtype == np.float32 and x.flags.c_contiguous
        if not (StandardGpuResources.alive and k <= 2048):
            raise RuntimeError("Error in getMaxKSelection")
        squares = ((self.rows[None] - x[:, None]) ** 2).sum(axis=2)
        squares *= 1 + 1e-6 * np.random.default_rng(0).standard_normal(squares.shape)
        found = np.argsort(squares, axis=1)[:, :k]
        return np.take_along_axis(squares, found, 1).astype(np.float32), found


@needs_faiss
@pytest.mark.parametrize("halves", [False, True])
def test_the_gpu_of_an_installed_faiss_gives_the_same_results(halves: bool, monkeypatch: Any) -> None:
    rows = unit_rows(3000, 16).astype(np.float16 if halves else np.float32)
    queries = unit_rows(4, 16, 1)
    expected = ExactSearch([rows], True, use_gpu=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", StandardGpuResources, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatL2", GpuIndexFlatL2, raising=False)
    search = ExactSearch([rows[:1000], rows[1000:]])
    assert search.name.endswith("on the GPU")
    for k in (1, 10, 3000):
        for mine, theirs in zip(search.search(queries, k), expected.search(queries, k), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@needs_faiss
def test_the_cpu_searches_where_the_gpu_has_no_room_and_the_log_says_so(monkeypatch: Any, caplog: Any) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", StandardGpuResources, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatL2", full, raising=False)
    search = ExactSearch([unit_rows(10)])
    assert not search.name.endswith("GPU")
    assert "out of memory" in caplog.text
    assert search.search(unit_rows(1), 1)[0].tolist() == [[0]]


@needs_faiss
def test_the_names_of_the_gpu_are_those_of_an_installed_faiss_that_has_one() -> None:
    if not gpu_count(faiss):
        assert faiss.get_num_gpus() == 0 or not hasattr(faiss, "GpuIndexFlatL2")
        return
    rows = unit_rows(2000, 16)
    found = GpuCandidates(faiss, Blocks([rows])).candidates(rows[:5], 3)
    assert (found[:, 0] == np.arange(5)).all()


# --- files


@needs_faiss
def test_a_loaded_index_is_mapped_and_not_copied(indexed: Path) -> None:
    geomap = load_map(indexed)
    assert entry_of(indexed).file in Path("/proc/self/maps").read_text()
    del geomap


@needs_faiss
def test_the_same_descriptors_and_seed_give_the_same_inverted_file(tmp_path: Path) -> None:
    blocks = Blocks([unit_rows(500, 16)])
    files = []
    for number, seed in enumerate((1, 1, 2)):
        write_index(blocks, "ivf_rabitq", tmp_path / f"{number}", seed)
        files.append((tmp_path / f"{number}").read_bytes())
    assert files[0] == files[1] != files[2]


def test_queries_to_measure_with_are_unit_vectors_near_the_map_and_not_in_it() -> None:
    blocks = Blocks([unit_rows(400, 16)])
    queries = simulated_queries(blocks, 50, seed=3)
    np.testing.assert_array_equal(queries, simulated_queries(blocks, 50, seed=3))
    assert (queries != simulated_queries(blocks, 50, seed=4)).any()
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    distances = ExactSearch(blocks).search(queries, 1)[1]
    assert 0.1 < distances.min() < distances.max() < 1.2


def other(path: Path, index: Any) -> IndexEntry:
    """An index file of somebody else, with a good checksum."""
    faiss.write_index(index, str(path))
    return graph_entry(path.name, sha256(path), path.stat().st_size)


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the first reading in a child process: what is checked each time must hold on its own."""
    monkeypatch.setattr("vgssl_core.geomap.index.load.try_index", lambda *_: None)


PARAMETERS_OF = {
    **{kind: {"ef_search": 16, "refine_factor": 1} for kind in ("hnsw", "hnsw_small")},
    "ivf_rabitq": {"lists": 128, "probes": 2, "refine_factor": 4},
}


@needs_faiss
def test_an_index_that_does_not_fit_its_map_is_refused_with_the_remedy(
    indexed: Path, tmp_path: Path, untried: None
) -> None:
    entry = entry_of(indexed)
    path = indexed / entry.file
    assert open_index(path, entry, DIMENSION).ntotal == COUNT
    wrong = [
        (replace(entry, count=COUNT - 1), DIMENSION),
        (entry, DIMENSION + 1),
        (replace(entry, bytes=entry.bytes - 1), DIMENSION),
        (replace(entry, sha256="0" * 64), DIMENSION),
        *(
            (replace(entry, kind=kind, parameters=PARAMETERS_OF[kind]), DIMENSION)
            for kind in KINDS
            if kind != entry.kind
        ),
    ]
    if entry.kind == "ivf_rabitq":
        wrong.append((replace(entry, parameters={**entry.parameters, "lists": 3}), DIMENSION))
    for changed, dimension in wrong:
        with pytest.raises(MapError, match="vgssl map index"):
            open_index(path, changed, dimension)
    with pytest.raises(MapError, match="vgssl map index"):
        open_index(tmp_path / "index-00000000.faiss", entry, DIMENSION)


@needs_faiss
def test_an_index_of_another_kind_with_a_good_checksum_is_refused(tmp_path: Path, untried: None) -> None:
    rows = unit_rows(10, 8)
    flat = faiss.IndexFlatL2(8)
    halves = faiss.IndexHNSWSQ(8, faiss.ScalarQuantizer.QT_fp16, 8)
    floats = faiss.IndexHNSWFlat(8, 8)
    products = faiss.IndexHNSWSQ(8, faiss.ScalarQuantizer.QT_8bit, 8, faiss.METRIC_INNER_PRODUCT)
    for number, index in enumerate((flat, halves, floats, products)):
        index.train(rows)
        index.add(rows)
        path = tmp_path / f"index-0000000{number}.faiss"
        with pytest.raises(MapError, match="vgssl map index"):
            open_index(path, other(path, index), 8)


GOOD = {
    "type": "ivf_rabitq",
    "file": "index-0123456789ab.faiss",
    "sha256": "0" * 64,
    "bytes": 1000,
    "segments": ["aaaaaaaa", "bbbbbbbb"],
    "count": 30,
    "parameters": {"lists": 4, "probes": 2, "refine_factor": 4},
    "recall_at_1": 1.0,
    "recall_at_10": 0.9,
    "p50_ms": 0.1,
    "p99_ms": 1,
    "bytes_per_image": 300.0,
}
SEGMENTS = [("aaaaaaaa", 10), ("bbbbbbbb", 20), ("cccccccc", 5)]


def test_what_a_build_writes_is_read_again() -> None:
    entry = parse_index(GOOD, SEGMENTS)
    assert entry is not None
    assert entry.to_dict() == GOOD
    assert parse_index({"type": "exact"}, SEGMENTS) is None


@pytest.mark.parametrize(
    "change",
    [
        {"type": "annoy"},
        {"type": ["hnsw"]},
        {"type": "hnsw"},
        {"file": "../index-0123456789ab.faiss"},
        {"file": "/etc/passwd"},
        {"file": "index-0123456789ab.faiss\n"},
        {"file": 7},
        {"sha256": "0" * 63},
        {"bytes": 0},
        {"bytes": 2**60},
        {"bytes": True},
        {"segments": []},
        {"segments": "aaaaaaaa"},
        {"segments": ["bbbbbbbb"]},
        {"segments": ["aaaaaaaa", "cccccccc"]},
        {"segments": ["aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"]},
        {"count": 35},
        {"count": "30"},
        {"parameters": {}},
        {"parameters": {"lists": 4, "probes": 2, "refine_factor": 4, "more": 1}},
        {"parameters": {"lists": 4, "probes": 0, "refine_factor": 4}},
        {"parameters": {"lists": 4, "probes": 1e3, "refine_factor": 4}},
        {"parameters": {"lists": 4, "probes": 2, "refine_factor": 10**6}},
        {"parameters": None},
        {"recall_at_1": 1.1},
        {"recall_at_10": float("nan")},
        {"p50_ms": -1},
        {"p99_ms": "fast"},
        {"bytes_per_image": None},
    ],
)
def test_an_entry_that_no_build_writes_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse_index({**GOOD, **change}, SEGMENTS)
    for name in change:
        with pytest.raises((ValueError, KeyError)):
            parse_index({key: value for key, value in GOOD.items() if key != name}, SEGMENTS)


@needs_faiss
def test_without_faiss_a_map_with_an_index_says_what_to_do_and_one_without_answers(
    indexed: Path, plain: Path, monkeypatch: Any
) -> None:
    for module in ("exact", "region", "index.build", "index.trial", "index.search"):
        monkeypatch.setattr(f"vgssl_core.geomap.{module}.load_faiss", lambda: None)
    with pytest.raises(MapError, match=r"faiss-cpu.*vgssl map index MAP --kind exact"):
        load_map(indexed)
    with pytest.raises(MapError, match="faiss-cpu"):
        reindex(plain, "hnsw")
    assert load_map(plain).search_name == "exact, numpy"
    assert load_map(plain).search_near(unit_rows(1, DIMENSION), 3, 0.0, 0.0, 300.0).indices.shape == (1, 3)
    # The remedy works on the machine that lacks it.
    assert reindex(plain, "exact") is None


@needs_faiss
def test_a_faiss_that_is_too_old_is_named(indexed: Path, monkeypatch: Any) -> None:
    for name in ("IndexIVFRaBitQ", "IndexHNSWSQ"):
        monkeypatch.delattr(faiss, name)
    with pytest.raises(MapError, match=f"newer FAISS than {faiss.__version__}"):
        load_map(indexed)


# --- reindex


@needs_faiss
def test_a_new_index_replaces_the_old_one_which_its_readers_keep(plain: Path) -> None:
    reindex(plain, "hnsw")
    reader, first = load_map(plain), entry_of(plain)
    queries = unit_rows(20, DIMENSION, 4)
    before = reader.search(queries, 5)
    second = reindex(plain, "ivf_rabitq")
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
    reindex(sys.argv[1], "ivf_rabitq")
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
