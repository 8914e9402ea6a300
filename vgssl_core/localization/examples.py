"""What a calibration learns from: queries with truth, in the map and with their place taken out of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vgssl_core.geomap import GeoMap
from vgssl_core.localization.calibration import DEFAULT, Calibration
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.hypotheses import Candidate, candidates_of

#: Map images within so many radii of the truth are taken out, to make an example of a place that the map does not know.
UNKNOWN_RADII = 2.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Examples:
    """Best hypotheses of n queries, what is known about each, in the order of the queries.

    Attributes:
        query: (n,) int64 number of the query; a query whose place was taken out has the number of the original.
        features: (n, F) of the best hypothesis.
        is_known: (n,) whether the map has an image within the radius of the truth.
        is_right: (n,) whether the position lies within the radius of the truth.
        error_m: (n,) horizontal distance of the position from the truth.
        position_misfit: (n,) squared horizontal error over the uncalibrated covariance (eᵀ Σ⁻¹ e); 2 on average where
            the covariance fits.
        heading_misfit: (n,) squared heading error over the uncalibrated variance, 1 on average where it fits; NaN where
            a heading is not known.
    """

    query: NDArray[np.int64]
    features: Floats
    is_known: NDArray[np.bool_]
    is_right: NDArray[np.bool_]
    error_m: Floats
    position_misfit: Floats
    heading_misfit: Floats

    def __len__(self) -> int:
        return len(self.query)

    def subset(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Examples:
        """Some of them."""
        return Examples(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    @classmethod
    def joined(cls, parts: list[Examples]) -> Examples:
        """Several sets as one; queries are numbered through."""
        starts = np.cumsum([0, *(int(part.query.max(initial=-1)) + 1 for part in parts)])
        values = {item.name: np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(cls)}
        values["query"] = np.concatenate([part.query + start for part, start in zip(parts, starts, strict=False)])
        return cls(**values)


def gather_examples(
    geomap: GeoMap,
    descriptors: NDArray[np.float32],
    truth_m: Floats,
    truth_yaw_rad: Floats,
    config: LocalizerConfig | None = None,
    radius_m: float = DEFAULT.radius_m,
    unknown: bool = True,
) -> Examples:
    """Localize every query in the map, and once more in the map without its place.

    Args:
        geomap: The map; searched exactly.
        descriptors: (Q, D) of the queries.
        truth_m: (Q, 2) or (Q, 3) true positions of the camera in the map's frame.
        truth_yaw_rad: (Q,) true yaw, NaN where unknown.
        config: Settings of the localizer that will use the calibration.
        radius_m: Within it a position counts as right.
        unknown: Make the examples of unknown places too; there are none of queries around which the whole map lies.
    """
    config = config or LocalizerConfig()
    reference = Calibration.unscaled(radius_m)
    planar = np.asarray(geomap.positions_m)[:, :2]
    truth = np.asarray(truth_m, np.float64)[:, :2]
    around = cKDTree(planar).query_ball_point(truth, UNKNOWN_RADII * radius_m)
    rows = []
    for number, (place, centre) in enumerate(zip(around, truth, strict=True)):
        place = np.asarray(place, np.int64)
        matches = geomap.search(descriptors[number], config.k + len(place), exact=True)
        indices, distances = matches.indices[0], matches.distances[0]
        is_known = bool((((planar[place] - centre) ** 2).sum(axis=1) <= radius_m**2).any())
        outside = ~np.isin(indices, place)
        # A query that is outside the map anyhow is an example of an unknown place as it is.
        for chosen, known in [(slice(None), is_known)] + [(outside, False)] * (unknown and is_known):
            kept, far = indices[chosen][: config.k], distances[chosen][: config.k]
            if len(kept):
                found = candidates_of(
                    far, geomap.positions_m[kept], geomap.yaw_rad[kept], geomap.spacing_m, config, reference
                )
                rows.append((number, known, found[0], centre, truth_yaw_rad[number]))
    return _examples(rows, radius_m)


def _examples(rows: list[tuple[int, bool, Candidate, Floats, float]], radius_m: float) -> Examples:
    offsets = np.array([best.position_m[:2] - truth for _, _, best, truth, _ in rows]).reshape(-1, 2)
    covariances = np.array([best.covariance for _, _, best, _, _ in rows]).reshape(-1, 4, 4)
    turns = np.array([best.yaw_rad - yaw for _, _, best, _, yaw in rows])
    error = np.linalg.norm(offsets, axis=1)
    solved = np.linalg.solve(covariances[:, :2, :2], offsets[:, :, None])[:, :, 0]
    return Examples(
        query=np.array([number for number, *_ in rows], np.int64),
        features=np.array([best.features for _, _, best, _, _ in rows]),
        is_known=np.array([known for _, known, *_ in rows], bool),
        is_right=error <= radius_m,
        error_m=error,
        position_misfit=np.einsum("nc,nc->n", offsets, solved),
        heading_misfit=((turns + np.pi) % (2 * np.pi) - np.pi) ** 2 / covariances[:, 3, 3],
    )
