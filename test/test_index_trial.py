"""Index files: a new one is read in a child process first, and looked at there number by number."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trial_support import watch

from vgssl_core.errors import MapError
from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap.index import trial
from vgssl_core.geomap.index.trial import read_here, try_index
from vgssl_core.guarded import run_guarded

faiss = load_faiss()
needs_faiss = pytest.mark.skipif(faiss is None, reason="FAISS is not installed")
COUNT, DIMENSION = 300, 16


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files that were read in a child."""
    return watch(trial, monkeypatch, tmp_path / "cache")


def unit_rows(count: int = COUNT, dimension: int = DIMENSION) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


FACTORIES = {"hnsw": "HNSW8,SQ8", "ivf_pq": "PCAR16,IVF8,PQ8x4fs"}


def make_index(kind: str) -> Any:
    return filled(FACTORIES[kind])


def filled(factory: str) -> Any:
    index = faiss.index_factory(DIMENSION, factory)
    if isinstance(index, faiss.IndexPreTransform):
        faiss.downcast_index(index.index).by_residual = False
    index.train(unit_rows())
    index.add(unit_rows())
    return index


def write_index(path: Path, index: Any) -> str:
    faiss.write_index(index, str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@needs_faiss
@pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])
def test_a_good_index_is_read_once_in_a_child(kind: str, tmp_path: Path, children: list[str]) -> None:
    checksum = write_index(tmp_path / "a.faiss", make_index(kind))
    for _ in range(2):
        try_index(tmp_path / "a.faiss", kind, DIMENSION, COUNT, checksum)
    shutil.copy(tmp_path / "a.faiss", tmp_path / "b.faiss")
    try_index(tmp_path / "b.faiss", kind, DIMENSION, COUNT, checksum)
    assert children == ["a.faiss"]
    # For another map it is another question.
    with pytest.raises(MapError, match="it holds 300 vectors of length 16"):
        try_index(tmp_path / "a.faiss", kind, DIMENSION, COUNT + 1, checksum)
    assert len(children) == 2


@needs_faiss
def test_a_file_of_another_kind_never_reaches_native_code(tmp_path: Path, children: list[str]) -> None:
    path = tmp_path / "a.faiss"
    write_index(path, make_index("hnsw"))
    others: list[Callable[[], Any]] = [
        lambda: None,
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"\x93NUMPY"),
        lambda: write_index(path, faiss.IndexFlatL2(DIMENSION)),
        lambda: write_index(path, filled("RR,IVF8,SQ8,Refine(SQ8)")),
    ]
    for make in others:
        make()
        with pytest.raises(MapError, match="is no index of type ivf_pq"):
            try_index(path, "ivf_pq", DIMENSION, COUNT, "")
    path.unlink()
    with pytest.raises(MapError, match="Cannot read"):
        try_index(path, "hnsw", DIMENSION, COUNT, "")
    assert children == []


def spoil_link(index: Any) -> None:
    faiss.rev_swig_ptr(index.hnsw.neighbors.data(), 1)[0] = COUNT


def spoil_level(index: Any) -> None:
    faiss.rev_swig_ptr(index.hnsw.levels.data(), 1)[0] = 100


def spoil_offset(index: Any) -> None:
    faiss.rev_swig_ptr(index.hnsw.offsets.data(), 2)[1] += 1


def spoil_entry(index: Any) -> None:
    index.hnsw.entry_point = COUNT


def spoil_top(index: Any) -> None:
    index.hnsw.max_level += 1


def spoil_count(index: Any) -> None:
    index.ntotal += 1


def spoil_member(index: Any) -> None:
    lists = faiss.extract_index_ivf(index).invlists
    number = next(n for n in range(lists.nlist) if lists.list_size(n))
    faiss.rev_swig_ptr(lists.get_ids(number), 1)[0] = COUNT


