"""Time and memory per epoch of full, partial and no mining as the database grows (the first paper's section 3.3).

``python benchmarks/mining_scale.py`` measures one refresh of each kind in a process of its own, with simulated features
of 1k to 1M positions, fits time = a * positions^b to the larger half of them, and prints Markdown tables. Embedding is
not simulated: the images that a refresh embeds are counted, and each costs ``--embed_ms``, which is stated with the
result. An epoch is so many refreshes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from vgssl_core import command_line

MODES = {
    "full": {"mining": "full"},
    "partial": {"mining": "partial"},
    "none": {"mining": "none", "positive": "random"},
}
#: Simulated features repeat after so many images, so that they take no time and little memory.
_DIFFERENT = 1 << 15


@dataclass(frozen=True)
class ScaleConfig:
    """Measure mining as the database grows.

    Attributes:
        smallest, largest: Positions of the database.
        per_decade: Sizes for each factor of ten.
        queries: Of one refresh.
        refreshes: In one epoch.
        negatives: Per query; none without mining.
        dimension: Of the descriptors.
        memory_mib: Limit on the memory of mining.
        embed_ms: Cost of embedding one image that is added to the time of the search.
        threads: Of the search.
    """

    smallest: int = 1000
    largest: int = 1_000_000
    per_decade: int = 2
    queries: int = 1000
    refreshes: int = 5
    negatives: int = 10
    dimension: int = 256
    memory_mib: int = 256
    embed_ms: float = 2.5
    threads: int = 1


@dataclass(frozen=True)
class Cell:
    """One refresh.

    Attributes:
        positions: Images of the database.
        mode: One of ``MODES``.
        search_s: CPU time of all but embedding, which other programs on the machine do not change.
        embedded: Images that were embedded.
        memory_mib: Most memory beyond that before the refresh.
    """

    positions: int
    mode: str
    search_s: float
    embedded: int
    memory_mib: float


def resident_mib() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def peak_mib(work: Callable[[], None]) -> float:
    """The most memory beyond the present while something works, looked at 200 times a second."""
    begin, peak, done = resident_mib(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident_mib() - begin)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(peak, resident_mib() - begin)


def measure(config: ScaleConfig, positions: int, mode: str) -> Cell:
    """One refresh in this process."""
    import torch
    from mining import town
    from torch.nn.functional import normalize

    from vgssl_core.geopair.mining import Miner
    from vgssl_core.geopair.pairs import GeoPairs, PairConfig
    from vgssl_core.inference.threads import set_threads

    torch.set_num_threads(set_threads(config.threads))
    rng = np.random.default_rng(positions)
    settings = PairConfig(**MODES[mode], mining_memory_mib=config.memory_mib)
    pairs = GeoPairs(town(positions, config.queries, rng), settings)
    features = normalize(torch.randn(_DIFFERENT, config.dimension, generator=torch.Generator().manual_seed(0)))
    embedded, embed_s = 0, 0.0

    def embed(indices: np.ndarray) -> torch.Tensor:
        nonlocal embedded, embed_s
        begin = time.process_time()
        rows = features[indices % _DIFFERENT]
        embedded, embed_s = embedded + len(indices), embed_s + time.process_time() - begin
        return rows

    miner = Miner(pairs, 1, 0 if mode == "none" else config.negatives, embed, embed)
    begin = time.process_time()
    memory = peak_mib(lambda: miner.make_pairs(pairs.usable, rng))  # type: ignore[arg-type, return-value]
    return Cell(positions, mode, time.process_time() - begin - embed_s, embedded, memory)


def exponent(positions: list[int], seconds: list[float]) -> float:
    """Of time as a power of the positions, over the larger half of the sizes."""
    half = len(positions) // 2
    return float(np.polyfit(np.log(positions[half:]), np.log(seconds[half:]), 1)[0])


def run(config: ScaleConfig) -> None:
    """Measure every size and mode, and print."""
    steps = round(config.per_decade * np.log10(config.largest / config.smallest)) + 1
    sizes = np.geomspace(config.smallest, config.largest, steps).round().astype(int).tolist()
    each = config.embed_ms / 1e3
    print(
        f"{config.refreshes} refreshes of {config.queries} queries per epoch, {config.negatives} negatives, "
        f"{config.dimension} dimensions, {config.threads} thread, limit {config.memory_mib} MiB; embedding is taken "
        f"as {config.embed_ms:g} ms per image.\n\n"
        "| positions | mining | embedded per epoch | search per epoch, CPU s | memory, MiB | with embedding, s |\n"
        "|---:|---|---:|---:|---:|---:|"
    )
    total: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    # A process for each, so that none inherits memory of another.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for size in sizes:
            for mode in MODES:
                cell = pool.submit(measure, config, size, mode).result()
                search_s = cell.search_s * config.refreshes
                epoch_s = search_s + cell.embedded * config.refreshes * each
                total[mode].append((search_s, epoch_s))
                print(
                    f"| {size:,} | {mode} | {cell.embedded * config.refreshes:,} | {search_s:.2f} | "
                    f"{cell.memory_mib:.0f} | {epoch_s:.1f} |",
                    flush=True,
                )
    print("\n| mining | exponent of the search | exponent of the epoch |\n|---|---:|---:|")
    for mode, seconds in total.items():
        search, epoch = (exponent(sizes, list(column)) for column in zip(*seconds, strict=True))
        print(f"| {mode} | {search:.2f} | {epoch:.2f} |")


if __name__ == "__main__":
    sys.exit(command_line.run(run, ScaleConfig, None, "mining_scale"))
