"""A loaded map: descriptors with poses, searchable."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.manifest import Manifest, read_manifest
from vgssl_core.geomap.segment import open_segment, read_sources


@dataclass(frozen=True)
class Matches:
    """The nearest map images of Q queries, nearest first.

    Attributes:
        indices: (Q, k) int64, index of the map image.
        distances: (Q, k) float32, L2 distance of the descriptors.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]


class GeoMap:
    """A map in memory; its arrays are mapped from the files and read as they are needed.

    Attributes:
        path: The map's folder.
        manifest: What the map says about itself.
        model_id: Of the bundle whose descriptors these are.
        dimension: D.
        datum: Origin of the frame; None for a local map.
        poses: (N,) structured array of ``POSE_DTYPE``: camera poses in the map's frame.
        positions_m: (N, 3) float64, x, y, z of the poses; NaN z where unknown.
        yaw_rad: (N,) float64, NaN where unknown.
        calibration: Features → probability; None until calibrated.
        spacing_m: Typical distance between neighbouring images.
        search_name: What searches, for reports.
    """

    def __init__(self, path: Path, manifest: Manifest, verify: bool = True) -> None:
        """Open the segments of a manifest; `load_map` reads it.

        Raises:
            MapError: A segment is missing, truncated or altered.
        """
        opened = [
            open_segment(path, segment, manifest.dimension, manifest.precision, verify) for segment in manifest.segments
        ]
        poses = [pose for _, pose in opened]
        self.path, self.manifest = path, manifest
        self.model_id, self.dimension, self.datum = manifest.model_id, manifest.dimension, manifest.datum
        self.calibration: dict[str, Any] | None = manifest.calibration
        self.spacing_m = manifest.spacing_m
        self.poses: NDArray[np.void] = poses[0] if len(poses) == 1 else np.concatenate(poses)
        self.positions_m = np.stack([self.poses[axis] for axis in "xyz"], axis=1)
        self.yaw_rad = self.poses["yaw"].astype(np.float64)
        self._search = ExactSearch([descriptors for descriptors, _ in opened])
        self.search_name = self._search.name

    def __len__(self) -> int:
        return len(self.poses)

    def search(self, descriptors: NDArray[np.floating], k: int) -> Matches:
        """The k nearest images (all of them where the map has fewer) of each query.

        Args:
            descriptors: (Q, D) or (D,) unit rows.
            k: Matches per query, at least 1.

        Raises:
            MapError: Descriptors of another length than the map's.
            DataError: A descriptor is not finite, or k < 1.
        """
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
        return Matches(*self._search.search(queries, min(k, len(self))))

    def descriptors(self, rows: slice) -> NDArray[np.float32]:
        """(n, D) float32 descriptors of the images of a slice."""
        return self._search.rows(np.arange(len(self))[rows][None])[0]

    @functools.cached_property
    def sources(self) -> list[str]:
        """Where each image comes from (a file; or a bag, topic and stamp), in the order of the indices.

        Raises:
            MapError: The records are damaged.
        """
        return [source for segment in self.manifest.segments for source in read_sources(self.path, segment)]

    @property
    def size_bytes(self) -> int:
        """Size of the segments on disk."""
        return sum(entry["bytes"] for segment in self.manifest.segments for entry in segment.files.values())

    def to_wgs84(
        self, positions_m: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Latitude, longitude and altitude of (..., 3) positions in the map's frame; NaN for a local map."""
        if self.datum is None:
            unknown = np.full(np.shape(positions_m)[:-1], np.nan)
            return unknown, unknown, unknown
        return self.datum.to_wgs84(positions_m)


def load_map(path: str | Path, verify: bool = True) -> GeoMap:
    """Load a map.

    Args:
        path: The map's folder.
        verify: Read every file once to compare its sha256; without it sizes, shapes and types are checked.

    Raises:
        MapError: Missing, damaged, truncated, altered, or of another format version.
    """
    path = Path(path)
    return GeoMap(path, read_manifest(path), verify)


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
