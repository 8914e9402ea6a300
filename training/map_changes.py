"""``vgssl map add``, ``remove`` and ``compact``: they change a map in place."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.image_options import ImageOptions
from training.map_area import AreaOptions, chosen_area
from vgssl_core.errors import ConfigError
from vgssl_core.geomap import add_images, load_map, remove_images, require_model
from vgssl_core.geomap import changes as geomap_changes
from vgssl_core.geomap.building import embedded_in_shards
from vgssl_core.geomap.changes import Choice, require_common_frame
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.index.reindex import reindex
from vgssl_core.geomap.manifest import Manifest, read_manifest
from vgssl_core.geomap.positions import MapPositions
from vgssl_core.geomap.records import read_sources
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.localization.localizer import remembered_bundle


@dataclass(frozen=True)
class AddConfig(ImageOptions):
    """Embed images with the bundle that built a map, and add them to it.

    Attributes:
        map: The map's folder.
        bundle: Model bundle; the one that built the map where it is not given.
    """

    map: Path
    bundle: Path | None = None


@dataclass(frozen=True)
class RemoveConfig(AreaOptions):
    """Remove images from a map: those that are of one of the given rows or sources, or lie in the given area.

    Attributes:
        map: The map's folder.
        rows: Indices of images, as matches have them.
        source: Pattern of the sources or of their last parts, for example ``drive-7/*`` or ``*/2021-04-*``; the star
            stands for anything.
    """

    map: Path
    rows: list[int] = field(default_factory=list)
    source: str | None = None


@dataclass(frozen=True)
class CompactConfig:
    """Join a map's segments and order its images by place again, or cut it into tiles.

    Attributes:
        map: The map's folder.
        tile_m: Side of the tiles; 0 joins them; the map is cut as it was where it is not given.
    """

    map: Path
    tile_m: float | None = None


def add(config: AddConfig) -> None:
    """Read, embed, add, and print what came out."""
    geomap = load_map(config.map)
    bundle = load_bundle(config.bundle or remembered_bundle(geomap))
    # Before the images are embedded, which takes long.
    require_model(geomap, bundle.model_id, f"bundle {bundle.path}")
    config.check()
    images = config.images()
    require_common_frame(config.map, geomap.manifest, images.positions)
    embedder = open_embedder(bundle, config.backend, config.threads)
    on_error = "skip" if config.skip_damaged else "raise"
    with embedded_in_shards(config.map, embedder, images, config.batch_size, on_error, config.shard_images) as embedded:
        positions = images.positions.subset(embedded.kept)
        count_before = read_manifest(config.map).count
        manifest = add_images(config.map, embedded.descriptors, embedder.model_id, positions, images.description)
    print("\n".join(describe(load_map(config.map))))
    print(f"added       {manifest.count - count_before} images")
    covered = set(manifest.index.get("segments", ()))
    beside = sum(segment.count for segment in manifest.segments if segment.name not in covered)
    if covered and beside:
        print(f"index       {beside} images are searched beside it: `vgssl map index {config.map}` takes them in")


def remove(config: RemoveConfig) -> None:
    """Remove what is chosen, and print what came out."""
    before = read_manifest(config.map)
    after = remove_images(config.map, _choice(config, before), before.map_id)
    if config.source is not None and after == before:
        example = read_sources(config.map, before.segments[0])[0]
        raise ConfigError(
            f"No image of map {config.map} has a source {config.source!r}: its sources are like {example}."
        )
    _renew_index(config.map, after)
    print("\n".join(describe(load_map(config.map))))
    print(f"removed     {before.count - after.count} images")


def compact(config: CompactConfig) -> None:
    """Put the map in order, and print what came out."""
    before = read_manifest(config.map)
    after = geomap_changes.compact(config.map, config.tile_m)
    _renew_index(config.map, after)
    print("\n".join(describe(load_map(config.map))))
    print(f"compacted   {len(before.segments)} segment(s) became {len(after.segments)}")


def _renew_index(path: Path, manifest: Manifest) -> None:
    """Build the kind of index again that a change has made obsolete, this one or one that was killed."""
    if manifest.wanted_index is not None:
        reindex(path, manifest.wanted_index)


def _choice(config: RemoveConfig, manifest: Manifest) -> Choice:
    """What `remove_images` takes."""
    ways = [bool(config.rows), config.source is not None, bool(config.area_options())]
    if sum(ways) != 1:
        raise ConfigError("Say which images: give either --rows, --source, or an area (a circle or a box).")
    if config.rows:
        return config.rows
    if config.source is not None:
        # Sources are absolute paths; people name what they end with.
        pattern = re.compile("|".join(map(fnmatch.translate, (config.source, f"*/{config.source}"))))
        return lambda positions: np.array([pattern.match(source) is not None for source in positions.source])
    area = chosen_area(config, manifest)

    def inside(positions: MapPositions) -> np.ndarray:
        assert positions.planar_m is not None
        return area.contains(positions.planar_m)

    return inside
