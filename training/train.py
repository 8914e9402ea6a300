"""Train a descriptor network: ``python -m training.train --method mocov2 --data DIR --val DIR --out RUN``.

On N GPUs or processes: ``torchrun --nproc_per_node N -m training.train …``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgssl_core.command_line import guarded, parse
from vgssl_core.errors import ConfigError
from vgssl_core.resources import config_file
from vgssl_core.storage import read_yaml

if TYPE_CHECKING:
    from vgssl_core.geopair import TrainConfig
    from vgssl_core.geopair.distributed import Processes

#: Which frames of a bag are trained on.
_FRAMES: dict[str, Any] = {"spacing_m": 1.0, "max_gap_s": 3.0, "odometry_topic": "auto"}
#: Exit status of a training that Ctrl-C ended, as a shell gives it.
_STOPPED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print where the run lies and its best recall."""
    return guarded(lambda: _train(*_configuration(list(sys.argv[1:] if arguments is None else arguments))))


def _configuration(arguments: list[str]) -> tuple[TrainConfig, str]:
    """Settings in layers, and what the layers are, in words.

    The lowest layer is the run that goes on, or else the method's shipped file: the small one where neither data nor
    files are given. Over it come the files of ``--config``, then the flags.
    """
    from vgssl_core.geopair import with_options
    from vgssl_core.ssl.method import method_module

    # What decides on the layers, and with them on which settings exist, is looked up before the real parsing.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in ("--method", "--data", "--out"):
        first.add_argument(name)
    first.add_argument("--resume", nargs="?", const="true")
    first.add_argument("--config", action="append")
    namespace, rest = first.parse_known_args(arguments)
    flags = vars(namespace)
    files = [_settings_file(path) for path in flags.pop("config", [])]
    given: dict[str, Any] = {}
    for path, _ in files:
        given.update(read_yaml(Path(path), ConfigError, "a configuration of training"))
    given.update(flags)
    if str(given.get("resume")).lower() == "true":
        lowest, method, used = _of_run(given)
    else:
        method = str(given.get("method", "mocov2"))
        method_module(method)  # before its file is sought: is there such a method?
        lowest, used = _shipped(method if given.get("data") or files else f"small/{method}")
    layers = [*lowest, *(f"--config={path}" for path, _ in files)]
    chosen = [f"--{name}={value}" for name, value in flags.items()]
    config = parse(with_options(method_module(method).Config), [*layers, *chosen, *rest], "vgssl train")
    return config, ", ".join([used, *(name for _, name in files)])


def _of_run(given: dict[str, Any]) -> tuple[list[str], str, str]:
    """The settings of the run that goes on as arguments, its method, and what they are."""
    from vgssl_core.geopair.run_folder import RunFolder

    if not given.get("out"):
        raise ConfigError("--resume needs the run that goes on: give it with --out RUN.")
    settings = RunFolder(Path(given["out"])).manifest().get("config")
    method = settings.get("method") if isinstance(settings, dict) else None
    if method is None:
        raise ConfigError(f"{given['out']}/run.yaml is damaged: it does not tell the run's settings; train again.")
    if given.get("method", method) != method:
        raise ConfigError(
            f"{given['out']} was trained with method {method}, not {given['method']}: resume with the same settings, "
            "or start another run."
        )
    return [f"--config={json.dumps(settings)}"], method, f"those of {given['out']}"


def _settings_file(path: str) -> tuple[str, str]:
    """A file of the user's, or a shipped one by its name, such as paper/ablation/hnm_off.yaml; and what to call it."""
    if not Path(path).exists():
        with contextlib.suppress(ConfigError):
            return str(config_file(f"train/{path}")), f"config/train/{path}"
    return path, path


def _shipped(name: str) -> tuple[list[str], str]:
    """A shipped file of settings as argument, and what it is."""
    try:
        return [f"--config={config_file(f'train/{name}.yaml')}"], f"config/train/{name}.yaml"
    except ConfigError:
        return [], "defaults"  # a method of the user's own has no shipped settings


