"""Train a descriptor network: ``python -m training.train --method mocov2 --data DIR --val DIR --out RUN``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vgssl_core.command_line import guarded, parse
from vgssl_core.errors import ConfigError
from vgssl_core.resources import config_file
from vgssl_core.storage import read_yaml

if TYPE_CHECKING:
    from vgssl_core.geopair import TrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print where the run lies and its best recall."""
    return guarded(lambda: _train(_configuration(list(sys.argv[1:] if arguments is None else arguments))))


def _configuration(arguments: list[str]) -> TrainConfig:
    """Settings in layers: the method's shipped file, the files of ``--config``, the flags."""
    from vgssl_core.geopair import with_options
    from vgssl_core.ssl.method import method_module

    # The method decides which settings exist, so it is looked up before the real parsing.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    first.add_argument("--method")
    first.add_argument("--data")
    first.add_argument("--config", action="append")
    known, rest = first.parse_known_args(arguments)
    files = [Path(name) for name in getattr(known, "config", [])]
    contents = [read_yaml(path, ConfigError, "a configuration of training") for path in files]
    given = [content["method"] for content in contents if "method" in content]
    method = getattr(known, "method", given[-1] if given else "mocov2")
    options = method_module(str(method)).Config
    own_data = hasattr(known, "data") or any("data" in content for content in contents)
    shipped = _shipped(method if own_data or files else f"small/{method}")
    layers = [f"--config={path}" for path in [*shipped, *files]]
    data = [f"--data={known.data}"] if hasattr(known, "data") else []
    return parse(with_options(options), [*layers, f"--method={method}", *data, *rest], "vgssl train")


def _shipped(name: str) -> list[Path]:
    try:
        return [config_file(f"train/{name}.yaml")]
    except ConfigError:
        return []  # a method of the user's own has no shipped settings


def _train(config: TrainConfig) -> int:
    from vgssl_core.geopair import build_trainer
    from vgssl_core.models import build_network

    if config.data is None:
        build_network(config.network_config())  # before the town is rendered: are the weights there?
        config = dataclasses.replace(config, data=_town(config.seed))
    out = config.out or Path("runs") / f"{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
    trainer = build_trainer(dataclasses.replace(config, out=out))
    print(trainer.description())
    recall = trainer.fit()
    if recall:
        print("best on validation: " + " ".join(f"R@{n} {value:.1f}" for n, value in recall.items()))
    print(f"trained: {out} (export it: python -m training.export {out} --out BUNDLE)")
    return 0


def _town(seed: int) -> Path:
    """The built-in town of that seed, rendered once."""
    from vgssl_core.town.writer import render_town

    folder = Path("runs") / f"town-{seed}"
    print(
        f"No --data was given: training with the small configuration on the built-in town {folder}.\n"
        "Your own images: --data DIR --val DIR (folders with images/database and images/queries)."
    )
    if not (folder / "images").is_dir():
        render_town(folder, seed)
    return folder


if __name__ == "__main__":
    sys.exit(main())
