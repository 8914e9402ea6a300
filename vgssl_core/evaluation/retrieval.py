"""Single-frame retrieval on a place set: embed, search exactly, count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from vgssl_core.errors import DataError
from vgssl_core.evaluation.metrics import Metrics
from vgssl_core.evaluation.recall import check_overlap, recall_at
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.inference import Embedder, embed_files
from vgssl_core.places import Places, PlaceSet, within_radius


@dataclass(frozen=True)
class RetrievalResult:
    """Nearest database images of every query.

    Attributes:
        queries, database: The places that were embedded (those that decode).
        descriptors: (Q, D) float32 of the queries.
        neighbours: (Q, k) int64 database indices, nearest first.
        positives: (Q, D) boolean, true within the positive radius.
        metrics: Recall@N under the protocol.
    """

    queries: Places
    database: Places
    descriptors: NDArray[np.float32]
    neighbours: NDArray[np.int64]
    positives: csr_matrix
    metrics: Metrics

    @property
    def match_error_m(self) -> NDArray[np.float64]:
        """(Q,) planar distance of each query's nearest neighbour from the query."""
        matched = self.database.planar_m[self.neighbours[:, 0]]
        return np.linalg.norm(matched - self.queries.planar_m, axis=1)


def retrieve(
    embedder: Embedder,
    place_set: PlaceSet,
    radius_m: float = 25.0,
    ns: Sequence[int] = (1, 5, 10),
    skip_damaged: bool = False,
) -> RetrievalResult:
    """Embed a place set and search its database for every query.

    Args:
        embedder: What makes the descriptors.
        place_set: Database and queries.
        radius_m: A database image within this planar distance of a query is right.
        ns: The N of Recall@N.
        skip_damaged: Leave out images that do not decode, and say so in the protocol, instead of raising.

    Raises:
        DataError: No queries, no query with a database image within the radius, or an image that does not decode.
    """
    if not len(place_set.queries):
        raise DataError(f"{place_set.root} has no queries: put them into images/queries, or into the split's queries.")
    # Before the work: embedding may take hours.
    check_overlap(place_set.queries.planar_m, place_set.database.planar_m, radius_m)
    database, database_rows = _embed(embedder, place_set.database, "database", skip_damaged)
    queries, query_rows = _embed(embedder, place_set.queries, "queries", skip_damaged)
    positives = within_radius(queries.planar_m, database.planar_m, radius_m)
    neighbours, _ = ExactSearch([database_rows]).search(query_rows, min(max(ns), len(database)))
    left_out = len(place_set.database) + len(place_set.queries) - len(database) - len(queries)
    shape = embedder.preprocessing
    protocol = (
        f"single-frame retrieval on {place_set.name}: images stretched to {shape.width}x{shape.height}, exact L2 "
        f"search, positives within {radius_m:g} m ({'UTM' if database.is_georeferenced else 'planar metres'})"
        + (f", {left_out} images that do not decode left out" if left_out else "")
    )
    metrics = Metrics(
        protocol,
        recall_at(neighbours, positives, ns),
        queries=int((positives.getnnz(axis=1) > 0).sum()),
        queries_total=len(queries),
        database=len(database),
    )
    return RetrievalResult(queries, database, query_rows, neighbours, positives, metrics)


def _embed(embedder: Embedder, places: Places, part: str, skip_damaged: bool) -> tuple[Places, NDArray[np.float32]]:
    """The places that decode and their descriptors."""
    on_error = "skip" if skip_damaged else "raise"
    embedded = embed_files(embedder, places.paths, on_error=on_error, description=part)
    return places.subset(embedded.kept), embedded.descriptors
