"""``vgssl map merge``, ``thin`` and ``slice``: they make new maps of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.map_area import AreaOptions, chosen_area
from vgssl_core.geomap import load_map, merge_maps, slice_map, thin_map
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.index.reindex import reindex
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.geomap.thin import ThinConfig, Thinned


@dataclass(frozen=True)
class MergeConfig:
    """Make one map of two that were built by the same model; images that both have are taken once.

    Attributes:
        first: A map's folder; the new map has its frame.
        second: Another map's folder.
        out: Folder for the new map.
        same_plane: Both are local maps in one and the same plane, which they cannot tell themselves.
        tile_m: Side of the tiles; 0 makes one segment; cut as the first map where it is not given.
    """

    first: Path
    second: Path
    out: Path
    same_plane: bool = False
    tile_m: float | None = None


@dataclass(frozen=True)
class ThinMapConfig:
    """Make a map without the images that are near a kept one, look the same way, and look alike.

    Attributes:
        map: The map's folder.
        out: Folder for the new map.
        spacing_m: Distance to a kept image, at most.
        min_cosine: Cosine of the descriptors, at least; what is alike depends on the network.
        heading_deg: Difference of the headings, at most; where one is not known, the descriptors decide alone.
        radius_m: When a left-out image that is asked for counts as found again.
        tile_m: Side of the tiles; 0 makes one segment; cut as the map where it is not given.
    """

    map: Path
    out: Path
    spacing_m: float
    min_cosine: float
    heading_deg: float = 30.0
    radius_m: float = 25.0
    tile_m: float | None = None


@dataclass(frozen=True)
class SliceConfig(AreaOptions):
    """Make a map of a region of another: a circle around a place, or a box.

    Attributes:
        map: The map's folder.
        out: Folder for the new map.
        tile_m: Side of the tiles; 0 makes one segment; cut as the map where it is not given.
    """

    map: Path
    out: Path
    tile_m: float | None = None


def merge(config: MergeConfig) -> None:
    """Merge, and print what came out."""
    merged = merge_maps(config.first, config.second, config.out, config.same_plane, config.tile_m)
    _finish(config.out)
    print(f"merged      {merged.duplicates} images of the second map are in the first too and were left out")


def thin(config: ThinMapConfig) -> None:
    """Thin, and print what came out and what it costs."""
    redundant = ThinConfig(config.spacing_m, config.min_cosine, config.heading_deg)
    thinned = thin_map(config.map, config.out, redundant, config.radius_m, config.tile_m)
    _finish(config.out)
    print(f"left out    {thinned.left_out} of {thinned.left_out + thinned.manifest.count} images")
    if thinned.asked:
        print(_consistency(thinned))


def cut(config: SliceConfig) -> None:
    """Slice, and print what came out."""
    manifest = read_manifest(config.map)
    sliced = slice_map(config.map, config.out, chosen_area(config, manifest), config.tile_m)
    _finish(config.out)
    print(f"sliced      {sliced.count} of {manifest.count} images")


def _finish(out: Path) -> None:
    reindex(out)
    print("\n".join(describe(load_map(out))))


def _consistency(thinned: Thinned) -> str:
    found = f"{thinned.found_before:.1%} of them before, {thinned.found_after:.1%} after"
    return (
        f"consistency {found}: share of {thinned.asked} left-out images whose nearest other image\n"
        f"            lies within {thinned.radius_m:g} m. They are of the map itself: this is no recall of another day."
    )
