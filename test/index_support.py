"""Small maps with an index, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from map_support import positions, unit_rows

from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap import build_map, load_map, reindex
from vgssl_core.geomap.index.entry import IndexEntry, IndexQuality

faiss = load_faiss()
needs_faiss = pytest.mark.skipif(faiss is None, reason="FAISS is not installed")
KINDS = ["hnsw", "ivf_pq"]
COUNT, DIMENSION = 700, 24


def make_map(folder: Path, kind: str | None = None) -> Path:
    """A map with an index of a kind, or without one."""
    build_map(folder, unit_rows(COUNT, DIMENSION), "model", positions(COUNT))
    if kind is not None:
        reindex(folder, kind)
    return folder


def graph_entry(file: str, checksum: str, size: int) -> IndexEntry:
    """Of a graph of 10 images."""
    parameters = {"ef_search": 16, "refine_factor": 1}
    return IndexEntry("hnsw", file, checksum, size, ("a",), 10, parameters, IndexQuality(1, 1, 1, 1, 1))


def entry_of(folder: Path) -> IndexEntry:
    """Of a map's index."""
    entry = load_map(folder).index
    assert entry is not None
    return entry
