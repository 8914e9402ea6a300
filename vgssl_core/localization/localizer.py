"""The one object that turns an image into geo-pose hypotheses; node, bag evaluation and command line all call it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import BundleError
from vgssl_core.geomap import GeoMap, load_map, require_model
from vgssl_core.imaging import Image
from vgssl_core.inference import Embedder, load_bundle, open_embedder
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.hypotheses import Hypothesis, cluster_matches, match_weights, pose_of


@dataclass(frozen=True)
class Localization:
    """The answer for one image.

    Attributes:
        indices: (k,) int64, the nearest map images, nearest first.
        distances: (k,) float32, their L2 descriptor distances.
        hypotheses: Best first; at least one.
        timings_ms: Stage (``embed``, ``search``, ``hypotheses``) → milliseconds.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]
    hypotheses: tuple[Hypothesis, ...]
    timings_ms: dict[str, float]


class Localizer:
    """Image, descriptor or matches in; hypotheses out.

    Attributes:
        embedder, geomap, config: What it was made of.
    """

    def __init__(self, embedder: Embedder, geomap: GeoMap, config: LocalizerConfig | None = None) -> None:
        """Join an embedder and a map.

        Raises:
            MapError: The map was built by another model; names both.
        """
        require_model(geomap, embedder.model_id, "the given bundle")
        self.embedder, self.geomap, self.config = embedder, geomap, config or LocalizerConfig()

    @property
    def least_size(self) -> tuple[int, int]:
        """Width and height of the network's input: what `decode_image` may reduce a large JPEG to."""
        return self.embedder.preprocessing.width, self.embedder.preprocessing.height

    def localize(self, image: Image) -> Localization:
        """Hypotheses for an RGB image of any size."""
        begin = time.perf_counter()
        descriptor = self.embedder.embed([image])[0]
        return self._localize(descriptor, {"embed": _milliseconds(begin)})

    def localize_descriptor(self, descriptor: NDArray[np.float32]) -> Localization:
        """Hypotheses for a ready (D,) descriptor of the map's model.

        Raises:
            MapError: Its length is not the map's.
            DataError: It is not finite.
        """
        return self._localize(descriptor, {})

    def localize_matches(self, indices: NDArray[np.int64], distances: NDArray[np.float32]) -> Localization:
        """Hypotheses for ready (k,) matches, nearest first."""
        return self._hypothesize(np.asarray(indices, np.int64), np.asarray(distances, np.float32), {})

    def _localize(self, descriptor: NDArray[np.float32], timings_ms: dict[str, float]) -> Localization:
        begin = time.perf_counter()
        matches = self.geomap.search(descriptor, self.config.k)
        timings_ms["search"] = _milliseconds(begin)
        return self._hypothesize(matches.indices[0], matches.distances[0], timings_ms)

    def _hypothesize(
        self, indices: NDArray[np.int64], distances: NDArray[np.float32], timings_ms: dict[str, float]
    ) -> Localization:
        begin = time.perf_counter()
        config = self.config
        positions, yaw = self.geomap.positions_m[indices], self.geomap.yaw_rad[indices]
        weights = match_weights(distances, config.temperature)
        clusters = cluster_matches(positions[:, :2], weights, config.cluster_radius_m, config.max_hypotheses)
        poses = [
            pose_of(positions[c.members], yaw[c.members], weights[c.members], self.geomap.spacing_m, config)
            for c in clusters
        ]
        latitudes, longitudes, altitudes = self.geomap.to_wgs84(np.stack([position for position, _, _ in poses]))
        hypotheses = tuple(
            Hypothesis(
                rank=rank,
                position_m=position,
                yaw_rad=heading,
                covariance=covariance,
                score=cluster.score,
                probability=None,
                support=len(cluster.members),
                latitude_deg=float(latitudes[rank]),
                longitude_deg=float(longitudes[rank]),
                altitude_m=float(altitudes[rank]),
                sigma_m=float(np.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1])),
            )
            for rank, (cluster, (position, heading, covariance)) in enumerate(zip(clusters, poses, strict=True))
        )
        timings_ms["hypotheses"] = _milliseconds(begin)
        return Localization(indices, distances, hypotheses, timings_ms)


def open_localizer(
    map_path: str | Path,
    bundle_path: str | Path | None = None,
    config: LocalizerConfig | None = None,
    backend: str = "auto",
    threads: int | None = None,
    verify: bool = False,
    precision: str = "auto",
) -> Localizer:
    """Load a map and its bundle, and join them.

    Args:
        map_path: The map's folder.
        bundle_path: The bundle's folder; None takes the one that the map remembers.
        config: Settings; None takes the defaults.
        backend: ``auto`` or the name of an engine.
        threads: Threads of OpenCV, FAISS and the engine; None takes all cores.
        verify: Check the whole map, not only what is new on this machine.
        precision: See `open_embedder`.

    Raises:
        BundleError: The bundle is missing or damaged.
        MapError: The map is missing, damaged or of another model.
        ConfigError: The engine is not there.
    """
    geomap = load_map(map_path, verify)
    bundle = load_bundle(remembered_bundle(geomap) if bundle_path is None else bundle_path)
    # Before the engine is opened, which takes much longer.
    require_model(geomap, bundle.model_id, f"bundle {bundle.path}")
    return Localizer(open_embedder(bundle, backend, threads, precision=precision), geomap, config)


def remembered_bundle(geomap: GeoMap) -> Path:
    """The bundle that built a map, where it was then, beside the map or at its absolute path.

    Raises:
        BundleError: The map remembers none, or it is gone.
    """
    reference = geomap.manifest.bundle
    places = [geomap.path / reference["relative"]] if "relative" in reference else []
    places += [Path(reference["path"])] if "path" in reference else []
    for place in places:
        if place.is_dir():
            return place.resolve()
    tried = f"it is no longer at {' or '.join(str(place) for place in places)}" if places else "the map names none"
    raise BundleError(f"The bundle that built map {geomap.path} is needed and {tried}: give its folder with --bundle.")


def _milliseconds(begin: float) -> float:
    return (time.perf_counter() - begin) * 1e3
