"""Geotagged images as columns, split in database and queries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Stamp of an image whose time is not known.
UNKNOWN_STAMP_NS = -1


@dataclass(frozen=True)
class Places:
    """N geotagged images.

    Attributes:
        paths: N image files.
        planar_m: (N, 2) float64, east and north in metres: UTM in one zone for all, or the set's own local
            plane. Distances of the ``@``-named sets are taken here, as their authors did.
        latitude_deg, longitude_deg: (N,) float64 WGS84; NaN throughout for a local set.
        altitude_m: (N,) float64, NaN where unknown.
        heading_deg: (N,) float64, compass heading, NaN where unknown.
        stamp_ns: (N,) int64, ``UNKNOWN_STAMP_NS`` where unknown.
    """

    paths: tuple[Path, ...]
    planar_m: NDArray[np.float64]
    latitude_deg: NDArray[np.float64]
    longitude_deg: NDArray[np.float64]
    altitude_m: NDArray[np.float64]
    heading_deg: NDArray[np.float64]
    stamp_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: NDArray[np.integer] | list[int]) -> Places:
        """The places of the given indices, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Places(
            tuple(self.paths[i] for i in chosen),
            self.planar_m[chosen],
            self.latitude_deg[chosen],
            self.longitude_deg[chosen],
            self.altitude_m[chosen],
            self.heading_deg[chosen],
            self.stamp_ns[chosen],
        )

    @property
    def is_georeferenced(self) -> bool:
        """Whether latitude and longitude are known; otherwise the places are local."""
        return len(self) > 0 and bool(np.isfinite(self.latitude_deg).all())


@dataclass(frozen=True)
class PlaceSet:
    """Database and queries of one area; ``queries`` is empty for a set that was driven once.

    Attributes:
        name: Short name for reports: folder and split.
        root: Folder that the set was read from.
        database, queries: The images.
    """

    name: str
    root: Path
    database: Places
    queries: Places
