"""Resident memory of a localizer's process by the size of its map.

``python benchmarks/memory.py`` makes a bundle with random weights (that needs torch) and simulated maps. Each is opened
in a fresh process that localizes frames and then looks at itself (Linux's ``smaps_rollup``): MiB that the map added to
interpreter and engine, and how much of them is memory of the process's own; the rest are pages of files, which the
system can drop. Beside it a process that loads the descriptors with numpy and adds them to a flat FAISS index.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fresh_process import in_fresh_process, memory_bytes, require_memory_figures
from numpy.typing import NDArray
from random_bundle import BundleOptions, chosen_bundle
from reporting import machine, publish, table

from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError
from vgssl_core.inference import Bundle, Embedder, load_bundle, open_embedder
from vgssl_core.inference.threads import set_threads
from vgssl_core.localization import Localizer

_MIB = 1024**2
#: Frames before the first look.
_WARM = 3


@dataclass(frozen=True)
class Config(BundleOptions):
    """Resident memory of a localizer by map size.

    Attributes:
        sizes: Images in each map.
        index: Kind of the maps' index; auto chooses by size.
        dimension: Of the descriptors; frames are embedded all the same.
        frames: Localized before looking.
        docs: Markdown file in which the table replaces the section benchmark:memory.
    """

    sizes: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000])
    index: str = "auto"
    dimension: int = 256
    frames: int = 20
    docs: Path | None = None


@dataclass(frozen=True)
class Measured:
    """What one process told, in bytes.

    Attributes:
        base: In memory before the map: interpreter, packages and engine.
        added: By the map, after the frames.
        own: Of it, not backed by a file.
        search: What searched.
    """

    base: int
    added: int
    own: int
    search: str


def make_map(folder: Path, bundle: Bundle, count: int, config: Config) -> None:
    """A simulated map, and its descriptors as one file of numpy, as peers keep them."""
    from example_map import example_map

    geomap = example_map(folder / "map", count, config.dimension, bundle.model_id, config.index)
    np.save(folder / "descriptors.npy", geomap.descriptors(slice(None)))


def ours(folder: Path, bundle: Bundle, config: Config) -> Measured:
    """Embed frames, and localize as many descriptors of the map's length."""
    from vgssl_core.geomap import load_map

    def load(embedder: Embedder) -> tuple[Callable[[NDArray[np.float32]], object], str]:
        geomap = load_map(folder / "map")
        return Localizer(embedder, geomap).localize_descriptor, geomap.search_name

    return measured(load, bundle, config)


def peers(folder: Path, bundle: Bundle, config: Config) -> Measured:
    """As most code does it: the whole array read, and copied into a flat index."""
    import faiss

    def load(_: Embedder) -> tuple[Callable[[NDArray[np.float32]], object], str]:
        index = faiss.IndexFlatL2(config.dimension)
        index.add(np.load(folder / "descriptors.npy"))
        return lambda row: index.search(row[None], 20), "flat index"

    return measured(load, bundle, config)


def measured(
    load: Callable[[Embedder], tuple[Callable[[NDArray[np.float32]], object], str]], bundle: Bundle, config: Config
) -> Measured:
    """Open the engine, load a map, use both, and look at this process."""
    embedder = open_embedder(bundle, config.backend, config.threads)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (bundle.preprocessing.height, bundle.preprocessing.width, 3), dtype=np.uint8)
    for _ in range(_WARM):
        embedder.embed([frame])
    base, base_own = memory_bytes()
    search, name = load(embedder)
    for _ in range(config.frames):
        embedder.embed([frame])
        row = rng.standard_normal(config.dimension).astype(np.float32)
        search(row / np.linalg.norm(row))
    resident, own = memory_bytes()
    return Measured(base, resident - base, own - base_own, name)


def random_bundle_path(config: Config) -> Path:
    """In a process of its own, because it imports torch."""
    return chosen_bundle(config).path


def measure(config: Config) -> None:
    """Measure every size and print."""
    require_memory_figures()
    if not config.sizes or min(*config.sizes, config.frames, config.dimension) < 1:
        raise ConfigError("--sizes, --frames and --dimension must be at least 1.")
    logging.disable(logging.INFO)
    threads = set_threads(config.threads)
    bundle = load_bundle(config.bundle or in_fresh_process(random_bundle_path, config))
    rows = []
    for count in config.sizes:
        with tempfile.TemporaryDirectory() as folder:
            in_fresh_process(make_map, Path(folder), bundle, count, config)
            for work in (ours, peers):
                found = in_fresh_process(work, Path(folder), bundle, config)
                cells = [f"{figure / _MIB:.0f}" for figure in (found.base, found.added, found.own)]
                what = f"{count} x {config.dimension}, {work.__name__}"
                rows.append([what, *cells, f"{found.added / count:.0f}", found.search])
    header = ("map", "before it MiB", "added MiB", "of it own MiB", "bytes per image", "search")
    about = f"{bundle.path.name}, after {config.frames} frames. {machine(threads, 'onnxruntime')}."
    publish(f"{table(header, rows)}\n\n{about}", config.docs, "memory")


if __name__ == "__main__":
    sys.exit(run(measure, Config, None, "benchmarks/memory.py"))
