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
        count: Number of queries; all where there are fewer. On one's own streets a query and its positive are two,
            because each is the other's positive.

    Returns:
        A set of those queries and their positives alone. On one's own streets queries and database are one object, all
        of these images, so that none is its own positive.

    Raises:
        DataError: No query has a positive.
    """
    pairs = GeoPairs(places, config)
    count = max(1, count // 2) if pairs.own_streets else count
    places_in_order = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(np.int64)
    queries = pairs.usable[places_in_order]
    positives = np.unique([pairs.positives(int(query))[0] for query in queries])
    if pairs.own_streets:
        images = pairs.database.subset(np.union1d(queries, positives))
        return PlaceSet(f"{len(images)} images of {places.name}", places.root, images, images)
    name = f"{len(queries)} pairs of {places.name}"
    return PlaceSet(name, places.root, pairs.database.subset(positives), pairs.queries.subset(queries))
