"""A handful of pairs of a place set, on which a method that works must succeed."""

from __future__ import annotations

import numpy as np

from vgssl_core.geopair.pairs import GeoPairs, PairConfig
from vgssl_core.places import PlaceSet


def few_pairs(places: PlaceSet, config: PairConfig, count: int) -> PlaceSet:
    """Queries that lie as far apart in the set as possible, each with its first positive.

    Args:
        places: With or without queries.
        config: What a positive is.
        count: Number of queries; all where there are fewer.

    Returns:
        A set of those queries and their positives alone.

    Raises:
        DataError: No query has a positive.
    """
    pairs = GeoPairs(places, config)
    places_in_order = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(np.int64)
    queries = pairs.usable[places_in_order]
    positives = np.unique([pairs.positives(int(query))[0] for query in queries])
    name = f"{len(queries)} pairs of {places.name}"
    return PlaceSet(name, places.root, pairs.database.subset(positives), pairs.queries.subset(queries))
