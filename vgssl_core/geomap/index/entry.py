"""What a map's manifest says about its index, checked before anything is opened."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Parameters of each kind and their greatest values.
PARAMETERS = {
    "hnsw": {"ef_search": 65536, "refine_factor": 1024},
    "ivf_pq": {"lists": 2**24, "probes": 65536, "refine_factor": 1024},
}
_MOST_BYTES, _MOST_MS = 2**50, 1e9


@dataclass(frozen=True)
class IndexQuality:
    """How good an index is, measured when it was built.

    Attributes:
        recall_at_1: Share of queries whose nearest image was found, against exact search.
        recall_at_10: Share of the ten nearest images that were found.
        p50_ms, p99_ms: Time of one query on one core of the machine that built it, with the ranking by exact distances.
        bytes_per_image: Of the index file.
    """

    recall_at_1: float
    recall_at_10: float
    p50_ms: float
    p99_ms: float
    bytes_per_image: float


@dataclass(frozen=True)
class OutlineEntry:
    """The outlines of the images that an index covers, with which regions are searched.

    Attributes:
        file: Name of the file in the map's folder.
        sha256, bytes: Of the file.
    """

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class IndexEntry:
    """An approximate index of a map.

    Attributes:
        kind: One of `PARAMETERS`.
        file: Name of its file in the map's folder.
        sha256, bytes: Of the file.
        segments: Names of the segments that it covers, the manifest's first ones.
        count: Number of their images.
        parameters: Of the search, by name. Among ``refine_factor`` times as many candidates as are wanted the nearest
            are chosen by their exact distances.
        quality: Measured when it was built.
        outline: Of the same images; None where they would not help.
    """

    kind: str
    file: str
    sha256: str
    bytes: int
    segments: tuple[str, ...]
    count: int
    parameters: Mapping[str, int]
    quality: IndexQuality
    outline: OutlineEntry | None = None

    @property
    def all_bytes(self) -> int:
        """Of its file and of the outlines."""
        return self.bytes + (0 if self.outline is None else self.outline.bytes)

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {
            "type": self.kind,
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "segments": list(self.segments),
            "count": self.count,
            "parameters": dict(self.parameters),
            **asdict(self.quality),
            **({} if self.outline is None else {"outline": asdict(self.outline)}),
        }


def parse_index(content: Any, segments: Sequence[tuple[str, int]]) -> IndexEntry | None:
    """The entry of a manifest; None where the map is searched exactly.

    Args:
        content: The manifest's ``index``.
        segments: Name and number of images of the map's segments, in their order.

    Raises:
        ValueError: Anything that no build writes (also KeyError and TypeError).
    """
    kind = content["type"]
    if kind == "exact":
        return None
    _require(isinstance(kind, str) and kind in PARAMETERS, f"index type {str(kind)[:80]!r} is not known")
    file, checksum, size = _file(content, r"index-[0-9a-f]{8,64}\.faiss")
    outline = content.get("outline")
    covered = content["segments"]
    _require(isinstance(covered, list) and len(covered) > 0, "the index covers no segment")
    first = segments[: len(covered)]
    _require(covered == [name for name, _ in first], "the index does not cover the map's first segments")
    count = sum(number for _, number in first)
    _require(_integer(content["count"], 2**31, "count") == count, "the index's count is not that of its segments")
    limits = PARAMETERS[kind]
    _require(set(content["parameters"]) == set(limits), f"the parameters of the index are not {', '.join(limits)}")
    return IndexEntry(
        kind=kind,
        file=file,
        sha256=checksum,
        bytes=size,
        segments=tuple(covered),
        count=count,
        parameters={name: _integer(content["parameters"][name], most, name) for name, most in limits.items()},
        quality=IndexQuality(
            *(_number(content[name], 1.0, name) for name in ("recall_at_1", "recall_at_10")),
            *(_number(content[name], _MOST_MS, name) for name in ("p50_ms", "p99_ms")),
            _number(content["bytes_per_image"], _MOST_BYTES, "bytes_per_image"),
        ),
        outline=None if outline is None else OutlineEntry(*_file(outline, r"outline-[0-9a-f]{8,64}\.npy")),
    )


def _file(content: Any, pattern: str) -> tuple[str, str, int]:
    """Name, sha256 and bytes of a file."""
    # The name becomes a path: nothing that could lead out of the folder.
    _require(_matches(pattern, content["file"]), "the index's file name is not allowed")
    _require(_matches(r"[0-9a-f]{64}", content["sha256"]), "there is no sha256 of the index")
    return content["file"], content["sha256"], _integer(content["bytes"], _MOST_BYTES, "bytes")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _integer(value: Any, most: int, name: str) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most
    _require(good, f"{name} of the index is {str(value)[:80]!r}, not between 1 and {most}")
    return value


def _number(value: Any, most: float, name: str) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    _require(good and 0 <= value <= most, f"{name} of the index is {str(value)[:80]!r}, not between 0 and {most:g}")
    return float(value)