def spoil_repeated(index: Any) -> None:
    lists = faiss.extract_index_ivf(index).invlists
    number = next(n for n in range(lists.nlist) if lists.list_size(n) > 1)
    members = faiss.rev_swig_ptr(lists.get_ids(number), 2)
    members[0] = members[1]


def spoil_transform(index: Any) -> None:
    transform = faiss.downcast_VectorTransform(index.chain.at(0))
    faiss.rev_swig_ptr(transform.A.data(), 1)[0] = np.nan


def lists_of(index: Any) -> Any:
    return faiss.downcast_index(index.index)


def spoil_centre(index: Any) -> None:
    faiss.rev_swig_ptr(lists_of(index).pq.centroids.data(), 1)[0] = np.inf


def spoil_parts(index: Any) -> None:
    lists_of(index).M2 += 2


def spoil_scan(index: Any) -> None:
    lists_of(index).bbs = 64


def spoil_bits(index: Any) -> None:
    lists_of(index).pq.nbits = 8


def spoil_residual(index: Any) -> None:
    lists_of(index).by_residual = True


def spoil_metric(index: Any) -> None:
    index.metric_type = faiss.METRIC_INNER_PRODUCT


@needs_faiss
@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        *(("hnsw", spoil) for spoil in (spoil_link, spoil_level, spoil_offset, spoil_entry, spoil_top, spoil_count)),
        *(("ivf_pq", spoil) for spoil in (spoil_member, spoil_repeated, spoil_transform, spoil_metric)),
        *(("ivf_pq", spoil) for spoil in (spoil_centre, spoil_parts, spoil_scan, spoil_bits, spoil_residual)),
    ],
)
def test_an_index_with_one_wrong_number_is_refused(
    kind: str, spoil: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(kind)
    path = tmp_path / "a.faiss"
    write_index(path, index)
    spoil(index)
    # Not every version of FAISS looks at all that it reads: the examination is tried on what a lenient one would give.
    monkeypatch.setattr(faiss, "read_index", lambda path: index)
    monkeypatch.setattr(trial, "limit_memory", lambda more_bytes: None)
    with pytest.raises(ValueError, match=r"\bit\b|its|list|link"):
        read_here(str(path), kind, DIMENSION, COUNT)


@needs_faiss
@pytest.mark.parametrize("what", ["codes", "members", "behind"])
def test_a_list_with_fewer_codes_than_members_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.faiss"
    write_index(path, make_index("ivf_pq"))
    lengths = lengths_of(path)
    room = 32 * 4
    trial._examine_blocks(str(path), lengths, room)
    content = bytearray(path.read_bytes())
    last_codes = -(-int(lengths[-1]) // 32) * room
    if what == "codes":
        del content[-room:]
        content[-last_codes - 8 + room : -last_codes + room] = (last_codes - room).to_bytes(8, "little")
    elif what == "members":
        at = len(content) - last_codes - 8 * int(lengths[-1]) - 16
        content[at : at + 8] = (int(lengths[-1]) - 1).to_bytes(8, "little")
    else:
        content += bytes(8)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"its lists do not end the file|not as many codes as members"):
        trial._examine_blocks(str(path), lengths, room)


def lengths_of(path: Path) -> np.ndarray:
    index = faiss.read_index(str(path))
    lists = lists_of(index).invlists
    return np.array([lists.list_size(number) for number in range(lists.nlist)])


@needs_faiss
def test_an_index_that_crashes_its_reader_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: list[str]
) -> None:
    checksum = write_index(tmp_path / "a.faiss", make_index("hnsw"))
    monkeypatch.setattr(
        trial, "run_guarded", lambda *_, **__: run_guarded("guarded_functions:crash", {}, cpu_s=20, wall_s=60)
    )
    for _ in range(2):  # only what is good is remembered
        with pytest.raises(MapError, match=r"a\.faiss is no usable index: reading it ends in SIGABRT\. Make it again"):
            try_index(tmp_path / "a.faiss", "hnsw", DIMENSION, COUNT, checksum)
