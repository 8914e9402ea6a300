"""A map of simulated images, for benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from simulated_map import simulate

from vgssl_core.geodesy import LocalFrame
from vgssl_core.geomap import GeoMap, MapPositions, build_map, load_map
from vgssl_core.places import UNKNOWN_STAMP_NS


def example_map(folder: Path, count: int, dimension: int, model_id: str, index: str = "auto") -> GeoMap:
    """Build a map of ``count`` images of the kind ``trajectories-1``, and its index.

    Args:
        folder: Of the map.
        count: Images.
        dimension: D of their descriptors.
        model_id: Of the network that queries come from.
        index: ``auto`` takes what the map's size suggests; else a kind of index, such as ``exact``.
    """
    simulated = simulate("trajectories-1", count, dimension, queries=1)
    level = np.column_stack([simulated.planar_m, np.zeros(count)])
    positions = MapPositions(
        *LocalFrame(50.0, 14.4, 200.0).to_wgs84(level),
        heading_deg=np.zeros(count),
        stamp_ns=np.full(count, UNKNOWN_STAMP_NS),
        source=tuple(str(number) for number in range(count)),
    )
    build_map(folder, simulated.descriptors, model_id, positions)
    if index != "exact":
        from vgssl_core.geomap.index.reindex import reindex

        reindex(folder, index)
    return load_map(folder)
