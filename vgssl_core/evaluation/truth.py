"""Images whose true positions are known, embedded and placed in a map's frame: what a calibration is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vgssl_core.bags import GeotaggedFrames
from vgssl_core.errors import DataError
from vgssl_core.evaluation.bag_drive import true_poses
from vgssl_core.evaluation.trust import AcceptanceRule, Trust
from vgssl_core.geodesy import compass_to_yaw_rad
from vgssl_core.geomap import GeoMap, MapPositions, build_map
from vgssl_core.inference import Embedder, embed_files, embed_images
from vgssl_core.inference.embedding import OnError
from vgssl_core.localization import Localizer
from vgssl_core.places import Places, within_radius

#: A query that is itself in the map: so near in descriptor (a map of fp16 rounds) and in metres.
_SAME_DESCRIPTOR, _SAME_POSITION_M = 0.01, 0.01


@dataclass(frozen=True)
class KnownImages:
    """n images with descriptors and truth.

    Attributes:
        descriptors: (n, D) float32, unit rows.
        planar_m: (n, 2) true positions in the map's frame.
        yaw_rad: (n,) true ENU yaw, NaN where unknown.
    """

    descriptors: NDArray[np.float32]
    planar_m: NDArray[np.float64]
    yaw_rad: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.planar_m)

    def not_in(self, geomap: GeoMap) -> KnownImages:
        """Those that are not themselves images of the map, which would find themselves and teach overconfidence."""
        matches = geomap.search(self.descriptors, 1)
        indices, distances = matches.indices[:, 0], matches.distances[:, 0]
        apart = np.linalg.norm(geomap.positions_m[indices, :2] - self.planar_m, axis=1)
        other = (distances > _SAME_DESCRIPTOR) | (apart > _SAME_POSITION_M)
        return KnownImages(self.descriptors[other], self.planar_m[other], self.yaw_rad[other])


def known_places(embedder: Embedder, places: Places, geomap: GeoMap, on_error: OnError = "raise") -> KnownImages:
    """Places of a set, embedded.

    Args:
        embedder: Of the map's model.
        places: The images.
        geomap: Gives the frame.
        on_error: See `embed_images`.

    Raises:
        DataError: The set is local and the map is not, or the other way round; or images do not decode.
    """
    planar_m = planar_in(geomap, places)
    embedded = embed_files(embedder, places.paths, on_error=on_error, description="queries")
    yaw = compass_to_yaw_rad(places.heading_deg)
    return KnownImages(embedded.descriptors, planar_m[embedded.kept], yaw[embedded.kept])


def planar_in(geomap: GeoMap, places: Places) -> NDArray[np.float64]:
    """(n, 2) positions of places in a map's frame.

    Raises:
        DataError: One of the two is local and the other is not.
    """
    if places.is_georeferenced != (geomap.datum is not None):
        kinds = ("geo-referenced", "local") if places.is_georeferenced else ("local", "geo-referenced")
        raise DataError(f"The images are {kinds[0]} and map {geomap.path} is {kinds[1]}: both must be of one kind.")
    if geomap.datum is None:
        return places.planar_m
    return geomap.datum.to_enu(places.latitude_deg, places.longitude_deg, places.altitude_m)[:, :2]


def known_frames(embedder: Embedder, frames: GeotaggedFrames, geomap: GeoMap) -> KnownImages:
    """Frames of a bag, embedded; those that do not decode are left out and named in the log."""
    truth, yaw = true_poses(frames, geomap)
    items = ((tagged.frame.source, tagged.frame.image) for tagged in frames)
    embedded = embed_images(embedder, items, on_error="skip", total=len(frames), description="frames")
    return KnownImages(embedded.descriptors, truth[embedded.kept, :2], yaw[embedded.kept])


def trust_of(localizer: Localizer, images: KnownImages) -> Trust:
    """Ask a localizer where each image was taken, and hold its answers against the truth.

    Args:
        localizer: Of the images' model.
        images: Embedded, so that none of them counts as blank.
    """
    rule, geomap = AcceptanceRule.of(localizer), localizer.geomap
    answers = [localizer.localize_descriptor(descriptor) for descriptor in images.descriptors]
    best = [next(iter(answer.hypotheses), None) for answer in answers]
    probability = np.array([0.0 if item is None else item.probability for item in best])
    nowhere = np.full(2, np.nan)
    found = np.array([nowhere if item is None else item.position_m[:2] for item in best]).reshape(-1, 2)
    mapped = within_radius(images.planar_m, geomap.positions_m[:, :2], rule.radius_m).getnnz(axis=1) > 0
    return Trust(probability, np.linalg.norm(found - images.planar_m, axis=1) <= rule.radius_m, mapped, rule)


def stand_in_map(embedder: Embedder, database: Places, folder: Path, like: GeoMap, on_error: OnError) -> GeoMap:
    """A map of other streets in place of the one that is meant, stored as that one is.

    Args:
        embedder: Of the map's model.
        database: Images of the other streets.
        folder: To create; the caller removes it.
        like: The map that is meant.
        on_error: See `embed_images`.
    """
    embedded = embed_files(embedder, database.paths, on_error=on_error, description="stand-in map")
    positions = MapPositions.from_places(database.subset(embedded.kept))
    return build_map(folder, embedded.descriptors, embedder.model_id, positions, like.manifest.precision)
