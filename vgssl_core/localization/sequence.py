"""Causal sequence matching without metric positions: the temporal filter on the order of the map's images.

The map becomes a line whose metre is one image: image n of a drive lies at x = n. The robot moves along it by so many
images per update, forwards or backwards, at a speed that the filter learns; everything else is the temporal filter's.
It differs from SeqSLAM (Milford and Wyeth, ICRA 2012) in that it never looks ahead, needs no constant speed, and says
how sure it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vgssl_core.geomap import GeoMap
from vgssl_core.geomap.records import read_records
from vgssl_core.localization.calibration import Calibration
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.filter import Estimate, TemporalFilter
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.hypotheses import Hypothesis, candidates_of
from vgssl_core.localization.localizer import Localization
from vgssl_core.localization.states import State
from vgssl_core.places.place_set import UNKNOWN_STAMP_NS

#: Between two drives of a map lie so many images of nothing, so that no drive leads into another one.
_GAP = 1000.0
_UPDATE_NS = 1_000_000_000
#: Variance across the line, on which everything lies.
_ACROSS = 0.04
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SequenceConfig:
    """How a query sequence runs along a map's.

    Attributes:
        radius_images: An answer within so many images of the truth counts as right.
        speed_images: Standard deviation of the speed, in map images per update.
        memory_updates: After so many updates 63 % of the speed is forgotten.
        cluster_images: Matches within this distance of each other are one place.
        k: Matches of a query that are looked at.
        threshold: Probability from which an answer is accepted; None takes the calibration's.
    """

    radius_images: float = 5.0
    speed_images: float = 2.0
    memory_updates: float = 10.0
    cluster_images: float = 2.0
    k: int = 20
    threshold: float | None = None


@dataclass(frozen=True)
class SequenceEstimate:
    """Where in the map's sequence the robot is.

    Attributes:
        state: Whether it knows.
        image: Index of the map image; None as long as nothing was ever seen.
        probability: That the image is within ``radius_images`` of the right one.
        is_accepted: Whether the state is `State.LOCALIZED` and the probability reaches the threshold.
        alternatives: Further images with their probabilities, best first.
    """

    state: State
    image: int | None
    probability: float
    is_accepted: bool
    alternatives: tuple[tuple[int, float], ...]


class SequenceLine:
    """The images of a map on a line, as far as the temporal filter asks a map.

    Attributes:
        positions_m: (N, 3) x = place in the sequence in images, y = 0, z unknown.
        yaw_rad: (N,) unknown.
        spacing_m: 1 image.
    """

    spacing_m = 1.0

    def __init__(self, places: Floats) -> None:
        """Lay images on the line.

        Args:
            places: (N,) place of each map image, see `sequence_places`.
        """
        self.positions_m = np.full((len(places), 3), np.nan)
        self.positions_m[:, 0], self.positions_m[:, 1] = places, 0.0
        self.yaw_rad = np.full(len(places), np.nan)

    def __len__(self) -> int:
        return len(self.positions_m)

    def to_wgs84(self, positions_m: Floats) -> tuple[Floats, Floats, Floats]:
        """Unknown: a sequence lies nowhere."""
        unknown = np.full(np.shape(positions_m)[:-1], np.nan)
        return unknown, unknown, unknown


class SequenceFilter:
    """Matches in, images of the map's sequence out; one update for each query, in the order of time."""

    def __init__(self, places: Floats, calibration: Calibration, config: SequenceConfig | None = None) -> None:
        """Begin lost.

        Args:
            places: (N,) place of each map image in its sequence, see `sequence_places`.
            calibration: Of the map or the default; distances in it are taken for images.
            config: The settings; None takes the defaults.
        """
        self.config = config = config or SequenceConfig()
        self._line, self._calibration = SequenceLine(places), replace(calibration, radius_m=config.radius_images)
        self._order = np.argsort(places, kind="stable")
        self._places = np.asarray(places, np.float64)[self._order]
        self._localizer = LocalizerConfig(k=config.k, cluster_radius_m=config.cluster_images)
        settings = FilterConfig(
            threshold=config.threshold,
            speed_mps=config.speed_images,
            speed_memory_s=config.memory_updates,
            independent_m=1.0,
            max_sigma_m=max(50.0, 5.0 * config.speed_images),
        )
        self._filter = TemporalFilter(self._line, self._calibration, settings)  # type: ignore[arg-type]
        self._updates = 0

    def reset(self) -> None:
        """Forget everything."""
        self._filter.reset()

    def update(
        self, indices: NDArray[np.integer] | None, distances: NDArray[np.floating] | None = None
    ) -> SequenceEstimate:
        """The belief after one more query.

        Args:
            indices: (k,) matched map images, nearest first; None where the query could not be used.
            distances: (k,) their L2 descriptor distances.
        """
        self._updates += 1
        localization = None
        if indices is not None and distances is not None:
            localization = self._localization(np.asarray(indices)[: self.config.k], distances[: self.config.k])
        return self._told(self._filter.update(self._updates * _UPDATE_NS, localization))

    def _localization(self, indices: NDArray[np.integer], distances: NDArray[np.floating]) -> Localization:
        line = self._line
        candidates = candidates_of(
            distances, line.positions_m[indices], line.yaw_rad[indices], 1.0, self._localizer, self._calibration
        )
        for item in candidates:
            item.covariance[1] = item.covariance[:, 1] = 0.0
            item.covariance[1, 1] = _ACROSS
        hypotheses = [
            Hypothesis(
                rank=rank,
                position_m=item.position_m,
                yaw_rad=item.yaw_rad,
                covariance=item.covariance,
                score=item.score,
                probability=self._calibration.probability(item.features),
                support=item.support,
                latitude_deg=np.nan,
                longitude_deg=np.nan,
                altitude_m=np.nan,
                sigma_m=float(np.sqrt(item.covariance[0, 0])),
            )
            for rank, item in enumerate(candidates)
        ]
        return Localization(indices, distances, tuple(hypotheses), {})

    def _told(self, estimate: Estimate) -> SequenceEstimate:
        answers = [(self._nearest(item.position_m[0]), item.probability) for item in estimate.hypotheses]
        image, probability = answers[0] if answers else (None, 0.0)
        return SequenceEstimate(estimate.state, image, probability, estimate.accepted is not None, tuple(answers[1:]))

    def _nearest(self, place: float) -> int:
        """Index of the map image nearest to a place on the line."""
        at = int(np.clip(np.searchsorted(self._places, place), 1, max(len(self._places) - 1, 1)))
        before = max(at - 1, 0)
        at = min(at, len(self._places) - 1)
        nearer = before if place - self._places[before] <= self._places[at] - place else at
        return int(self._order[nearer])


def sequence_places(geomap: GeoMap, max_gap_s: float = 30.0) -> Floats:
    """Place of each map image in the order of recording, where drives are far from each other.

    Images follow each other by their stamps, or by the names of their sources where a stamp is not known.

    Args:
        geomap: The map.
        max_gap_s: Images further apart than this belong to different drives.

    Returns:
        (N,) float64: 0, 1, 2, … along a drive.

    Raises:
        MapError: The records are damaged.
    """
    tables = [read_records(geomap.path, segment, ("stamp_ns", "source")) for segment in geomap.manifest.segments]
    stamps = np.concatenate([table["stamp_ns"].to_numpy() for table in tables])
    if (stamps == UNKNOWN_STAMP_NS).any():
        sources = [source for table in tables for source in table["source"].to_pylist()]
        order = np.array(sorted(range(len(sources)), key=sources.__getitem__))
        jumps = np.zeros(len(order))
    else:
        order = np.argsort(stamps, kind="stable")
        jumps = np.append(0.0, np.diff(stamps[order]) > max_gap_s * 1e9)
    places = np.empty(len(order))
    places[order] = np.arange(len(order)) + _GAP * np.cumsum(jumps)
    return places
