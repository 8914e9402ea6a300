"""Which index a map gets: a function of its size and of the memory that search may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vgssl_core.errors import ConfigError

#: Kinds in the order in which they are preferred, that of falling speed and, behind exact search, falling size.
IndexKind = Literal["exact", "hnsw", "hnsw_small", "ivf_rabitq"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
#: What a program may be asked for; auto chooses by size and memory.
WantedKind = Literal["auto", IndexKind]
#: Memory of an index where nobody says otherwise.
DEFAULT_MEMORY_MB = 400
#: Exact search reads all descriptors for each query; up to this size that takes about 2 ms on one core.
_EXACT_BYTES = 64_000_000


@dataclass(frozen=True)
class Graph:
    """How large a graph is.

    Attributes:
        links: Of an image on the upper floors; twice as many on the ground floor, four bytes each.
        bits: Per dimension of the codes that the graph is searched by.
    """

    links: int
    bits: int


GRAPHS = {"hnsw": Graph(links=32, bits=8), "hnsw_small": Graph(links=24, bits=4)}


@dataclass(frozen=True)
class IndexChoice:
    """How a map should be searched, and why.

    Attributes:
        kind: One of `KINDS`.
        reason: For people.
        megabytes: What the index will take, about; 0 for exact search, which reads the descriptors' files.
    """

    kind: str
    reason: str
    megabytes: float


def choose_index(count: int, dimension: int, memory_mb: float | None = None, kind: str = "auto") -> IndexChoice:
    """Exact while that is fast; then a graph, large or small; then the inverted file, which is the smallest.

    Where not even that fits, exact search remains: its memory is the system's cache of the descriptors' files, which
    the system takes back when it needs it.

    Args:
        count: Images of the map.
        dimension: Length of a descriptor.
        memory_mb: Memory for the index, in 10^6 bytes; None takes `DEFAULT_MEMORY_MB`.
        kind: One of `KINDS` overrides the choice.

    Raises:
        ConfigError: An unknown kind, or a budget that is not positive.
    """
    if kind not in ("auto", *KINDS):
        raise ConfigError(f"There is no index of kind {kind!r}: choose auto, {', '.join(KINDS)}.")
    budget_mb = DEFAULT_MEMORY_MB if memory_mb is None else memory_mb
    if not budget_mb > 0:
        raise ConfigError(f"The memory budget of {memory_mb} MB is not positive: give more, or none.")
    megabytes = {name: count * bytes_per_image(name, count, dimension) / 1e6 for name in KINDS}
    size = f"{count} images of {dimension} dimensions"
    if kind != "auto":
        return IndexChoice(kind, f"{kind} was asked for", megabytes[kind])
    if 4 * count * dimension <= _EXACT_BYTES:
        return IndexChoice("exact", f"{size} are compared one by one in about 2 ms or less", 0.0)
    for name in KINDS[1:]:
        if megabytes[name] <= budget_mb:
            reason = f"{size} need {megabytes[name]:.0f} MB, and {budget_mb:g} MB are given"
            return IndexChoice(name, reason, megabytes[name])
    smallest = KINDS[-1]
    reason = f"{size} need {megabytes[smallest]:.0f} MB even in {smallest}, and {budget_mb:g} MB are given"
    return IndexChoice("exact", reason, 0.0)


def bytes_per_image(kind: str, count: int, dimension: int) -> float:
    """What an index takes for each of ``count`` images, about."""
    if kind == "exact":
        return 0.0
    if kind in GRAPHS:
        return dimension * GRAPHS[kind].bits / 8 + 8 * GRAPHS[kind].links + 16
    # One bit per dimension with two factors, the image's number, and its share of the centres and of the rotation.
    return dimension / 8 + 16 + 4 * dimension * (lists(count) + dimension) / count


def lists(count: int) -> int:
    """Lists of the inverted file: the power of two next to 4 sqrt(N), so that a list holds some sqrt(N) / 4 images."""
    return min(1 << round(((16 * count).bit_length() - 1) / 2), count)
