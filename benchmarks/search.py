"""Search in maps of many sizes: ours, against a flat FAISS index as peers use it.

``python benchmarks/search.py`` simulates maps (`simulated_map`), gives each its index, and opens it in fresh processes,
one for each way of searching; one thread, one query at a time, ten neighbours. Peers read the whole array with numpy
and add it to a flat index when they start. Prints what loading takes once the packages are imported, the
map was verified before and the system's cache holds its files, what it adds to the resident memory after all queries
(pages of mapped files counted), the median and the 99th percentile of a query, how many times faster than peers that
is, and recall against exact search. A region is asked around the place where each query was taken, within a radius in
which ``--region`` images lie on average; its answers are compared with those of comparing every image within it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fresh_process import in_fresh_process, memory_bytes, require_memory_figures
from numpy.typing import NDArray
from reporting import machine, publish, table
from simulated_map import IMAGES_PER_HECTARE, simulate

from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError

NEIGHBOURS = 10
#: Asked before the clock runs.
_WARM = 100


@dataclass(frozen=True)
class Config:
    """Search in maps of many sizes.

    Attributes:
        sizes: Images in each map.
        dimension: Of the descriptors.
        queries: Asked of each map.
        kinds: Of simulated descriptors, see `simulated_map`.
        indices: Kinds of index beside exact search; auto chooses by size and memory.
        memory_mb: That an index may take, for auto.
        precision: How descriptors are stored.
        region: Images around a place, on average.
        folder: Where maps are made; None takes the system's folder for what is temporary.
        docs: Markdown file in which the table replaces the section benchmark:search.
    """

    sizes: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000])
    dimension: int = 256
    queries: int = 1000
    kinds: list[str] = field(default_factory=lambda: ["trajectories-2", "trajectories-1", "uniform"])
    indices: list[str] = field(default_factory=lambda: ["auto"])
    memory_mb: float | None = None
    precision: str = "fp32"
    region: int = 12_000
    folder: Path | None = None
    docs: Path | None = None


@dataclass(frozen=True)
class Measured:
    """What one process told.

    Attributes:
        name: What searched.
        load_ms: Of the map.
        resident_mb: Added by loading and by the queries, 10^6 bytes.
        times_ms: Of each query.
        distances: (Q, k) of the answers; infinite where there are fewer.
    """

    name: str
    load_ms: float
    resident_mb: float
    times_ms: NDArray[np.float64]
    distances: NDArray[np.float32]


def read_through(folder: Path) -> None:
    """Have the system's cache hold the map's files, as it does once a robot has driven through them."""
    for path in sorted((folder / "map").rglob("*")):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def measured(
    name: Callable[[object], str], load: Callable[[], object], ask: Callable[[object, int], NDArray], count: int
) -> Measured:
    """Load, ask every query, and look at this process."""
    before, begin = memory_bytes()[0], time.perf_counter()
    loaded = load()
    load_ms = (time.perf_counter() - begin) * 1e3
    for number in range(min(_WARM, count)):
        ask(loaded, number)
    distances, times_ms = np.full((count, NEIGHBOURS), np.inf, np.float32), np.empty(count)
    for number in range(count):
        begin = time.perf_counter()
        found = ask(loaded, number)
        times_ms[number] = (time.perf_counter() - begin) * 1e3
        distances[number, : len(found)] = found
    added_mb = (memory_bytes()[0] - before) / 1e6
    return Measured(name(loaded), load_ms, added_mb, times_ms, distances)


def make_map(folder: Path, kind: str, count: int, config: Config) -> None:
    """A simulated map without index, its queries, and its descriptors as one file of numpy, as peers keep them."""
    from vgssl_core.geomap import MapPositions, build_map

    simulated = simulate(kind, count, config.dimension, config.queries)
    unknown, names = np.full(count, np.nan), tuple(str(number) for number in range(count))
    places = MapPositions(unknown, unknown, unknown, unknown, np.arange(count), names, simulated.planar_m)
    build_map(folder / "map", simulated.descriptors, "simulated", places, config.precision)
    np.save(folder / "descriptors.npy", simulated.descriptors)
    np.save(folder / "queries.npy", simulated.queries)
    np.save(folder / "places.npy", simulated.query_planar_m)


def make_index(folder: Path, kind: str, memory_mb: float | None) -> None:
    """The map's index, in a process that is gone when the map is measured."""
    from vgssl_core.geomap import load_map, reindex

    begin = time.perf_counter()
    reindex(folder / "map", kind, memory_mb)
    print(f"index {kind}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    load_map(folder / "map")


def one_thread() -> None:
    """Import FAISS, where it is installed, before the clock runs, and give it one thread."""
    from vgssl_core.faiss_package import load_faiss

    if (faiss := load_faiss()) is not None:
        faiss.omp_set_num_threads(1)


def peers(folder: Path, config: Config) -> Measured:
    """As most code does it: the whole array read, and copied into a flat index."""
    import faiss

    one_thread()
    queries = np.load(folder / "queries.npy")

    def load() -> faiss.Index:
        index = faiss.IndexFlatL2(config.dimension)
        index.add(np.load(folder / "descriptors.npy"))
        return index

    def ask(index: faiss.Index, number: int) -> NDArray[np.float32]:
        squares = index.search(queries[number : number + 1], NEIGHBOURS)[0][0]
        return np.sqrt(np.maximum(squares, 0.0))

    return measured(lambda _: "peers: numpy and IndexFlatL2", load, ask, config.queries)


def ours(folder: Path, config: Config) -> Measured:
    """The map as it is, in the way that it chooses."""
    from vgssl_core.geomap import GeoMap, load_map

    one_thread()
    read_through(folder)
    queries = np.load(folder / "queries.npy")

    def ask(geomap: GeoMap, number: int) -> NDArray[np.float32]:
        return geomap.search(queries[number], NEIGHBOURS).distances[0]

    def name(geomap: GeoMap) -> str:
        return "exact" if geomap.index is None else f"{geomap.index.kind} {dict(geomap.index.parameters)}"

    return measured(name, lambda: load_map(folder / "map"), ask, config.queries)


def region(folder: Path, config: Config) -> Measured:
    """The map around a prior position."""
    from vgssl_core.geomap import GeoMap, load_map

    one_thread()
    read_through(folder)
    queries, places, radius_m = np.load(folder / "queries.npy"), np.load(folder / "places.npy"), radius_of(config)

    def ask(geomap: GeoMap, number: int) -> NDArray[np.float32]:
        return geomap.search_near(queries[number], NEIGHBOURS, *places[number], radius_m).distances[0]

    return measured(lambda _: f"region of {radius_m:.0f} m", lambda: load_map(folder / "map"), ask, config.queries)


def radius_of(config: Config) -> float:
    """Of a circle with ``config.region`` images on average."""
    return float(np.sqrt(config.region / IMAGES_PER_HECTARE * 1e4 / np.pi))


def one_pass_ms(folder: Path, config: Config) -> float:
    """The least that a region can take: comparing a query with as many rows that lie one after the other, somewhere."""
    import faiss

    one_thread()
    rows, queries = np.load(folder / "descriptors.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    count, rng, pointer = min(config.region, len(rows)), np.random.default_rng(0), faiss.swig_ptr
    out, times_ms = np.empty(count, np.float32), []
    for query in queries:
        begin = int(rng.integers(len(rows) - count + 1))
        part = np.asarray(rows[begin : begin + count])
        start = time.perf_counter()
        faiss.fvec_L2sqr_ny(pointer(out), pointer(query), pointer(part), config.dimension, count)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times_ms))


