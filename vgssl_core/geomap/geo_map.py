"""A loaded map: descriptors with poses, searchable."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError, MapError
from vgssl_core.geodesy import LocalFrame
from vgssl_core.geomap.blocks import Blocks, StoredBlocks
from vgssl_core.geomap.index.entry import parse_index
from vgssl_core.geomap.index.search import IndexedSearch, open_search
from vgssl_core.geomap.manifest import Manifest, still_there, with_manifest
from vgssl_core.geomap.outline import Outline, open_outline
from vgssl_core.geomap.positions import FARTHEST_M
from vgssl_core.geomap.records import read_sources
from vgssl_core.geomap.region import RegionSearch
from vgssl_core.geomap.segment import open_segment


@dataclass(frozen=True)
class Matches:
    """The nearest map images of Q queries, nearest first.

    Attributes:
        indices: (Q, k) int64, index of the map image.
        distances: (Q, k) float32, L2 distance of the descriptors.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]


class InMapFrame:
    """Whatever has its positions in a map's frame.

    Attributes:
        datum: Origin of the frame; None for a local map.
    """

    datum: LocalFrame | None

    def to_wgs84(
        self, positions_m: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Latitude, longitude and altitude of (..., 3) positions in the map's frame; NaN for a local map."""
        if self.datum is None:
            unknown = np.full(np.shape(positions_m)[:-1], np.nan)
            return unknown, unknown, unknown
        return self.datum.to_wgs84(positions_m)


class GeoMap(InMapFrame):
    """A map in memory; its arrays are mapped from the files and read as they are needed.

    Attributes:
        path: The map's folder.
        manifest: What the map says about itself.
        model_id: Of the bundle whose descriptors these are.
        dimension: D.
        datum: Origin of the frame; None for a local map.
        calibration: Features → probability; None until calibrated.
        spacing_m: Typical distance between neighbouring images.
        index: The approximate index; None where the map is searched exactly.
        search_name: What searches, for reports.
    """

    def __init__(self, path: Path, manifest: Manifest, verify: bool = False) -> None:
        """Open the segments of a manifest; `load_map` reads it.

        Raises:
            MapError: A segment is missing, truncated or altered.
        """
        opened = [
            open_segment(path, segment, manifest.dimension, manifest.precision, verify) for segment in manifest.segments
        ]
        self.path, self.manifest = path, manifest
        self.model_id, self.dimension, self.datum = manifest.model_id, manifest.dimension, manifest.datum
        self.calibration: dict[str, Any] | None = manifest.calibration
        self.spacing_m = manifest.spacing_m
        self.index = parse_index(manifest.index, [(segment.name, segment.count) for segment in manifest.segments])
        self._poses = [poses for _, poses in opened]
        # Exact search reads all rows; an index asks for single ones, which need not stay in memory.
        blocks_type = Blocks if self.index is None else StoredBlocks
        self._blocks = blocks_type([descriptors for descriptors, _ in opened])
        self._search = open_search(path, self.index, self._blocks, verify)
        self.search_name = self._search.name
        self._outline: Outline | None = None
        if self.index is not None and self.index.outline is not None:
            self._outline = open_outline(path, self.index.outline, self.index.count, self._blocks, verify)

    def __len__(self) -> int:
        return len(self._blocks)

    @functools.cached_property
    def poses(self) -> NDArray[np.void]:
        """(N,) array of ``POSE_DTYPE``: camera poses in the map's frame; a copy where there are several segments."""
        return np.asarray(self._poses[0]) if len(self._poses) == 1 else np.concatenate(self._poses)

    @functools.cached_property
    def positions_m(self) -> NDArray[np.float64]:
        """(N, 3) float64, x, y, z of the poses, without a copy; NaN z where unknown."""
        first, second = (self.poses.dtype.fields[axis][1] for axis in "xy")
        return np.ndarray((len(self), 3), "<f8", self.poses, first, (self.poses.strides[0], second - first))

    @functools.cached_property
    def yaw_rad(self) -> NDArray[np.float64]:
        """(N,) float64, NaN where unknown."""
        return self.poses["yaw"].astype(np.float64)

    @functools.cached_property
    def _region(self) -> RegionSearch:
        return RegionSearch(self._blocks, self.poses, outline=self._outline)

    def search(self, descriptors: NDArray[np.floating], k: int, exact: bool = False) -> Matches:
        """The k nearest images (all of them where the map has fewer) of each query.

        With an approximate index an image may be missed, as often as its measured recall says; the distances are
        exact.

        Args:
            descriptors: (Q, D) or (D,) unit rows.
            k: Matches per query, at least 1.
            exact: Compare with every image, whatever index the map has.

        Raises:
            MapError: Descriptors of another length than the map's.
            DataError: A descriptor is not finite, or k < 1.
        """
        queries = self._queries(descriptors, k)
        search = self._search.exact if exact and isinstance(self._search, IndexedSearch) else self._search
        return Matches(*search.search(queries, min(k, len(self))))

    def search_near(
        self, descriptors: NDArray[np.floating], k: int, x_m: float, y_m: float, radius_m: float
    ) -> Matches:
        """The k nearest images of each query among those around a place, exactly and faster than among all.

        Args:
            descriptors: (Q, D) or (D,) unit rows.
            k: Matches per query, at least 1; there are fewer where fewer images lie within the radius.
            x_m: The place, in the map's frame.
            y_m: The same.
            radius_m: Horizontal radius around it.

        Raises:
            MapError: Descriptors of another length than the map's.
            DataError: A descriptor is not finite, the place is not on Earth, the radius is not positive, or k < 1.
        """
        queries = self._queries(descriptors, k)
        if not (0 < radius_m <= FARTHEST_M and abs(x_m) <= FARTHEST_M and abs(y_m) <= FARTHEST_M):
            raise DataError(f"There is no circle of {radius_m} m around ({x_m}, {y_m}): give a place and a radius.")
        return Matches(*self._region.search(queries, k, float(x_m), float(y_m), float(radius_m)))

    def _queries(self, descriptors: NDArray[np.floating], k: int) -> NDArray[np.float32]:
        """(Q, D) contiguous float32 queries, checked."""
        queries = np.ascontiguousarray(np.atleast_2d(descriptors), np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise MapError(
                f"Map {self.path} holds descriptors of length {self.dimension} and the queries have shape "
                f"{queries.shape}: use the bundle that built the map."
            )
        if k < 1:
            raise DataError(f"{k} matches were asked for: ask for at least 1.")
        if not np.isfinite(queries).all():
            raise DataError("A query's descriptor is not finite: the network does not fit this image or engine.")
        return queries

    def descriptors(self, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """(n, D) float32 descriptors of the images of a slice, or of (n,) indices."""
        return self._blocks.take(np.arange(len(self))[rows])

    @functools.cached_property
    def sources(self) -> list[str]:
        """Where each image comes from (a file; or a bag, topic and stamp), in the order of the indices.

        Raises:
            MapError: The records are damaged, or the map has changed since it was loaded.
        """
        found: list[str] = []
        for segment in self.manifest.segments:
            with still_there(self.path, segment):
                found += read_sources(self.path, segment)
        return found

    @property
    def size_bytes(self) -> int:
        """Size of the segments, of the index and of the outlines on disk."""
        segments = sum(entry["bytes"] for segment in self.manifest.segments for entry in segment.files.values())
        return segments + (0 if self.index is None else self.index.all_bytes)


def load_map(path: str | Path, verify: bool = False) -> GeoMap:
    """Load a map.

    Args:
        path: The map's folder.
        verify: Compare all checksums and look at all values; without it that happens on the first load of new files.

    Raises:
        MapError: Missing, damaged, truncated, altered, or of another format version.
    """
    path = Path(path)
    return with_manifest(path, lambda manifest: GeoMap(path, manifest, verify))


def require_model(geomap: GeoMap, model_id: str, what: str) -> None:
    """Refuse a map of another model.

    Args:
        geomap: The map.
        model_id: Of the network that makes the queries.
        what: Where that network comes from, for the message.

    Raises:
        MapError: The identifiers differ; names both.
    """
    if geomap.model_id != model_id:
        raise MapError(
            f"Map {geomap.path} was built by model {geomap.model_id[:16]}… and {what} is model {model_id[:16]}…: "
            "their descriptors cannot be compared. Give the bundle that built the map, or build the map again."
        )
