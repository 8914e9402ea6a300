"""The first reading of an index file from elsewhere, in a child process.

FAISS reads its files with native code, which in older versions trusts every number in them. So a new file is read in a
child first, whole and without memory mapping; there its structure is looked at (every neighbour and every identifier)
and a few searches are made. The outcome is remembered by the file's checksum.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import MapError
from vgssl_core.faiss_package import load_faiss
from vgssl_core.guarded import ChildError, limit_memory, run_guarded
from vgssl_core.remembered import remember, remembers

if TYPE_CHECKING:
    from types import ModuleType

#: Kind of index → FAISS's name of the type, with which its file begins: a graph over scalar codes, or turned lists.
FILE_BEGINNINGS = {"hnsw": b"IHNs", "ivf_pq": b"IxPT"}
_QUERIES, _NEIGHBOURS = 8, 10
#: Codes that are compared at once.
_BLOCK = 32
_SPARE_BYTES = 1 << 29
_LEAST_LIMIT_BYTES = 1 << 26
_START_S, _BYTES_PER_S = 60, 5_000_000
_REMEDY = "Make it again with `vgssl map index MAP`; the map itself is not concerned."


def try_index(path: Path, kind: str, dimension: int, count: int, sha256: str, always: bool = False) -> None:
    """Require that an index file reads, is what the manifest says, and answers within it.

    Call it after `require_unaltered`: the outcome is remembered for these bytes, this FAISS and these numbers.

    Args:
        path: The file.
        kind: ``hnsw`` or ``ivf_pq``.
        dimension: D.
        count: Number of vectors.
        sha256: The file's checksum.
        always: Read it in a child whatever is remembered.

    Raises:
        MapError: It is none, crashes or hangs its reader, or answers with images that the map has not.
    """
    faiss = load_faiss()
    if faiss is None:
        raise MapError(f"{path} needs FAISS: pip install 'vgssl_ros[cpu]'.")
    _check_beginning(path, kind)
    subject, state = f"index {sha256}", f"{kind} {dimension} {count} faiss {faiss.__version__}"
    if not always and remembers(subject, state):
        return
    limit_s = _START_S + os.path.getsize(path) // _BYTES_PER_S
    arguments = {"path": str(path), "kind": kind, "dimension": dimension, "count": count}
    try:
        run_guarded(f"{__name__}:read_here", arguments, cpu_s=limit_s, wall_s=4 * limit_s)
    except ChildError as problem:
        raise MapError(f"{path} is no usable index: {problem}. {_REMEDY}") from problem
    remember(subject, state)


def _check_beginning(path: Path, kind: str) -> None:
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
    except OSError as problem:
        raise MapError(f"Cannot read {path}: {problem.strerror}. {_REMEDY}") from problem
    if beginning != FILE_BEGINNINGS.get(kind):
        raise MapError(f"{path} begins with {beginning!r} and is no index of type {kind}. {_REMEDY}")


def read_here(path: str, kind: str, dimension: int, count: int) -> None:
    """Read and examine an index in this process, which may be killed by it; raises a `ValueError` that says why."""
    faiss = load_faiss()
    assert faiss is not None
    size = os.path.getsize(path)
    limit_memory(4 * size + _SPARE_BYTES)
    if hasattr(faiss, "set_deserialization_vector_byte_limit"):
        # Of lists it also counts a table that it could make for them, in a small map larger than the file.
        faiss.set_deserialization_vector_byte_limit(max(size, _LEAST_LIMIT_BYTES))
        faiss.set_deserialization_loop_limit(size)
    index = faiss.read_index(path)
    _require(index.d == dimension and index.ntotal == count, f"it holds {index.ntotal} vectors of length {index.d}")
    _require(index.metric_type == faiss.METRIC_L2, "it compares by another metric than L2 distance")
    if kind == "hnsw":
        _examine_graph(faiss, index)
    else:
        _examine_blocks(path, *_examine_lists(faiss, index))
    _search(index, dimension, count)


def _search(index: Any, dimension: int, count: int) -> None:
    """Random unit vectors, and zero, find images of the map."""
    queries = np.random.default_rng(0).standard_normal((_QUERIES, dimension)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    queries[-1] = 0.0
    found = index.search(queries, min(_NEIGHBOURS, count))[1]
    _require(bool((found >= -1).all() and (found < count).all()), "a search gives an image that the map has not")
    _require(bool((found[:, 0] >= 0).all()), "a search finds nothing")


def _examine_graph(faiss: ModuleType, index: Any) -> None:
    """Every link of the HNSW graph leads to a vector, and every node has the room that its level needs."""
    _require(isinstance(index, faiss.IndexHNSW), f"it is a {type(index).__name__}")
    graph, count = index.hnsw, index.ntotal
    levels, offsets = _values(faiss, graph.levels), _values(faiss, graph.offsets).astype(np.int64)
    room, neighbours = _values(faiss, graph.cum_nneighbor_per_level), _values(faiss, graph.neighbors)
    _require(len(levels) == count and len(offsets) == count + 1, "its graph is of another size")
    _require(bool((levels >= 1).all() and (levels < len(room)).all()), "its graph has a level out of range")
    _require(bool(room[0] == 0 and (np.diff(room) >= 0).all()), "the room of its levels shrinks")
    _require(bool(offsets[0] == 0 and (np.diff(offsets) == room[levels]).all()), "its graph's offsets are wrong")
    _require(int(offsets[-1]) == len(neighbours), "its graph has another number of links")
    _require(bool((neighbours >= -1).all() and (neighbours < count).all()), "a link of its graph leads out of it")
    _require(0 <= graph.entry_point < count, "its graph's entry is out of range")
    top = int(levels[graph.entry_point]) - 1
    _require(0 <= graph.max_level <= top, "its graph's entry is below its top level")
    _examine_vectors(faiss, index.storage, index.d, count)


def _examine_lists(faiss: ModuleType, index: Any) -> tuple[NDArray[np.int64], int]:
    """One rotation is whole, and the inverted lists behind it hold every vector once.

    Returns:
        (lists,) how many each holds, and the bytes of a block of codes.
    """
    count = index.ntotal
    _require(isinstance(index, faiss.IndexPreTransform) and index.chain.size() == 1, f"it is a {type(index).__name__}")
    turn = faiss.downcast_VectorTransform(index.chain.at(0))
    _require(isinstance(turn, faiss.LinearTransform), f"it transforms by {type(turn).__name__}")
    values, offset = _values(faiss, turn.A), _values(faiss, turn.b)
    _require(len(values) == turn.d_in * turn.d_out, "its transformation is of another size")
    _require(len(offset) == (turn.d_out if turn.have_bias else 0), "its transformation is of another size")
    _require(bool(np.isfinite(values).all() and np.isfinite(offset).all()), "its transformation is not finite")
    inverted = faiss.downcast_index(index.index)
    _require(isinstance(inverted, faiss.IndexIVFPQFastScan), f"it is a {type(inverted).__name__}")
    _require(inverted.ntotal == count and inverted.d == turn.d_out, "its lists are of other vectors")
    _examine_codes(faiss, inverted)
    lists = faiss.downcast_InvertedLists(inverted.invlists)
    _require(isinstance(lists, faiss.BlockInvertedLists), f"its lists are {type(lists).__name__}")
    _require(inverted.nlist == lists.nlist and 1 <= lists.nlist <= count, f"it has {lists.nlist} lists")
    _require(lists.ids.size() == lists.nlist, "it has another number of lists")
    room = _BLOCK * inverted.M2 * inverted.nbits // 8
    _require(lists.n_per_block == _BLOCK and lists.block_size == room, "its blocks are of another size")
    _examine_vectors(faiss, inverted.quantizer, inverted.d, inverted.nlist)
    # So that a search finds something whichever lists are empty.
    inverted.nprobe = inverted.nlist
    seen, lengths = np.zeros(count, bool), np.zeros(lists.nlist, np.int64)
    for number in range(lists.nlist):
        lengths[number] = lists.list_size(number)
        if lengths[number]:
            members = faiss.rev_swig_ptr(lists.get_ids(number), int(lengths[number]))
            _require(bool((members >= 0).all() and (members < count).all()), "a list names an image out of range")
            seen[members] = True
    _require(bool(seen.all()) and int(lengths.sum()) == count, "its lists do not hold each image once")
    return lengths, room


def _examine_codes(faiss: ModuleType, index: Any) -> None:
    """The codes are what builds write: four bits for each part of a vector, scanned in blocks."""
    codes = index.pq
    _require(codes.d == index.d and codes.M * codes.dsub == index.d, "its codes are of vectors of another length")
    _require(codes.nbits == 4 and codes.ksub == 16, f"its codes are of {codes.nbits} bits")
    centroids = _values(faiss, codes.centroids)
    _require(len(centroids) == codes.ksub * index.d, "its codes lack centres")
    _require(bool(np.isfinite(centroids).all()), "a centre of its codes is not finite")
    same = index.M == codes.M and index.nbits == codes.nbits and index.ksub == codes.ksub
    _require(same and index.M2 == codes.M + codes.M % 2, "its parts are not those of its codes")
    _require(index.bbs == _BLOCK and index.implem == 0 and not index.by_residual, "it is scanned in another way")
    _require(index.code_size == codes.code_size == (codes.M + 1) // 2, "its codes are of another size")


def _examine_blocks(path: str, lengths: NDArray[np.int64], room: int) -> None:
    """Each list has as many codes as members: the reader takes both as they come, and the scan trusts them.

    The lists end the file: for each the number of its members, these, the number of its bytes, and these.
    """
    code_bytes = -(-lengths // _BLOCK) * room
    with open(path, "rb") as file:
        file.seek(-int((16 + 8 * lengths + code_bytes).sum()), os.SEEK_END)
        for length, expected in zip(lengths.tolist(), code_bytes.tolist(), strict=True):
            _require(int.from_bytes(file.read(8), "little") == length, "its lists do not end the file")
            file.seek(8 * length, os.SEEK_CUR)
            _require(int.from_bytes(file.read(8), "little") == expected, "a list has not as many codes as members")
            file.seek(expected, os.SEEK_CUR)


def _examine_vectors(faiss: ModuleType, storage: Any, dimension: int, count: int) -> None:
    """A part of an index is flat and has all of its vectors."""
    storage = faiss.downcast_index(storage)
    _require(storage.d == dimension and storage.ntotal == count, "its vectors are of another number or length")
    _require(isinstance(storage, faiss.IndexFlatCodes), f"its vectors lie in a {type(storage).__name__}")
    _require(storage.codes.size() == storage.ntotal * storage.code_size, "its vectors are cut off")
    if isinstance(storage, faiss.IndexFlat):
        _require(storage.code_size == 4 * dimension, "its vectors are of another length")


def _values(faiss: ModuleType, vector: Any) -> np.ndarray:
    """A native vector as an array over its own memory."""
    size = vector.size()
    return faiss.rev_swig_ptr(vector.data(), size) if size else np.empty(0, np.int64)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
