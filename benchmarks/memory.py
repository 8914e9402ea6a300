"""Resident memory of a localizer's process by the size of its map.

``python benchmarks/memory.py`` makes a bundle with random weights (that needs torch) and simulated maps. Each is opened
in a fresh process that localizes frames and then looks at itself (Linux's ``smaps_rollup``): MiB that the map added to
interpreter and engine, and how much of them is memory of the process's own; the rest are pages of files, which the
system can drop. Beside it a process that loads the descriptors with numpy and adds them to a flat FAISS index.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from reporting import machine, publish, table

from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError
from vgssl_core.inference import Bundle, load_bundle, open_embedder
from vgssl_core.localization import Localizer

Result = TypeVar("Result")
_SMAPS = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True)
class Config:
    """Resident memory of a localizer by map size.

    Attributes:
        sizes: Images in each map.
        index: Kind of the maps' index; auto chooses by size.
        dimension: Of the descriptors; frames are embedded all the same.
        network: Made with random weights: resnet50, resnet18, deit.
        bundle: Bundle to run instead.
        folder: Where bundles of random weights are kept.
        width: Of the network's input in pixels.
        height: Of the network's input in pixels.
        backend: Engine.
        threads: Of everything.
        frames: Localized before looking.
        docs: Markdown file in which the table replaces the section benchmark:memory.
    """

    sizes: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000])
    index: str = "auto"
    dimension: int = 256
    network: str = "resnet50"
    bundle: Path | None = None
    folder: Path = Path("runs/bundles")
    width: int = 640
    height: int = 480
    backend: str = "auto"
    threads: int | None = None
    frames: int = 20
    docs: Path | None = None


@dataclass(frozen=True)
class Memory:
    """Of a process, MiB.

    Attributes:
        resident: In memory at all.
        own: Of it, not backed by a file.
    """

    resident: float
    own: float

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.resident - other.resident, self.own - other.own)

    @classmethod
    def now(cls) -> Memory:
        """Of this process."""
        lines = (line.split() for line in _SMAPS.read_text().splitlines()[1:])
        kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
        return cls(kib["Rss"] / 1024, kib["Anonymous"] / 1024)


@dataclass(frozen=True)
class Measured:
    """What one process told.

    Attributes:
        base: Interpreter, packages and engine.
        added: What the map added, after the frames.
        search: What searched.
    """

    base: Memory
    added: Memory
    search: str


def in_fresh_process(work: Callable[..., Result], *arguments: object) -> Result:
    """The result of ``work`` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def make_map(folder: Path, bundle: Bundle, count: int, config: Config) -> None:
    """A simulated map, and its descriptors as one file of numpy, as peers keep them."""
    from example_map import example_map

    geomap = example_map(folder / "map", count, config.dimension, bundle.model_id, config.index)
    np.save(folder / "descriptors.npy", geomap.descriptors(slice(None)))


def localizer(folder: Path, bundle: Bundle, config: Config) -> Measured:
    """Ours: embed frames, and localize as many descriptors of the map's length."""
    from vgssl_core.geomap import load_map

    embedder = open_embedder(bundle, config.backend, config.threads)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (bundle.preprocessing.height, bundle.preprocessing.width, 3), dtype=np.uint8)
    for _ in range(3):
        embedder.embed([frame])
    base = Memory.now()
    geomap = load_map(folder / "map")
    ours = Localizer(embedder, geomap)
    for _ in range(config.frames):
        embedder.embed([frame])
        ours.localize_descriptor(_unit(rng, config.dimension)[0])
    return Measured(base, Memory.now() - base, geomap.search_name)


def peers(folder: Path, bundle: Bundle, config: Config) -> Measured:
    """As most code does it: the whole array read, and copied into a flat index."""
    import faiss

    embedder = open_embedder(bundle, config.backend, config.threads)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (bundle.preprocessing.height, bundle.preprocessing.width, 3), dtype=np.uint8)
    for _ in range(3):
        embedder.embed([frame])
    base = Memory.now()
    descriptors = np.load(folder / "descriptors.npy")
    index = faiss.IndexFlatL2(config.dimension)
    index.add(descriptors)
    for _ in range(config.frames):
        index.search(_unit(rng, config.dimension), 20)
    return Measured(base, Memory.now() - base, f"numpy array of {descriptors.nbytes >> 20} MiB and flat index")


def _unit(rng: np.random.Generator, dimension: int) -> np.ndarray:
    row = rng.standard_normal((1, dimension)).astype(np.float32)
    return row / np.linalg.norm(row)


def random_bundle_path(config: Config) -> Path:
    """In a process of its own, because it imports torch."""
    from random_bundle import random_bundle

    return random_bundle(config.folder, config.network, config.width, config.height).path


def measure(config: Config) -> None:
    """Measure every size and print."""
    if not _SMAPS.exists():
        raise ConfigError(f"{_SMAPS} is not there: this benchmark needs Linux.")
    if not config.sizes or min(*config.sizes, config.frames, config.dimension) < 1:
        raise ConfigError("--sizes, --frames and --dimension must be at least 1.")
    logging.disable(logging.INFO)
    bundle = load_bundle(config.bundle or in_fresh_process(random_bundle_path, config))
    rows = []
    for count in config.sizes:
        with tempfile.TemporaryDirectory() as folder:
            in_fresh_process(make_map, Path(folder), bundle, count, config)
            for name, work in (("ours", localizer), ("peers", peers)):
                found = in_fresh_process(work, Path(folder), bundle, config)
                figures = (found.base.resident, found.added.resident, found.added.own)
                each = 1024**2 * found.added.resident / count
                cells = [*(f"{mib:.0f}" for mib in figures), f"{each:.0f}"]
                rows.append([f"{count} x {config.dimension}, {name}", *cells, found.search])
    header = ("map", "before it MiB", "added MiB", "of it own MiB", "bytes per image", "search")
    about = f"{bundle.path.name}, after {config.frames} frames. {machine(config.threads or 0, 'onnxruntime')}."
    publish(f"{table(header, rows)}\n\n{about}", config.docs, "memory")


if __name__ == "__main__":
    sys.exit(run(measure, Config, None, "benchmarks/memory.py"))
