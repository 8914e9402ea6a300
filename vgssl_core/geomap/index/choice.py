"""Which index a map gets: a function of its size and of the memory that search may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vgssl_core.errors import ConfigError

#: Kinds in the order in which they are preferred, that of falling speed and, behind exact search, falling size.
IndexKind = Literal["exact", "hnsw", "ivf_pq"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
#: What a program may be asked for; auto chooses by size and memory.
WantedKind = Literal["auto", IndexKind]
#: Memory of an index where nobody says otherwise.
DEFAULT_MEMORY_MB = 400
#: Exact search reads all descriptors for each query; up to this size that takes about 2 ms on one core.
_EXACT_BYTES = 64_000_000


#: Links of an image on the upper floors of the graph; twice as many on the ground floor, four bytes each.
GRAPH_LINKS = 32
#: Turned and shortened descriptors keep this many dimensions, or a quarter where that is more.
_LEAST_TURNED = 128


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
    """Exact while that is fast; then a graph; then the inverted file, which is the smallest.

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
    if kind == "hnsw":
        return dimension + 8 * GRAPH_LINKS + 16
    # Four bits for two dimensions, the image's number, and its share of rotation, centres and half-filled blocks.
    turned = turned_dimension(dimension)
    return turned / 4 + 8 + (4 * turned * dimension + lists(count) * (8 * turned + 16)) / count


def turned_dimension(dimension: int) -> int:
    """Dimensions that the inverted file looks at: the principal ones, an even number where that is possible."""
    turned = min(dimension, max(_LEAST_TURNED, dimension // 4))
    return turned - turned % 2 if turned > 1 else turned


def lists(count: int) -> int:
    """Lists of the inverted file: the power of two next to sqrt(N)."""
    return 1 << round((count.bit_length() - 1) / 2)
