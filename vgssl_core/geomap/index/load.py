"""Opening an index file, and only if it is what the manifest says.

What `trial` has found good is mapped into memory, but for the codes of lists, which FAISS copies; the cheap checks here
are made each time.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from vgssl_core.errors import MapError
from vgssl_core.geomap.index.build import require_faiss
from vgssl_core.geomap.index.choice import turned_dimension
from vgssl_core.geomap.index.entry import IndexEntry
from vgssl_core.geomap.index.trial import try_index
from vgssl_core.verified import require_inside, require_unaltered

_REMEDY = "Make the index anew with `vgssl map index MAP`."


def open_index(path: Path, entry: IndexEntry, dimension: int, verify: bool = False) -> Any:
    """The FAISS index of a file, memory-mapped, with the entry's search parameters set.

    Args:
        path: The index file.
        entry: What the manifest says about it.
        dimension: Length of the map's descriptors.
        verify: Compare the file's sha256 whatever is remembered of it.

    Raises:
        MapError: FAISS is not installed or too old; or the file is missing, truncated, altered, or another index than
            the manifest says.
    """
    faiss = require_faiss(entry.kind, f"{path}, the map's index,")
    require_inside(path.parent, path, MapError, _REMEDY)
    require_unaltered(path, entry.bytes, entry.sha256, MapError, _REMEDY, verify)
    try_index(path, entry.kind, dimension, entry.count, entry.sha256, verify)
    try:
        # Older versions read the whole file into memory.
        index = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
        problem = (_graph_problem if entry.kind == "hnsw" else _inverted_problem)(faiss, index, entry)
        problem = problem or _difference(faiss, index, entry.count, dimension)
    except (RuntimeError, MemoryError, AttributeError) as failure:
        reason = " ".join(str(failure).split())
        raise MapError(f"{path} is damaged: FAISS cannot read it ({reason[:200]}). {_REMEDY}") from failure
    if problem:
        raise MapError(f"{path} does not fit its map: {problem}. {_REMEDY}")
    set_parameters(index, entry)
    return index


def set_parameters(index: Any, entry: IndexEntry) -> None:
    """Make an open index search as its entry says."""
    if entry.kind == "hnsw":
        index.hnsw.efSearch = entry.parameters["ef_search"]
    else:
        require_faiss(entry.kind, "Search").extract_index_ivf(index).nprobe = entry.parameters["probes"]


def _graph_problem(faiss: ModuleType, index: Any, entry: IndexEntry) -> str | None:
    if not isinstance(index, faiss.IndexHNSWSQ):
        return f"it holds an {type(index).__name__} instead of an IndexHNSWSQ"
    codes = faiss.downcast_index(index.storage)
    if not isinstance(codes, faiss.IndexScalarQuantizer):
        return f"it keeps its codes in an {type(codes).__name__} instead of an IndexScalarQuantizer"
    if codes.code_size != index.d or codes.codes.size() != index.ntotal * index.d:
        return f"it has {codes.codes.size()} bytes of codes for {index.ntotal} images"
    return _difference(faiss, codes, index.ntotal, index.d)


def _inverted_problem(faiss: ModuleType, index: Any, entry: IndexEntry) -> str | None:
    if not isinstance(index, faiss.IndexPreTransform) or index.chain.size() != 1:
        return f"it holds an {type(index).__name__} instead of an IndexPreTransform with one rotation"
    inverted = faiss.downcast_index(index.index)
    if not isinstance(inverted, faiss.IndexIVFPQFastScan):
        return f"it holds an {type(inverted).__name__} instead of an IndexIVFPQFastScan"
    if inverted.nlist != entry.parameters["lists"] or inverted.quantizer.ntotal != inverted.nlist:
        return f"it has {inverted.nlist} lists instead of {entry.parameters['lists']}"
    return _difference(faiss, inverted, index.ntotal, turned_dimension(index.d))


def _difference(faiss: ModuleType, index: Any, count: int, dimension: int) -> str | None:
    if index.metric_type != faiss.METRIC_L2:
        return f"it compares by metric {index.metric_type} instead of L2"
    if index.d != dimension:
        return f"it is for {index.d} dimensions instead of {dimension}"
    if index.ntotal != count:
        return f"it holds {index.ntotal} images instead of {count}"
    return None
