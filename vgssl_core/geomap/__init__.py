"""Maps: descriptors with positions in a safe, self-describing, memory-mapped folder, searchable."""

from vgssl_core.geomap.builder import build_map
from vgssl_core.geomap.geo_map import GeoMap, Matches, load_map, require_model
from vgssl_core.geomap.manifest import Manifest
from vgssl_core.geomap.positions import POSE_DTYPE, MapPositions

__all__ = ["POSE_DTYPE", "GeoMap", "Manifest", "MapPositions", "Matches", "build_map", "load_map", "require_model"]
