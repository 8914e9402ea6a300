"""Build a map from geotagged images, wherever they are: ``python -m training.build_map --help``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.image_options import ImageOptions
from vgssl_core import command_line
from vgssl_core.errors import ConfigError
from vgssl_core.geomap import build_map as write_map
from vgssl_core.geomap import check_output, load_map
from vgssl_core.geomap.building import embedded_in_shards
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.index.choice import WantedKind
from vgssl_core.geomap.index.reindex import reindex
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.inference.embedding import OnError


@dataclass(frozen=True)
class BuildMapConfig(ImageOptions):
    """Build a map of geotagged images: embed them with a model bundle and store them with their poses.

    A build that is stopped or killed goes on where it was when the same command is given again.

    Attributes:
        bundle: Model bundle; the robot will need the same.
        out: Folder for the map. A map that is there already is replaced in one step when the new one is whole.
        precision: How descriptors are stored; fp16 takes half the space.
        tile_m: Cut the map into tiles of this side, so that a robot can load the region that it is in.
        index: How the map is searched; auto chooses by its size and ``memory_mb``.
        memory_mb: What the search may take of the robot's memory; a default where it is not given.
    """

    bundle: Path
    out: Path
    precision: Literal["fp32", "fp16"] = "fp32"
    tile_m: float | None = None
    index: WantedKind = "auto"
    memory_mb: float | None = None

    def check(self) -> None:
        """Refuse what cannot work, before any work.

        Raises:
            ConfigError: Naming the option.
        """
        super().check()
        for option in ("tile_m", "memory_mb"):
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise ConfigError(f"--{option} is {value}: it must be more than 0.")


def build_map(config: BuildMapConfig) -> None:
    """Read, embed, write, and print what came out."""
    begin = time.monotonic()
    config.check()
    check_output(config.out)
    bundle = load_bundle(config.bundle)
    images = config.images()
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
            source=images.source,
            tile_m=config.tile_m,
        )
        reindex(config.out, config.index, config.memory_mb)
    print("\n".join(describe(load_map(config.out))))
    if embedded.failures:
        print(f"left out    {len(embedded.failures)} of {len(images.positions)} images, which do not decode")
    print(f"built in    {time.monotonic() - begin:.1f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    return command_line.run(build_map, BuildMapConfig, arguments, "vgssl build-map")


if __name__ == "__main__":
    sys.exit(main())