def true_region_distances(folder: Path, config: Config) -> NDArray[np.float32]:
    """(Q, k) distances of the nearest images within the radius, by comparing with every image."""
    from vgssl_core.geomap import load_map

    geomap, radius_m = load_map(folder / "map"), radius_of(config)
    queries, places = np.load(folder / "queries.npy"), np.load(folder / "places.npy")
    distances = np.full((config.queries, NEIGHBOURS), np.inf, np.float32)
    for number, (query, place) in enumerate(zip(queries, places, strict=True)):
        x, y = geomap.poses["x"] - place[0], geomap.poses["y"] - place[1]
        rows = geomap.descriptors(np.flatnonzero(x * x + y * y <= radius_m**2)) - query
        found = np.sort(np.sqrt(np.einsum("nd,nd->n", rows, rows)))[:NEIGHBOURS]
        distances[number, : len(found)] = found
    return distances


def row(what: str, found: Measured, truth: NDArray[np.float32], reference: Measured) -> list[str]:
    """A line of the table."""
    at_1, at_10 = (found.distances[:, :n] <= truth[:, n - 1 : n] * (1 + 1e-6) for n in (1, NEIGHBOURS))
    p50, p99 = np.percentile(found.times_ms, [50, 99])
    faster = np.median(reference.times_ms) / p50
    recalls = [f"{hits.mean():.3f}" for hits in (at_1, at_10)]
    figures = [f"{found.load_ms:.1f}", f"{found.resident_mb:.0f}", f"{p50:.3f}", f"{p99:.3f}"]
    return [what, found.name, *figures, f"{faster:.1f}", f"{reference.load_ms / found.load_ms:.1f}", *recalls]


def measure_map(folder: Path, kind: str, count: int, config: Config) -> tuple[list[list[str]], str]:
    """The lines of one map, and what one pass over a region takes."""
    what = f"{count} x {config.dimension} {kind}"
    in_fresh_process(make_map, folder, kind, count, config)
    limit_ms = in_fresh_process(one_pass_ms, folder, config)
    reference, exact = (in_fresh_process(work, folder, config) for work in (peers, ours))
    rows = [row(what, found, exact.distances, reference) for found in (reference, exact)]
    for index in config.indices:
        in_fresh_process(make_index, folder, index, config.memory_mb)
        found = in_fresh_process(ours, folder, config)
        if found.name != "exact":
            rows.append(row(what, found, exact.distances, reference))
    near = in_fresh_process(region, folder, config)
    rows.append(row(what, near, in_fresh_process(true_region_distances, folder, config), reference))
    return rows, f"{limit_ms:.2f} ms ({what})"


def measure(config: Config) -> None:
    """Measure every map and print."""
    require_memory_figures()
    if not config.sizes or min(*config.sizes, config.queries, config.dimension, config.region) < 1:
        raise ConfigError("--sizes, --queries, --dimension and --region must be at least 1.")
    logging.disable(logging.INFO)
    rows, limits = [], []
    for kind in config.kinds:
        for count in config.sizes:
            with tempfile.TemporaryDirectory(dir=config.folder) as folder:
                lines, limit = measure_map(Path(folder), kind, count, config)
            rows += lines
            limits.append(limit)
    times = ("load ms", "added MB", "p50 ms", "p99 ms", "x faster", "loads x faster")
    header = ("map", "search", *times, "recall@1", "recall@10")
    about = f"{config.queries} queries. One pass of FAISS over {config.region} rows that follow each other, which a "
    about += f"region without outlines cannot beat: {', '.join(limits)}. {machine(1, 'faiss-cpu')}."
    publish(f"{table(header, rows)}\n\n{about}", config.docs, "search")


if __name__ == "__main__":
    sys.exit(run(measure, Config, None, "benchmarks/search.py"))
