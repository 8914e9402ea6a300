"""Work in a process of its own, so that what was imported, loaded and freed before does not count."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from vgssl_core.errors import ConfigError

Result = TypeVar("Result")
_SMAPS = Path("/proc/self/smaps_rollup")


def in_fresh_process(work: Callable[..., Result], *arguments: object) -> Result:
    """The result of ``work`` in a new interpreter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def require_memory_figures() -> None:
    """Raise `ConfigError` where the system has no `memory_bytes`."""
    if not _SMAPS.exists():
        raise ConfigError(f"{_SMAPS} is not there: this benchmark needs Linux.")


def memory_bytes() -> tuple[int, int]:
    """Of this process: what is in memory, pages of mapped files counted; and of it what no file backs."""
    # What was freed goes back to the system first: what comes next would otherwise find a place for nothing.
    ctypes.CDLL(None).malloc_trim(0)
    lines = (line.split() for line in _SMAPS.read_text().splitlines()[1:])
    sizes = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}
    return sizes["Rss"], sizes["Anonymous"]
