"""Index files and their entries: what a build writes is opened, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_support import COUNT, DIMENSION, KINDS, entry_of, faiss, graph_entry, make_map, needs_faiss
from map_support import unit_rows

from vgssl_core.errors import MapError
from vgssl_core.geomap import load_map, reindex
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.index.build import write_index
from vgssl_core.geomap.index.entry import IndexEntry, parse_index
from vgssl_core.geomap.index.load import open_index
from vgssl_core.geomap.index.measure import simulated_queries
from vgssl_core.storage import sha256


@pytest.fixture(scope="module", params=KINDS)
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map with an index; tests only read it."""
    return make_map(tmp_path_factory.mktemp("indexed") / "map", request.param)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A map without index, that a test may change."""
    return make_map(tmp_path / "map")


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
        write_index(blocks, "ivf_pq", tmp_path / f"{number}", seed)
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
    "hnsw": {"ef_search": 16, "refine_factor": 1},
    "ivf_pq": {"lists": 128, "probes": 2, "refine_factor": 4},
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
    if entry.kind == "ivf_pq":
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
    "type": "ivf_pq",
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
    for name in ("IndexIVFPQFastScan", "IndexHNSWSQ"):
        monkeypatch.delattr(faiss, name)
    with pytest.raises(MapError, match=f"newer FAISS than {faiss.__version__}"):
        load_map(indexed)
