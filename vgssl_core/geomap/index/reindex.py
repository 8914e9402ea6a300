"""Giving a map the index that fits it."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from pathlib import Path

from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap.blocks import Blocks, StoredBlocks
from vgssl_core.geomap.changes import changing
from vgssl_core.geomap.index.build import EFFORTS, write_index
from vgssl_core.geomap.index.choice import IndexChoice, choose_index
from vgssl_core.geomap.index.entry import IndexEntry, IndexQuality
from vgssl_core.geomap.index.load import open_index, set_parameters
from vgssl_core.geomap.index.measure import measure, recall, simulated_queries, true_distances
from vgssl_core.geomap.index.search import IndexedSearch
from vgssl_core.geomap.manifest import Manifest
from vgssl_core.geomap.outline import write_outline
from vgssl_core.geomap.segment import open_segment
from vgssl_core.storage import atomic_file, sha256, sweep_unfinished

#: Search tries harder until this share of nearest images is found.
TARGET_RECALL = 0.975
_UNMEASURED = IndexQuality(0.0, 0.0, 0.0, 0.0, 0.0)
_log = logging.getLogger(__name__)


def reindex(path: str | Path, kind: str = "auto", memory_mb: float | None = None, seed: int = 0) -> IndexEntry | None:
    """Build a map's index from its segments, measure it, and switch the map to it in one step.

    The old index serves until the last moment, and readers that have it open go on using it.

    Args:
        path: The map's folder.
        kind: One of `KINDS`; ``auto`` chooses by size and memory, and stays exact where FAISS is not installed.
        memory_mb: Memory for the index, in 10^6 bytes; None takes `DEFAULT_MEMORY_MB`.
        seed: Of everything that is drawn.

    Returns:
        What the manifest now says about the index; None for exact search.

    Raises:
        MapError: No map, a damaged one, one that another process is writing; or FAISS is needed and not there.
        ConfigError: An unknown kind, or a budget that is not positive.
    """
    path = Path(path)
    with changing(path) as manifest:
        sweep_unfinished(path, alone=True)
        choice = choose_index(manifest.count, manifest.dimension, memory_mb, kind)
        if kind == "auto" and load_faiss() is None:
            choice = IndexChoice("exact", f"an index needs FAISS, which is not installed; {choice.reason}", 0.0)
        _log.info("Index of %s: %s (%s).", path, choice.kind, choice.reason)
        entry = None if choice.kind == "exact" else _build(path, manifest, choice.kind, seed)
        index = {"type": "exact"} if entry is None else entry.to_dict()
        replace(manifest, index=index, wanted_index=None).write(path)
    return entry


def _build(folder: Path, manifest: Manifest, kind: str, seed: int) -> IndexEntry:
    opened = [open_segment(folder, segment, manifest.dimension, manifest.precision) for segment in manifest.segments]
    blocks = StoredBlocks([descriptors for descriptors, _ in opened])
    unique = uuid.uuid4().hex[:12]
    name = f"index-{unique}.faiss"
    with atomic_file(folder / name) as aside:
        parameters = write_index(blocks, kind, aside, seed)
        entry = IndexEntry(
            kind=kind,
            file=name,
            sha256=sha256(aside),
            bytes=aside.stat().st_size,
            segments=tuple(segment.name for segment in manifest.segments),
            count=len(blocks),
            parameters=parameters,
            quality=_UNMEASURED,
        )
        entry = _tuned(aside, entry, blocks, seed)
        return replace(entry, outline=write_outline(blocks, folder / f"outline-{unique}.npy", seed))


def _tuned(path: Path, entry: IndexEntry, blocks: Blocks, seed: int) -> IndexEntry:
    """The entry with the least effort of search that reaches the recall, or the greatest, and its measured quality."""
    queries = simulated_queries(blocks, seed=seed)
    truth = true_distances(blocks, queries)
    efforts = [replace(entry, parameters={**entry.parameters, **effort}) for effort in EFFORTS[entry.kind]]
    index = open_index(path, efforts[0], blocks.dimension)
    for tried in efforts:
        set_parameters(index, tried)
        search = IndexedSearch(index, tried, blocks)
        found = recall(search, queries, truth)
        _log.info("%s: recall@1 %.4f, @10 %.4f.", tried.parameters, *found)
        if found[0] >= TARGET_RECALL:
            break
    return replace(tried, quality=measure(search, path, queries, found))
