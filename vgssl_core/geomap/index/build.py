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
from vgssl_core.faiss_package import load_faiss, single_thread
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.index.choice import GRAPH_LINKS, lists, turned_dimension

#: Efforts of search that are tried until the recall is good enough, from the least.
EFFORTS: dict[str, tuple[dict[str, int], ...]] = {
    "hnsw": tuple({"ef_search": ef, "refine_factor": 1} for ef in (128, 192, 256, 384, 512, 768, 1024)),
    "ivf_pq": tuple(
        {"probes": probes, "refine_factor": 4} for probes in (32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512)
    ),
}
_ROWS_AT_ONCE = 65536
#: Rows per list that k-means sees; FAISS asks for 39 at least, and more than this hardly moves the centres.
_TRAINING_ROWS_PER_LIST = 48
_TRAINING_BYTES = 400_000_000
_GRAPH_BUILD_EFFORT = 40
_GRAPH_TRAINING_ROWS = 10_000
_CODE_BITS = 4
_NAMES = {"hnsw": "IndexHNSWSQ", "ivf_pq": "IndexIVFPQFastScan"}


def require_faiss(kind: str, what: str) -> ModuleType:
    """FAISS, as new as a kind of index needs it.

    Args:
        kind: Of index.
        what: What it is needed for, to begin the message.

    Raises:
        MapError: It is not installed, or too old.
    """
    faiss = load_faiss()
    remedy = "install a newer faiss-cpu, or have the map searched exactly: `vgssl map index MAP --kind exact`."
    if faiss is None:
        raise MapError(f"{what} needs FAISS, and neither faiss-cpu nor faiss-gpu is installed: {remedy}")
    if not hasattr(faiss, _NAMES[kind]):
        raise MapError(f"{what} needs a newer FAISS than {faiss.__version__}, which has no {_NAMES[kind]}: {remedy}")
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
    number = lists(len(blocks))
    with tqdm(total=len(blocks), desc=f"index {kind}", unit="image") as bar:
        bar.set_postfix_str("training")
        if kind == "hnsw":
            index, parameters = _graph(faiss, _sample(blocks, _GRAPH_TRAINING_ROWS, seed), seed), {}
        else:
            sample = _sample(blocks, number * _TRAINING_ROWS_PER_LIST, seed)
            index, parameters = _inverted_file(faiss, sample, number, seed), {"lists": number}
        bar.set_postfix_str("adding")
        for _, rows in blocks.parts(most=_ROWS_AT_ONCE):
            index.add(np.ascontiguousarray(rows))
            bar.update(len(rows))
        bar.set_postfix_str("writing")
        faiss.write_index(index, str(path))
    return parameters


def _graph(faiss: ModuleType, sample: NDArray[np.float32], seed: int) -> Any:
    """A navigable small-world graph (Malkov and Yashunin, 2018) over descriptors of 8 bits per dimension."""
    index = faiss.IndexHNSWSQ(sample.shape[1], faiss.ScalarQuantizer.QT_8bit, GRAPH_LINKS)
    index.hnsw.efConstruction = _GRAPH_BUILD_EFFORT
    index.hnsw.rng = faiss.RandomGenerator(seed)
    index.train(sample)
    return index


def _inverted_file(faiss: ModuleType, sample: NDArray[np.float32], number: int, seed: int) -> Any:
    """Lists around centres, in them four bits for two dimensions: product codes (Jégou et al., 2011).

    They are scanned in the CPU's registers (André et al., 2015). Codes are of the descriptors and not of their
    differences from the centres: one table of distances then serves all lists of a query. On a map of a million images
    RaBitQ took twice as long for the same recall, because it prepares each list.
    """
    dimension = sample.shape[1]
    turned = turned_dimension(dimension)
    # Each step of the training asks for a least number of rows.
    sample = np.resize(sample, (max(len(sample), dimension, 1 << _CODE_BITS, number), dimension))
    turn = _turn(faiss, sample, turned)
    sample = turn.apply(sample)
    centres = faiss.IndexFlatL2(turned)
    parts = turned // 2 if turned % 2 == 0 else turned
    inverted = faiss.IndexIVFPQFastScan(centres, turned, number, parts, _CODE_BITS)
    # Before 1.13 the Python object of the centres is not kept alive: they are given to the index.
    centres.this.disown()
    inverted.own_fields = True
    inverted.by_residual = False
    # Fewer rows than it likes are said on the standard error of the process otherwise.
    for clustering in (inverted.cp, inverted.pq.cp):
        clustering.seed, clustering.min_points_per_centroid = seed, 1
    clustering = faiss.Clustering(turned, number, inverted.cp)
    clustering.train(sample, centres)
    # The codes' k-means are many and tiny: threads would wait for each other a hundred times longer than they work.
    with single_thread(faiss):
        inverted.train(sample)
    return faiss.IndexPreTransform(turn, inverted)


def _turn(faiss: ModuleType, sample: NDArray[np.float32], turned: int) -> Any:
    """To the principal axes, and by a random rotation of these, which spreads the variance over the codes evenly."""
    analysis = faiss.PCAMatrix(sample.shape[1], turned, 0.0, True)
    analysis.train(sample)
    # Without what only the analysis needs.
    turn = faiss.LinearTransform(sample.shape[1], turned, True)
    turn.A, turn.b, turn.is_trained = analysis.A, analysis.b, True
    return turn


def _sample(blocks: Blocks, wanted: int, seed: int) -> NDArray[np.float32]:
    """(n, D) different rows, drawn evenly and read in the order of the files; no more than memory is meant for."""
    count, wanted = len(blocks), min(wanted, _TRAINING_BYTES // (4 * blocks.dimension))
    if wanted >= count:
        return np.concatenate([rows for _, rows in blocks.parts(most=_ROWS_AT_ONCE)])
    return blocks.take(np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False)))
