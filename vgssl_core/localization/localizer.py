"""The one object that turns an image into geo-pose hypotheses; node, bag evaluation and command line all call it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import BundleError, ConfigError
from vgssl_core.geomap import GeoMap, load_map, require_model
from vgssl_core.imaging import Image
from vgssl_core.inference import Embedder, load_bundle, open_embedder
from vgssl_core.localization.blank import is_blank
from vgssl_core.localization.calibration import DEFAULT, Calibration
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.hypotheses import Candidate, Hypothesis, candidates_of
from vgssl_core.localization.region import Region

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Localization:
    """The answer for one image.

    Attributes:
        indices: (k,) int64, the nearest map images, nearest first.
        distances: (k,) float32, their L2 descriptor distances.
        hypotheses: Best first, by probability and then by score; at least one, but where a region holds no image.
        timings_ms: Stage (``embed``, ``search``, ``hypotheses``) → milliseconds.
        threshold: What a probability must reach to be accepted.
        is_blank: Whether the image shows nothing (`blank.is_blank`); all probabilities are 0 then.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]
    hypotheses: tuple[Hypothesis, ...]
    timings_ms: dict[str, float]
    threshold: float = 1.0
    is_blank: bool = False

    @property
    def accepted(self) -> Hypothesis | None:
        """The best hypothesis, where it is probable enough to act on."""
        best = next(iter(self.hypotheses), None)
        return best if best is not None and best.probability >= self.threshold else None


class Localizer:
    """Image, descriptor or matches in; hypotheses out.

    Attributes:
        embedder, geomap, config: What it was made of.
        calibration: The map's where it fits the embedder and the settings, else the built-in conservative one.
        threshold: What a probability must reach to be accepted.
    """

    def __init__(self, embedder: Embedder, geomap: GeoMap, config: LocalizerConfig | None = None) -> None:
        """Join an embedder and a map.

        Raises:
            MapError: The map was built by another model (names both), or its calibration is damaged.
            ConfigError: A radius that is not the calibration's.
        """
        require_model(geomap, embedder.model_id, "the given bundle")
        self.embedder, self.geomap, self.config = embedder, geomap, config or LocalizerConfig()
        self.calibration = _calibration_of(geomap, embedder, self.config)
        self.threshold = self.calibration.threshold if self.config.threshold is None else self.config.threshold

    @property
    def least_size(self) -> tuple[int, int]:
        """Width and height of the network's input: what `decode_image` may reduce a large JPEG to."""
        return self.embedder.preprocessing.width, self.embedder.preprocessing.height

    def localize(self, image: Image, region: Region | None = None) -> Localization:
        """Hypotheses for an RGB image of any size.

        Args:
            image: The image.
            region: Search only there.
        """
        begin = time.perf_counter()
        descriptor = self.embedder.embed([image])[0]
        blank = is_blank(image)
        return self._localize(descriptor, region, {"embed": _milliseconds(begin)}, blank)

    def localize_descriptor(self, descriptor: NDArray[np.float32], region: Region | None = None) -> Localization:
        """Hypotheses for a ready (D,) descriptor of the map's model; that the image shows anything is presumed.

        Args:
            descriptor: Of unit length.
            region: Search only there.

        Raises:
            MapError: Its length is not the map's.
            DataError: It is not finite.
        """
        return self._localize(descriptor, region, {})

    def localize_matches(self, indices: NDArray[np.int64], distances: NDArray[np.float32]) -> Localization:
        """Hypotheses for ready (k,) matches, nearest first; that the image shows anything is presumed."""
        return self._hypothesize(np.asarray(indices, np.int64), np.asarray(distances, np.float32), {})

    def _localize(
        self,
        descriptor: NDArray[np.float32],
        region: Region | None,
        timings_ms: dict[str, float],
        is_blank: bool = False,
    ) -> Localization:
        begin = time.perf_counter()
        if region is None:
            matches = self.geomap.search(descriptor, self.config.k)
        else:
            matches = self.geomap.search_near(descriptor, self.config.k, region.x_m, region.y_m, region.radius_m)
        timings_ms["search"] = _milliseconds(begin)
        return self._hypothesize(matches.indices[0], matches.distances[0], timings_ms, is_blank)

    def _hypothesize(
        self,
        indices: NDArray[np.int64],
        distances: NDArray[np.float32],
        timings_ms: dict[str, float],
        is_blank: bool = False,
    ) -> Localization:
        begin = time.perf_counter()
        geomap = self.geomap
        candidates = candidates_of(
            distances,
            geomap.positions_m[indices],
            geomap.yaw_rad[indices],
            geomap.spacing_m,
            self.config,
            self.calibration,
        )
        hypotheses = self._ranked(candidates, is_blank) if candidates else ()
        timings_ms["hypotheses"] = _milliseconds(begin)
        return Localization(indices, distances, hypotheses, timings_ms, self.threshold, is_blank)

    def _ranked(self, candidates: list[Candidate], is_blank: bool) -> tuple[Hypothesis, ...]:
        """Candidates with probability and geographic position, the most probable first."""
        probabilities = self.calibration.probabilities(np.stack([item.features for item in candidates]))
        probabilities *= not is_blank
        order = np.lexsort((-np.array([item.score for item in candidates]), -probabilities))
        latitudes, longitudes, altitudes = self.geomap.to_wgs84(np.stack([item.position_m for item in candidates]))
        return tuple(
            Hypothesis(
                rank=rank,
                position_m=candidates[at].position_m,
                yaw_rad=candidates[at].yaw_rad,
                covariance=candidates[at].covariance,
                score=candidates[at].score,
                probability=float(probabilities[at]),
                support=candidates[at].support,
                latitude_deg=float(latitudes[at]),
                longitude_deg=float(longitudes[at]),
                altitude_m=float(altitudes[at]),
                sigma_m=float(np.sqrt(np.linalg.eigvalsh(candidates[at].covariance[:2, :2])[-1])),
            )
            for rank, at in enumerate(order.tolist())
        )


def _calibration_of(geomap: GeoMap, embedder: Embedder, config: LocalizerConfig) -> Calibration:
    """The map's calibration, or the default where there is none that fits; the log says which and why.

    Raises:
        MapError: It is damaged.
        ConfigError: The settings ask for another radius.
    """
    calibration, problem = DEFAULT, "it is not calibrated"
    if geomap.calibration is not None:
        calibration = Calibration.parse(geomap.calibration)
        # Only engines of bundles know other precisions; baselines and tests compute in fp32.
        problem = calibration.misfit(embedder.model_id, getattr(embedder, "precision", "fp32"), config)
    if problem:
        calibration = DEFAULT
        _log.warning(
            "Map %s: %s. The built-in calibration is used, which accepts only what is certain beyond doubt and fits no "
            "map exactly: calibrate with `vgssl calibrate`.",
            geomap.path,
            problem,
        )
    if config.radius_m not in (None, calibration.radius_m):
        raise ConfigError(
            f"The calibration of map {geomap.path} is for positions within {calibration.radius_m:g} m, and radius_m "
            f"is {config.radius_m:g}: leave it out, or calibrate for that radius."
        )
    return calibration


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
