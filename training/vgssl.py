"""The console command ``vgssl``: every program under one name, each imported only when it is called."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

#: Program: module and one line of help. A module has ``main(arguments) -> exit status``.
PROGRAMS = {
    "train": ("training.train", "train a descriptor network on geotagged images"),
    "export": ("training.export", "write a trained network as a model bundle"),
    "build-map": ("training.build_map", "build a map from a place set, a bag, a table or photographs"),
    "calibrate": ("training.calibrate", "teach a map what its answers are worth: P(correct) from queries with truth"),
    "evaluate": ("training.evaluate", "Recall@N of a bundle or a baseline on a place set"),
    "benchmark": ("training.benchmark", "train and evaluate methods x seeds on sets, and write the table"),
    "localize": ("training.localize", "where was this photo taken? one image against a map"),
    "map": ("training.map", "inspect, verify, change, merge, thin, slice or index maps"),
    "town": ("training.town", "render a synthetic town: place set and drive bag"),
    "demo": ("training.demo", "the whole path on the town or on your own data, with a report"),
    "evaluate-bag": ("vgssl_ros.evaluate_bag", "Recall@N and pose error of a bag against its own ground truth"),
    "replay": ("vgssl_ros.replay", "publish a bag over ROS 2 with /clock"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Call the program that the first argument names."""
    with _ended_by_interrupt():
        from vgssl_core.command_line import choose, guarded
    description = "Where am I on Earth? Visual geo-localization with self-supervised descriptors."
    helps = {name: help_line for name, (_, help_line) in PROGRAMS.items()}
    name, rest = choose("vgssl", description, "program", helps, arguments)
    return guarded(lambda: _program(name)(rest))


def _program(name: str) -> Callable[[Sequence[str]], int]:
    with _ended_by_interrupt():
        return importlib.import_module(PROGRAMS[name][0]).main


@contextlib.contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """A Ctrl-C ends the process at once and quietly: nothing has begun, and an import that it breaks is a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
