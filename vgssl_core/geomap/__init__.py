"""Maps: descriptors with positions in a safe, self-describing, memory-mapped folder, searchable."""

from vgssl_core.geomap.builder import build_map, check_output
from vgssl_core.geomap.geo_map import GeoMap, Matches, load_map, require_model
from vgssl_core.geomap.manifest import Manifest
from vgssl_core.geomap.positions import POSE_DTYPE, MapPositions
from vgssl_core.geomap.verify import verify_map

__all__ = [
    "POSE_DTYPE",
    "GeoMap",
    "Manifest",
    "MapPositions",
    "Matches",
    "build_map",
    "check_output",
    "load_map",
    "require_model",
    "verify_map",
]
