"""Build a map from a place set or a bag: ``python -m training.build_map --help``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vgssl_core import command_line
from vgssl_core.errors import ConfigError
from vgssl_core.geomap import build_map as write_map
from vgssl_core.geomap import check_output
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.map_images import MapImages, from_bag, from_place_set
from vgssl_core.inference import embed_images, load_bundle, open_embedder


@dataclass(frozen=True)
class BuildMapConfig:
    """Build a map from a place set or a bag: embed its images with a model bundle and store them with their poses.

    Attributes:
        bundle: Model bundle; the robot will need the same.
        out: Folder for the map. A map that is there already is replaced in one step when the new one is whole.
        data: Place set whose database images become the map.
        bag: Bag with images and positions, instead of a place set.
        split: Which split of the place set, where it has splits.
        spacing_m: Bag only: leave out images nearer than this to the last one taken; 0 takes all.
        image_topic: Bag only: the image topic, where there are several.
        max_gap_s: Bag only: leave out images between two positions further apart in time.
        position_topic: Bag only: NavSatFix or Odometry topic, where there are several. Fixes are preferred.
        precision: How descriptors are stored; fp16 takes half the space.
        backend: Engine that runs the bundle.
        threads: Threads of the engine; all cores where it is not given.
        batch_size: Images that are embedded at once.
        skip_damaged: Leave out images that do not decode instead of stopping.
    """

    bundle: Path
    out: Path
    data: Path | None = None
    bag: Path | None = None
    split: Literal["train", "val", "test"] = "test"
    spacing_m: float = 0.0
    image_topic: str | None = None
    position_topic: str | None = None
    max_gap_s: float = 3.0
    precision: Literal["fp32", "fp16"] = "fp32"
    backend: str = "auto"
    threads: int | None = None
    batch_size: int = 16
    skip_damaged: bool = False


def build_map(config: BuildMapConfig) -> None:
    """Read, embed, write, and print what came out."""
    begin = time.monotonic()
    check_output(config.out)
    bundle = load_bundle(config.bundle)
    images = _images(config)
    embedder = open_embedder(bundle, config.backend, config.threads)
    embedded = embed_images(
        embedder,
        images.items,
        config.batch_size,
        on_error="skip" if config.skip_damaged else "raise",
        total=len(images.positions),
        description="build map",
    )
    geomap = write_map(
        config.out,
        embedded.descriptors,
        embedder.model_id,
        images.positions.subset(embedded.kept),
        config.precision,
        bundle_path=config.bundle,
        source=images.description,
    )
    print("\n".join(describe(geomap)))
    if embedded.failures:
        print(f"left out    {len(embedded.failures)} of {len(images.positions)} images, which do not decode")
    print(f"built in    {time.monotonic() - begin:.1f} s")


def _images(config: BuildMapConfig) -> MapImages:
    if (config.data is None) == (config.bag is None):
        raise ConfigError("Give either --data (a place set) or --bag (a bag with images and positions).")
    if config.batch_size < 1 or not config.spacing_m >= 0:
        raise ConfigError("--batch_size must be at least 1 and --spacing_m at least 0.")
    if config.bag is not None:
        return from_bag(config.bag, config.image_topic, config.position_topic, config.spacing_m, config.max_gap_s)
    assert config.data is not None
    if config.spacing_m > 0 or config.image_topic or config.position_topic:
        raise ConfigError("--spacing_m, --image_topic and --position_topic are for --bag: leave them out with --data.")
    return from_place_set(config.data, config.split)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    return command_line.run(build_map, BuildMapConfig, arguments, "vgssl build-map")


if __name__ == "__main__":
    sys.exit(main())
