"""Exact search: with FAISS and with numpy, of floats and of halves, on the CPU and on a GPU."""

from __future__ import annotations

import importlib.metadata
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_support import ENGINES, unit_rows
from numpy.typing import NDArray

from vgssl_core.errors import MapError
from vgssl_core.faiss_package import load_faiss, tuned_for
from vgssl_core.geomap.blocks import Blocks, StoredBlocks, to_float32
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.gpu import GpuCandidates, gpu_count

faiss = load_faiss()
needs_faiss = pytest.mark.skipif(faiss is None, reason="FAISS is not installed")


def by_hand(rows: NDArray, queries: NDArray, k: int) -> tuple[NDArray, NDArray]:
    distances = np.linalg.norm(rows[None].astype(np.float64) - queries[:, None].astype(np.float64), axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@given(
    count=st.integers(1, 60),
    k=st.integers(1, 70),
    queries=st.integers(0, 30),
    cuts=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_search_is_exact_with_and_without_faiss_and_in_any_number_of_segments(
    count: int, k: int, queries: int, cuts: int, seed: int
) -> None:
    rows, asked = unit_rows(count, 8, seed), unit_rows(queries, 8, seed + 1000)
    k = min(k, count)
    expected, distances = by_hand(rows, asked, k)
    for use_faiss in ENGINES:
        blocks = [block for block in np.array_split(rows, cuts) if len(block)]
        indices, found = ExactSearch(blocks, use_faiss).search(asked, k)
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_allclose(found, distances, atol=1e-5)
        assert indices.dtype == np.int64
        assert found.dtype == np.float32


@pytest.mark.parametrize("use_faiss", ENGINES)
def test_equal_images_come_in_the_order_of_their_indices_at_distance_zero(use_faiss: bool) -> None:
    rows = np.repeat(unit_rows(5), 4, axis=0)
    indices, distances = ExactSearch([rows], use_faiss).search(rows[4:5], 6)
    assert indices[0, :4].tolist() == [4, 5, 6, 7]
    assert distances[0, :4].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("use_faiss", ENGINES)
def test_one_query_and_many_give_the_same_bits(use_faiss: bool) -> None:
    rows, asked = unit_rows(3000, 64), unit_rows(300, 64, 1)
    search = ExactSearch([rows], use_faiss)
    indices, distances = search.search(asked, 10)
    for number in (0, 17, 299):
        alone = search.search(asked[number : number + 1], 10)
        np.testing.assert_array_equal(alone[0][0], indices[number])
        np.testing.assert_array_equal(alone[1][0], distances[number])


def test_both_searches_agree_to_the_last_bit_on_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgssl_core.geomap.exact._ROWS_AT_ONCE", 700)
    rows, asked = unit_rows(2000, 32), unit_rows(40, 32, 1)
    results = [ExactSearch([rows], use_faiss).search(asked, 20) for use_faiss in ENGINES]
    for indices, distances in results:
        np.testing.assert_array_equal(indices, results[0][0])
        np.testing.assert_array_equal(distances, results[0][1])


def test_two_installed_faiss_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [SimpleNamespace(metadata={"Name": name}) for name in ("faiss-cpu", "faiss_gpu_cu12", "numpy")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: both)
    load_faiss.cache_clear()
    try:
        with pytest.raises(MapError, match="pip uninstall -y faiss-cpu faiss-gpu-cu12"):
            ExactSearch([unit_rows(3)])
    finally:
        load_faiss.cache_clear()


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
    with pytest.raises(MapError, match=r"1\.npy was truncated"):
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
