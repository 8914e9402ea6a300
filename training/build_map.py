"""Build a map from geotagged images, wherever they are: ``python -m training.build_map --help``."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vgssl_core import command_line
from vgssl_core.errors import ConfigError
from vgssl_core.geomap import build_map as write_map
from vgssl_core.geomap import check_output, load_map
from vgssl_core.geomap.building import SHARD_IMAGES, embedded_in_shards
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.index.reindex import reindex
from vgssl_core.geomap.map_images import MapImages, from_bag, from_place_set
from vgssl_core.geomap.photographs import from_photographs
from vgssl_core.geomap.table import from_table
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.inference.embedding import OnError

_SOURCES = {
    "data": "a place set",
    "bag": "a bag with images and positions",
    "csv": "a table of images with positions",
    "photos": "a folder of geotagged photographs",
}
#: Options that only one source has.
_BELONGS = {
    "split": "data",
    "spacing_m": "bag",
    "image_topic": "bag",
    "position_topic": "bag",
    "max_gap_s": "bag",
    "skip_untagged": "photos",
}


@dataclass(frozen=True)
class BuildMapConfig:
    """Build a map of geotagged images: embed them with a model bundle and store them with their poses.

    A build that is stopped or killed goes on where it was when the same command is given again.

    Attributes:
        bundle: Model bundle; the robot will need the same.
        out: Folder for the map. A map that is there already is replaced in one step when the new one is whole.
        data: Place set whose database images become the map.
        bag: Bag with images and positions.
        csv: Table with the columns image (relative to the table or absolute), latitude and longitude (or x and y in
            metres), and where known altitude, heading and timestamp.
        photos: Folder of photographs with GPS positions in their EXIF; subfolders too.
        split: Of a place set with splits: train, val or test; test where it is not given.
        spacing_m: Bag only: leave out images nearer than this to the last one taken; 0 takes all.
        image_topic: Bag only: the image topic, where there are several.
        max_gap_s: Bag only: leave out images between two positions further apart in time.
        position_topic: Bag only: NavSatFix or Odometry topic, where there are several. Fixes are preferred.
        skip_untagged: Photographs only: leave out those without GPS position instead of stopping.
        precision: How descriptors are stored; fp16 takes half the space.
        tile_m: Cut the map into tiles of this side, so that a robot can load the region that it is in.
        index: How the map is searched; auto chooses by its size and ``memory_mb``.
        memory_mb: What the search may take of the robot's memory; a default where it is not given.
        backend: Engine that runs the bundle.
        threads: Threads of the engine; all cores where it is not given.
        batch_size: Images that are embedded at once.
        shard_images: Images per finished part: a kill costs at most the work on one.
        skip_damaged: Leave out images that are missing or do not decode instead of stopping.
    """

    bundle: Path
    out: Path
    data: Path | None = None
    bag: Path | None = None
    csv: Path | None = None
    photos: Path | None = None
    split: Literal["train", "val", "test"] | None = None
    spacing_m: float = 0.0
    image_topic: str | None = None
    position_topic: str | None = None
    max_gap_s: float = 3.0
    skip_untagged: bool = False
    precision: Literal["fp32", "fp16"] = "fp32"
    tile_m: float | None = None
    index: Literal["auto", "exact", "hnsw", "hnsw_small", "ivf_rabitq"] = "auto"
    memory_mb: float | None = None
    backend: str = "auto"
    threads: int | None = None
    batch_size: int = 16
    shard_images: int = SHARD_IMAGES
    skip_damaged: bool = False


def build_map(config: BuildMapConfig) -> None:
    """Read, embed, write, and print what came out."""
    begin = time.monotonic()
    check_inputs(config)
    check_output(config.out)
    bundle = load_bundle(config.bundle)
    images = images_of(config)
    embedder = open_embedder(bundle, config.backend, config.threads)
    on_error: OnError = "skip" if config.skip_damaged else "raise"
    with embedded_in_shards(config.out, embedder, images, config.batch_size, on_error, config.shard_images) as embedded:
        write_map(
            config.out,
            embedded.descriptors,
            embedder.model_id,
            images.positions.subset(embedded.kept),
            config.precision,
            bundle_path=config.bundle,
            source=images.description,
            tile_m=config.tile_m,
        )
        reindex(config.out, config.index, config.memory_mb)
    print("\n".join(describe(load_map(config.out))))
    if embedded.failures:
        print(f"left out    {len(embedded.failures)} of {len(images.positions)} images, which do not decode")
    print(f"built in    {time.monotonic() - begin:.1f} s")


def check_inputs(config: BuildMapConfig) -> None:
    """Refuse settings that no build has, before any work."""
    given = [name for name in _SOURCES if getattr(config, name) is not None]
    if len(given) != 1:
        listed = ", ".join(f"--{name} ({what})" for name, what in _SOURCES.items())
        raise ConfigError(f"Give either {listed}: one of them{', not ' + str(len(given)) if given else ''}.")
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(config)}
    for option, source in _BELONGS.items():
        if source != given[0] and getattr(config, option) != defaults[option]:
            raise ConfigError(f"--{option} is for --{source}: leave it out with --{given[0]}.")
    for option, least in {"batch_size": 1, "shard_images": 1, "spacing_m": 0, "max_gap_s": 0}.items():
        if not getattr(config, option) >= least:
            raise ConfigError(f"--{option} is {getattr(config, option)}: it must be at least {least}.")
    for option in ("tile_m", "memory_mb"):
        value = getattr(config, option)
        if value is not None and not value > 0:
            raise ConfigError(f"--{option} is {value}: it must be more than 0.")


def images_of(config: BuildMapConfig) -> MapImages:
    """The images that the settings name, with their positions."""
    if config.data is not None:
        return from_place_set(config.data, config.split or "test")
    if config.bag is not None:
        return from_bag(config.bag, config.image_topic, config.position_topic, config.spacing_m, config.max_gap_s)
    if config.csv is not None:
        return from_table(config.csv, missing_ok=config.skip_damaged)
    assert config.photos is not None
    return from_photographs(config.photos, config.skip_untagged)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    return command_line.run(build_map, BuildMapConfig, arguments, "vgssl build-map")


if __name__ == "__main__":
    sys.exit(main())
