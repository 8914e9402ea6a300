"""Making an approximate index with FAISS from the descriptors of a map, block by block.

An index proposes candidates by coarse codes. What refines them are the map's descriptors themselves, read from their
files, so that no kind holds them a second time.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import MapError
from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.index.choice import GRAPHS, Graph, lists

#: Efforts of search that are tried until the recall is good enough, from the least.
EFFORTS: dict[str, tuple[dict[str, int], ...]] = {
    "hnsw": tuple({"ef_search": ef, "refine_factor": 1} for ef in (128, 256, 512, 1024)),
    "hnsw_small": tuple({"ef_search": ef, "refine_factor": 1} for ef in (128, 256, 512, 1024)),
    "ivf_rabitq": tuple({"probes": probes, "refine_factor": 4} for probes in (32, 64, 128, 256, 512)),
}
_ROWS_AT_ONCE = 65536
#: Rows per list that k-means sees; FAISS asks for 39 at least, and more than this hardly moves the centres.
_TRAINING_ROWS_PER_LIST = 48
_TRAINING_BYTES = 400_000_000
_GRAPH_BUILD_EFFORT = 40
_GRAPH_TRAINING_ROWS = 10_000
_NAMES = {"ivf_rabitq": ("IndexIVFRaBitQ",), **dict.fromkeys(GRAPHS, ("IndexHNSWSQ",))}


def require_faiss(kind: str, what: str) -> ModuleType:
    """FAISS, as new as a kind of index needs it.

    Args:
        kind: Of index.
        what: What it is needed for, to begin the message.

    Raises:
        MapError: It is not installed, or too old.
    """
    faiss = load_faiss()
    remedy = "install faiss-cpu 1.11 or newer, or have the map searched exactly: `vgssl map index MAP --kind exact`."
    if faiss is None:
        raise MapError(f"{what} needs FAISS, and neither faiss-cpu nor faiss-gpu is installed: {remedy}")
    lacking = [name for name in _NAMES[kind] if not hasattr(faiss, name)]
    if lacking:
        raise MapError(f"{what} needs a newer FAISS than {faiss.__version__}, which has no {lacking[0]}: {remedy}")
    return faiss


def write_index(blocks: Blocks, kind: str, path: Path, seed: int = 0) -> dict[str, int]:
    """Train an index on a sample, add all descriptors to it, and write it; in memory are the index and one part.

    The same descriptors and seed give the same inverted file. The graph depends on the order in which threads link
    images, and is the same again with one thread only.

    Args:
        blocks: The descriptors.
        kind: One of `PARAMETERS`.
        path: File to write.
        seed: Of the sample, of k-means, of the rotation and of the graph.

    Returns:
        Parameters that belong to the file, for the manifest.

    Raises:
        MapError: FAISS is not installed or too old.
    """
    faiss = require_faiss(kind, f"An index of kind {kind}")
    count, dimension = len(blocks), blocks.dimension
    number = lists(count)
    with tqdm(total=count, desc=f"index {kind}", unit="image") as bar:
        if kind in GRAPHS:
            index, parameters, wanted = _graph(faiss, dimension, GRAPHS[kind], seed), {}, _GRAPH_TRAINING_ROWS
        else:
            index, parameters = _inverted_file(faiss, dimension, number, seed), {"lists": number}
            wanted = number * _TRAINING_ROWS_PER_LIST
        bar.set_postfix_str("training")
        index.train(_sample(blocks, min(wanted, _TRAINING_BYTES // (4 * dimension)), seed))
        bar.set_postfix_str("adding")
        for _, rows in blocks.parts(most=_ROWS_AT_ONCE):
            index.add(np.ascontiguousarray(rows))
            bar.update(len(rows))
        bar.set_postfix_str("writing")
        faiss.write_index(index, str(path))
    return parameters


def _graph(faiss: ModuleType, dimension: int, graph: Graph, seed: int) -> Any:
    """A navigable small-world graph (Malkov and Yashunin, 2018) over descriptors of a few bits per dimension."""
    codes = {4: faiss.ScalarQuantizer.QT_4bit, 8: faiss.ScalarQuantizer.QT_8bit}[graph.bits]
    index = faiss.IndexHNSWSQ(dimension, codes, graph.links)
    index.hnsw.efConstruction = _GRAPH_BUILD_EFFORT
    index.hnsw.rng = faiss.RandomGenerator(seed)
    return index


def _inverted_file(faiss: ModuleType, dimension: int, number: int, seed: int) -> Any:
    """Lists around centres, in them one bit per dimension of the turned residual: RaBitQ (Gao and Long, SIGMOD 2024).

    It owes its bound to the random rotation: without it a dimension of large variance would have one bit as well.
    """
    rotation = faiss.RandomRotationMatrix(dimension, dimension)
    # A trained transformation is not initialised again with FAISS's own seed.
    rotation.init(seed)
    rotation.is_trained = True
    centres = faiss.IndexFlatL2(dimension)
    inverted = faiss.IndexIVFRaBitQ(centres, dimension, number, faiss.METRIC_L2)
    # Before 1.13 the Python object of the centres is not kept alive: they are given to the index.
    centres.this.disown()
    inverted.own_fields = True
    inverted.cp.seed = seed
    # Fewer rows than it likes are said on the standard error of the process otherwise.
    inverted.cp.min_points_per_centroid = 1
    return faiss.IndexPreTransform(rotation, inverted)


def _sample(blocks: Blocks, wanted: int, seed: int) -> NDArray[np.float32]:
    """(n, D) different rows, drawn evenly and read in the order of the files."""
    count = len(blocks)
    if wanted >= count:
        return np.concatenate([rows for _, rows in blocks.parts(most=_ROWS_AT_ONCE)])
    return blocks.take(np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False)))