def _train(config: TrainConfig, used: str) -> int:
    from vgssl_core.geopair.distributed import all_processes

    config.check()
    with all_processes(config.device) as processes:
        if processes.first:
            return _train_in(processes, config, used, print)
        logging.getLogger("vgssl_core").setLevel(logging.ERROR)
        return _train_in(processes, config, used, lambda *_: None)


def _train_in(processes: Processes, config: TrainConfig, used: str, say: Callable[[str], None]) -> int:
    from vgssl_core.geopair import build_trainer
    from vgssl_core.models import build_network

    say(f"settings: {used}, and the flags over them")
    if config.data is None:
        build_network(config.network_config())  # before the town is rendered: are the weights there?
    began = time.strftime("%Y%m%d-%H%M%S", time.localtime(processes.agreed(time.time())))
    with processes.one_first():
        data = _places(config, say)
    config = dataclasses.replace(config, data=data, out=config.out or Path("runs") / f"{config.method}-{began}")
    trainer = build_trainer(config, processes)
    say(trainer.description())
    if config.profile:
        say(trainer.profile())
        say(f"the trace for https://ui.perfetto.dev: {config.out}/trace.json")
        return 0
    with _ctrl_c_calls(trainer.budget.stop, tells=processes.first):
        recall = trainer.fit()
    if trainer.budget.stopped:
        program = "python" if processes.count == 1 else "torchrun …"
        say(
            f"stopped at step {trainer.progress.step}, and saved: {config.out} (go on: {program} -m training.train "
            f"--out {config.out} --resume)"
        )
        return _STOPPED
    if recall:
        say("best on validation, by R@5: " + " ".join(f"R@{n} {value:.1f}" for n, value in recall.items()))
    say(f"trained: {config.out} (export it: python -m training.export {config.out} --out BUNDLE)")
    return 0


@contextlib.contextmanager
def _ctrl_c_calls(stop: Callable[[], None], tells: bool) -> Iterator[None]:
    """The first Ctrl-C calls ``stop``, the second is a KeyboardInterrupt; another handler than Python's own stays."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def handler(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()
        if tells:  # past Python's streams: the progress bar may be writing to them right now
            os.write(2, b"\nstopping before the next step; Ctrl-C again stops at once, and saves nothing\n")

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _places(config: TrainConfig, say: Callable[[str], None]) -> Path:
    """The folder to train on: as given, from a bag, or the built-in town."""
    if config.data is None:
        return _town(config.seed, say)
    if config.data.is_file() or (config.data / "metadata.yaml").is_file():  # a set is a folder of images
        return _bag(config.data, say)
    return config.data


def _bag(bag: Path, say: Callable[[str], None]) -> Path:
    """The images of a bag as a place set, written once for each bag: two may have one name, or one is recorded anew."""
    from vgssl_core.bags import Geotagging
    from vgssl_core.bags.to_places import write_bag_places

    written = bag / "metadata.yaml" if bag.is_dir() else bag
    identity = [str(bag.resolve()), written.stat().st_mtime_ns, _FRAMES]
    folder = Path("runs") / f"places-{bag.stem}-{sha256(json.dumps(identity).encode()).hexdigest()[:8]}"
    if (folder / "images").is_dir():
        say(f"The images of {bag} are in {folder}.")
        return folder
    say(f"Writing the images of {bag} to {folder}.")
    write_bag_places(bag, folder, Geotagging(**_FRAMES))
    return folder


def _town(seed: int, say: Callable[[str], None]) -> Path:
    """The built-in town of that seed, rendered once."""
    from vgssl_core.town.writer import render_town

    folder = Path("runs") / f"town-{seed}"
    say(
        f"No --data was given: training on the built-in town {folder}.\n"
        "Your own images: --data DIR --val DIR (folders with images/database and images/queries)."
    )
    if not (folder / "images").is_dir():
        render_town(folder, seed)
    return folder


if __name__ == "__main__":
    sys.exit(main())
