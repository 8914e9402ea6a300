"""Options of the programs that embed images for a map, and the images that they name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vgssl_core.bags import Geotagging
from vgssl_core.errors import ConfigError
from vgssl_core.extrinsics import check_extrinsics
from vgssl_core.geomap.building import SHARD_IMAGES
from vgssl_core.geomap.map_images import MapImages, from_bag, from_place_set
from vgssl_core.geomap.photographs import from_photographs
from vgssl_core.geomap.table import from_table

_SOURCES = {
    "data": "a place set",
    "bag": "a bag with images and positions",
    "csv": "a table of images with positions",
    "photos": "a folder of geotagged photographs",
}
#: Options that only one source has.
_BELONGS = {
    "split": "data",
    **{option.name: "bag" for option in dataclasses.fields(Geotagging)},
    "skip_untagged": "photos",
}


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Geotagging):
    """Which images are embedded, and how.

    Attributes:
        data: Place set whose database images are taken.
        bag: Bag with images and positions.
        csv: Table with the columns image (relative to the table or absolute), latitude and longitude (or x and y in
            metres), and where known altitude, heading and timestamp.
        photos: Folder of photographs with GPS positions in their EXIF; subfolders too.
        split: Of a place set with splits: train, val or test; test where it is not given.
        skip_untagged: Photographs only: leave out those without GPS position instead of stopping.
        backend: Engine that runs the bundle.
        threads: Threads of the engine; all cores where it is not given.
        batch_size: Images that are embedded at once.
        shard_images: Images per finished part: a kill costs at most the work on one.
        skip_damaged: Leave out images that are missing or do not decode instead of stopping.
    """

    data: Path | None = None
    bag: Path | None = None
    csv: Path | None = None
    photos: Path | None = None
    split: Literal["train", "val", "test"] | None = None
    skip_untagged: bool = False
    backend: str = "auto"
    threads: int | None = None
    batch_size: int = 16
    shard_images: int = SHARD_IMAGES
    skip_damaged: bool = False

    def check(self) -> None:
        """Refuse what cannot work, before any work.

        Raises:
            ConfigError: Naming the option.
        """
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            listed = ", ".join(f"--{name} ({what})" for name, what in _SOURCES.items())
            raise ConfigError(f"Give either {listed}: one of them{', not ' + str(len(given)) if given else ''}.")
        defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self)}
        for option, source in _BELONGS.items():
            if source != given[0] and getattr(self, option) != defaults[option]:
                raise ConfigError(f"--{option} is for --{source}: leave it out with --{given[0]}.")
        leasts = {
            "batch_size": 1,
            "shard_images": 1,
            "spacing_m": 0,
            "max_gap_s": 0,
            "max_bridge_s": 0,
            "max_sigma_m": 0,
        }
        for option, least in leasts.items():
            if not getattr(self, option) >= least:
                raise ConfigError(f"--{option} is {getattr(self, option)}: it must be at least {least}.")
        check_extrinsics(self.camera_extrinsics)

    def images(self) -> MapImages:
        """The images of the source that is given, with their positions."""
        if self.data is not None:
            return from_place_set(self.data, self.split or "test")
        if self.bag is not None:
            return from_bag(self.bag, self)
        if self.csv is not None:
            return from_table(self.csv, missing_ok=self.skip_damaged)
        assert self.photos is not None
        return from_photographs(self.photos, self.skip_untagged)
