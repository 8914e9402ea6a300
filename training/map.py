"""Inspect, verify and change maps: ``python -m training.map ACTION MAP …``; each action has its own ``--help``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import map_changes, map_derived
from vgssl_core import command_line
from vgssl_core.errors import ConfigError
from vgssl_core.geomap import load_map, verify_map
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.index.choice import WantedKind
from vgssl_core.geomap.index.reindex import reindex


@dataclass(frozen=True)
class InfoConfig:
    """Tell what is in a map.

    Attributes:
        map: The map's folder.
    """

    map: Path


@dataclass(frozen=True)
class VerifyConfig:
    """Compare all checksums of a map and look at every value in it.

    Attributes:
        map: The map's folder.
    """

    map: Path


@dataclass(frozen=True)
class IndexConfig:
    """Build a map's index anew, measure it, and switch the map to it.

    Attributes:
        map: The map's folder.
        kind: How the map is searched; auto chooses by its size and ``memory_mb``.
        memory_mb: What the search may take of the robot's memory.
    """

    map: Path
    kind: WantedKind = "auto"
    memory_mb: float | None = None


@dataclass(frozen=True)
class Action:
    """One thing to do with maps.

    Attributes:
        help: One line.
        config: Its options.
        work: Does it.
        positional: Options that are given without a flag.
    """

    help: str
    config: type
    work: Callable[[Any], None]
    positional: tuple[str, ...] = ("map",)


def info(config: InfoConfig) -> None:
    """Print the map's description."""
    print("\n".join(describe(load_map(config.map))))


def verify(config: VerifyConfig) -> None:
    """Print the map's description after looking at every byte."""
    geomap = verify_map(config.map)
    print("\n".join(describe(geomap)))
    print(f"verified    all checksums, {len(geomap)} descriptors, poses and records are good")


def index(config: IndexConfig) -> None:
    """Build the index, and print the map's description."""
    if config.memory_mb is not None and not config.memory_mb > 0:
        raise ConfigError(f"--memory_mb is {config.memory_mb}: it must be more than 0.")
    reindex(config.map, config.kind, config.memory_mb)
    print("\n".join(describe(load_map(config.map))))


ACTIONS = {
    "info": Action("tell what is in a map", InfoConfig, info),
    "verify": Action("look at every byte of a map", VerifyConfig, verify),
    "add": Action("embed images and add them to a map", map_changes.AddConfig, map_changes.add),
    "remove": Action("remove images from a map", map_changes.RemoveConfig, map_changes.remove),
    "compact": Action("join a map's segments, or cut it into tiles", map_changes.CompactConfig, map_changes.compact),
    "merge": Action("make one map of two", map_derived.MergeConfig, map_derived.merge, ("first", "second")),
    "thin": Action("make a map without redundant images", map_derived.ThinMapConfig, map_derived.thin),
    "slice": Action("make a map of a region of another", map_derived.SliceConfig, map_derived.cut),
    "index": Action("build a map's index anew", IndexConfig, index),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the first argument names."""
    helps = {name: action.help for name, action in ACTIONS.items()}
    name, rest = command_line.choose("vgssl map", "Inspect, verify and change maps.", "action", helps, arguments)
    return command_line.guarded(lambda: _act(name, rest))


def _act(name: str, arguments: Sequence[str]) -> int:
    _refuse_options_of_others(name, arguments)
    action = ACTIONS[name]
    action.work(command_line.parse(action.config, arguments, f"vgssl map {name}", action.positional))
    return 0


def _refuse_options_of_others(name: str, arguments: Sequence[str]) -> None:
    """Say whose option it is; the parser would only say that it does not know it."""
    for item in arguments:
        option = item[2:].partition("=")[0].replace("-", "_") if item.startswith("--") else ""
        owners = [other for other, action in ACTIONS.items() if option in _options(action)]
        if owners and name not in owners:
            raise ConfigError(
                f"--{option} is for `vgssl map {'`, `vgssl map '.join(owners)}` and not for `vgssl map {name}`: "
                f"leave it out. `vgssl map {name} --help` tells what there is."
            )


def _options(action: Action) -> set[str]:
    return {field.name for field in dataclasses.fields(action.config)} - set(action.positional)


if __name__ == "__main__":
    sys.exit(main())
