"""Where the images of a map were taken, and their poses in the map's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vgssl_core import geodesy
from vgssl_core.errors import DataError
from vgssl_core.geodesy import LocalFrame
from vgssl_core.places import Places

#: Camera pose in the map's frame: x, y, z in metres (ENU at the datum, or the local plane), yaw in ENU radians.
#: Unknown z and yaw are NaN.
POSE_DTYPE = np.dtype([("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("yaw", "<f4")])
#: Images are ordered by squares of this size, so that a region is a few contiguous slices.
CELL_M = 100.0
#: No place on Earth is further from a map's origin.
FARTHEST_M = 1e8
#: No camera is higher above the Earth's surface or deeper below it: beyond are values that stand for "unknown".
HIGHEST_M = 1e6


@dataclass(frozen=True)
class MapPositions:
    """Positions of N map images: geo-referenced where latitude and longitude are there, else local.

    Attributes:
        latitude_deg: (N,) float64 WGS84, NaN throughout for a local map.
        longitude_deg: (N,) float64 WGS84, NaN throughout for a local map.
        altitude_m: (N,) float64, NaN where unknown.
        heading_deg: (N,) float64, compass heading, NaN where unknown.
        stamp_ns: (N,) int64, ``UNKNOWN_STAMP_NS`` where unknown.
        source: N texts that say where each image is: a file, or a bag with topic and stamp.
        planar_m: (N, 2) float64 east and north in the local plane; needed for a local map only.
    """

    latitude_deg: NDArray[np.float64]
    longitude_deg: NDArray[np.float64]
    altitude_m: NDArray[np.float64]
    heading_deg: NDArray[np.float64]
    stamp_ns: NDArray[np.int64]
    source: Sequence[str]
    planar_m: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def from_places(cls, places: Places) -> MapPositions:
        """Positions of a place set's images."""
        return cls(
            places.latitude_deg,
            places.longitude_deg,
            places.altitude_m,
            places.heading_deg,
            places.stamp_ns,
            tuple(str(path) for path in places.paths),
            places.planar_m,
        )

    def subset(self, indices: NDArray[np.integer]) -> MapPositions:
        """The positions of the given indices, in that order."""
        return replace(
            self,
            **{
                name: getattr(self, name)[indices]
                for name in ("latitude_deg", "longitude_deg", "altitude_m", "heading_deg", "stamp_ns")
            },
            source=tuple(self.source[i] for i in indices),
            planar_m=None if self.planar_m is None else self.planar_m[indices],
        )

    @classmethod
    def joined(cls, parts: Sequence[MapPositions]) -> MapPositions:
        """The positions of several sets, one after the other; in the plane where all of them have it."""

        def column(name: str) -> NDArray:
            return np.concatenate([getattr(part, name) for part in parts])

        names = ("latitude_deg", "longitude_deg", "altitude_m", "heading_deg", "stamp_ns")
        planar = None if any(part.planar_m is None for part in parts) else column("planar_m")
        return cls(*map(column, names), tuple(source for part in parts for source in part.source), planar)

    @property
    def is_georeferenced(self) -> bool:
        """Whether any image has a latitude; `check` refuses sets in which others have none."""
        return bool(np.isfinite(self.latitude_deg).any())

    def check(self) -> None:
        """Refuse what cannot become a map.

        Raises:
            DataError: No image, arrays of different lengths, positions that are missing, not finite or not on Earth,
                or altitudes and headings that are neither NaN nor possible; counts them and names the first.
        """
        count = len(self.source)
        if count == 0:
            raise DataError("There is no image to build a map from.")
        columns = {
            "latitude_deg": (self.latitude_deg, (count,)),
            "longitude_deg": (self.longitude_deg, (count,)),
            "altitude_m": (self.altitude_m, (count,)),
            "heading_deg": (self.heading_deg, (count,)),
            "stamp_ns": (self.stamp_ns, (count,)),
            "planar_m": (self.planar_m, (count, 2)),
        }
        for name, (values, shape) in columns.items():
            if values is not None and values.shape != shape:
                raise DataError(f"{count} images have {name} of shape {values.shape} instead of {shape}.")
        if self.is_georeferenced:
            good = (np.abs(self.latitude_deg) <= 90) & (np.abs(self.longitude_deg) <= 180)
        elif self.planar_m is not None:
            good = (np.abs(self.planar_m) <= FARTHEST_M).all(axis=1)
        else:
            good = np.zeros(count, bool)
        self._refuse_others(good, "position", "a position")
        possible = np.isnan(self.altitude_m) | (np.abs(self.altitude_m) <= HIGHEST_M)
        self._refuse_others(possible, "altitude", "an altitude or none")
        self._refuse_others(~np.isinf(self.heading_deg), "heading", "a heading or none")

    def _refuse_others(self, good: NDArray[np.bool_], what: str, remedy: str) -> None:
        if not good.all():
            first = self.source[int(np.argmin(good))]
            raise DataError(
                f"{len(self) - int(good.sum())} of {len(self)} images have no usable {what}, the first is {first}: "
                f"give them {remedy} or leave them out."
            )

    def datum(self) -> LocalFrame | None:
        """Origin for the map's frame: the mean position, at the mean of the known altitudes (else 0).

        None for a local map.
        """
        if not self.is_georeferenced:
            return None
        # The mean of the directions from the Earth's centre is right across the antimeridian and at the poles.
        mean = geodesy.geocentric(self.latitude_deg, self.longitude_deg).mean(axis=0)
        latitude, longitude = geodesy.geocentric_to_wgs84(mean)
        known = self.altitude_m[np.isfinite(self.altitude_m)]
        altitude = round(float(known.mean()), 3) if len(known) else 0.0
        return LocalFrame(round(float(latitude), 7), round(float(longitude), 7), altitude)

    def poses(self, datum: LocalFrame | None) -> NDArray[np.void]:
        """(N,) poses of ``POSE_DTYPE`` in the map's frame."""
        poses = np.zeros(len(self), POSE_DTYPE)
        if datum is None:
            assert self.planar_m is not None
            poses["x"], poses["y"], poses["z"] = *self.planar_m.T, self.altitude_m
        else:
            poses["x"], poses["y"], poses["z"] = datum.to_enu(self.latitude_deg, self.longitude_deg, self.altitude_m).T
        poses["yaw"] = geodesy.compass_to_yaw_rad(self.heading_deg)
        poses["z"][~np.isfinite(poses["z"])] = np.nan
        return poses


def cell_order(poses: NDArray[np.void]) -> NDArray[np.int64]:
    """Indices that sort poses by their square of ``CELL_M``, keeping the given order inside a square."""
    return np.lexsort((np.floor(poses["x"] / CELL_M), np.floor(poses["y"] / CELL_M))).astype(np.int64)


def tile_groups(poses: NDArray[np.void], tile_m: float) -> list[NDArray[np.int64]]:
    """Indices of the images of each square tile that holds any, ordered by cell inside a tile."""
    order = cell_order(poses)
    columns, rows = (np.floor(poses[axis][order] / tile_m) for axis in "xy")
    by_tile = np.lexsort((columns, rows))
    steps = np.flatnonzero((np.diff(columns[by_tile]) != 0) | (np.diff(rows[by_tile]) != 0)) + 1
    return np.split(order[by_tile], steps)


def typical_spacing_m(poses: NDArray[np.void]) -> float:
    """Median distance from an image to the nearest one at another place; 0 where there is none."""
    planar = np.unique(np.stack([poses["x"], poses["y"]], axis=1), axis=0)
    if len(planar) < 2:
        return 0.0
    return float(np.median(cKDTree(planar).query(planar, k=2)[0][:, 1]))
