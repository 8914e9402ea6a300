"""Maps: descriptors with positions in a safe, self-describing, memory-mapped folder, searchable."""

from vgssl_core.geomap.builder import build_map, check_output
from vgssl_core.geomap.calibrate import store_calibration
from vgssl_core.geomap.changes import add_images, compact, remove_images
from vgssl_core.geomap.geo_map import GeoMap, Matches, load_map, require_model
from vgssl_core.geomap.index.reindex import reindex
from vgssl_core.geomap.manifest import Manifest
from vgssl_core.geomap.merge import merge_maps
from vgssl_core.geomap.positions import POSE_DTYPE, MapPositions
from vgssl_core.geomap.slice import slice_map
from vgssl_core.geomap.thin import thin_map
from vgssl_core.geomap.tiles import TiledMap
from vgssl_core.geomap.verify import verify_map

__all__ = [
    "POSE_DTYPE",
    "GeoMap",
    "Manifest",
    "MapPositions",
    "Matches",
    "TiledMap",
    "add_images",
    "build_map",
    "check_output",
    "compact",
    "load_map",
    "merge_maps",
    "reindex",
    "remove_images",
    "require_model",
    "slice_map",
    "store_calibration",
    "thin_map",
    "verify_map",
]
