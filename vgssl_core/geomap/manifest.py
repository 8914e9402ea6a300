"""``map.yaml``: the only mutable file of a map, replaced in one step."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from vgssl_core.errors import MapError
from vgssl_core.geodesy import LocalFrame
from vgssl_core.geomap.index.entry import PARAMETERS, parse_index
from vgssl_core.sealed import require_seal, write_sealed
from vgssl_core.storage import read_yaml
from vgssl_core.verified import require_inside

#: Version of the folder's layout; a reader refuses any other.
FORMAT = 2
MANIFEST = "map.yaml"
SEGMENTS = "segments"
SEGMENT_FILES = ("descriptors.npy", "poses.npy", "records.parquet")
PRECISIONS = {"fp32": "<f4", "fp16": "<f2"}
_GEOREFERENCED, _LOCAL = "ENU at the datum, WGS84", "local"
_REMEDY = "Build the map again with `vgssl build-map`, or copy it again whole."
_MAX_COUNT, _MAX_DIMENSION = 2**31, 65536
#: The manifest of more than these is written as JSON, which YAML includes.
_MANY_SEGMENTS = 50
#: The manifest lists every segment: more than these make it slow to read.
MAX_SEGMENTS = 10_000
Result = TypeVar("Result")


@dataclass(frozen=True)
class SegmentEntry:
    """One immutable segment.

    Attributes:
        name: Its folder's name.
        count: Number of images.
        low_m, high_m: Corners (x, y) of a box around its images, so that readers choose segments by place unopened.
        files: Each file's ``bytes`` and ``sha256``.
    """

    name: str
    count: int
    low_m: tuple[float, float]
    high_m: tuple[float, float]
    files: dict[str, dict[str, Any]]

    @property
    def checksums(self) -> tuple[str, ...]:
        """Of its files: segments of the same ones hold the same images, at the same places."""
        return tuple(self.files[file]["sha256"] for file in SEGMENT_FILES)


@dataclass(frozen=True)
class Manifest:
    """What a map says about itself.

    Attributes:
        map_id: Hash of the segments' checksums: changes with the content.
        created: Time of the build, ISO 8601, UTC.
        model_id: Of the bundle whose descriptors these are.
        dimension: D, length of a descriptor.
        precision: ``fp32`` or ``fp16``: how descriptors are stored.
        datum: Origin of the map's frame; None for a local map.
        spacing_m: Typical distance between neighbouring images.
        source: What the map was built from, for people.
        bundle: ``path`` (absolute) and ``relative`` (to the map) of the bundle at build time; may be empty.
        index: How the map is searched.
        calibration: Features → probability, of this map, model and precision; None until calibrated.
        segments: The segments, in the order of the map's indices.
        tile_m: Side of the square tiles that the map was cut into, a segment each; None where it was not.
        wanted_index: Kind of the index that the map had or is to get, while it is still to be built; None where it is
            searched as it should be.
    """

    map_id: str
    created: str
    model_id: str
    dimension: int
    precision: str
    datum: LocalFrame | None
    spacing_m: float
    source: str
    bundle: dict[str, str]
    segments: tuple[SegmentEntry, ...]
    index: dict[str, Any] = field(default_factory=lambda: {"type": "exact"})
    calibration: dict[str, Any] | None = None
    tile_m: float | None = None
    wanted_index: str | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(segment.count for segment in self.segments)

    @property
    def low_m(self) -> tuple[float, float]:
        """Lower corner (x, y) of the box around all images."""
        return min(item.low_m[0] for item in self.segments), min(item.low_m[1] for item in self.segments)

    @property
    def high_m(self) -> tuple[float, float]:
        """Upper corner (x, y) of the box around all images."""
        return max(item.high_m[0] for item in self.segments), max(item.high_m[1] for item in self.segments)

    @property
    def index_files(self) -> set[str]:
        """Names of the files in the map's folder that its index needs."""
        return {entry["file"] for entry in (self.index, self.index.get("outline")) if entry and "file" in entry}

    def restricted_to(self, segments: Sequence[SegmentEntry]) -> Manifest:
        """The manifest of some of the segments only, which are searched exactly; it is never written."""
        return replace(self, segments=tuple(segments), index={"type": "exact"})

    def without_index(self) -> Manifest:
        """The manifest searched exactly, until the index that it had is built anew."""
        lost = None if self.index["type"] == "exact" else self.index["type"]
        return replace(self, index={"type": "exact"}, wanted_index=lost or self.wanted_index)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step.

        Raises:
            MapError: It is not what readers accept; the old one stays.
        """
        if len(self.segments) > MAX_SEGMENTS:
            raise MapError(
                f"Map {folder} would have {len(self.segments)} segments, and {MAX_SEGMENTS} is the limit: join those "
                f"that it has with `vgssl map compact {folder}` first."
            )
        content: dict[str, Any] = {
            "format": FORMAT,
            "map_id": self.map_id,
            "created": self.created,
            "model_id": self.model_id,
            "dimension": self.dimension,
            "precision": self.precision,
            "count": self.count,
            "crs": _LOCAL if self.datum is None else _GEOREFERENCED,
            "datum": None
            if self.datum is None
            else {
                "latitude_deg": self.datum.latitude_deg,
                "longitude_deg": self.datum.longitude_deg,
                "altitude_m": self.datum.altitude_m,
            },
            "spacing_m": self.spacing_m,
            "extent_m": _extent(self),
            "source": self.source,
            "bundle": self.bundle,
            "index": self.index,
            "wanted_index": self.wanted_index,
            "calibration": self.calibration,
            "tile_m": self.tile_m,
            "segments": [
                {"id": item.name, "count": item.count, "extent_m": _extent(item), "files": item.files}
                for item in self.segments
            ],
        }
        write_sealed(folder / MANIFEST, content, len(self.segments) > _MANY_SEGMENTS, _require_readable)


def _extent(box: Manifest | SegmentEntry) -> dict[str, list[float]]:
    return {"low": list(box.low_m), "high": list(box.high_m)}


def with_manifest(folder: Path, read: Callable[[Manifest], Result]) -> Result:
    """Read a map that may be switched and swept meanwhile: what fails is tried again while the manifest changes.

    Args:
        folder: The map's folder.
        read: Opens what the manifest names. What it has opened stays whole, whatever happens to the map.

    Raises:
        MapError: As `read_manifest`, or from ``read`` when the manifest that it was given still stands.
    """
    manifest = read_manifest(folder)
    while True:
        try:
            return read(manifest)
        except (MapError, OSError):
            current = read_manifest(folder)
            if current == manifest:
                raise
            manifest = current


@contextlib.contextmanager
def still_there(folder: Path, segment: SegmentEntry) -> Iterator[None]:
    """Read more of a segment of a map that is open.

    Raises:
        MapError: From the block; where the map has the segment no longer, it says so instead of naming damage.
    """
    try:
        yield
    except MapError as problem:
        if segment in read_manifest(folder).segments:
            raise
        raise MapError(
            f"Map {folder} has changed since it was loaded, and what is asked for is gone: load it again."
        ) from problem


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``map.yaml``.

    Raises:
        MapError: Missing, damaged, of another format version, or with values that no map has.
    """
    where = folder / MANIFEST
    if not where.is_file():
        state = f"has no {MANIFEST}" if folder.is_dir() else "is no folder"
        if (folder / "bundle.yaml").is_file():
            state += " (it is a model bundle)"
        elif (folder / SEGMENTS).is_dir():
            state += " (its build was interrupted: run it again)"
        raise MapError(f"There is no map at {folder}: it {state}. Give a folder that `vgssl build-map` wrote.")
    require_inside(folder, where, MapError, _REMEDY)
    return _read(where)


def _read(where: Path) -> Manifest:
    content = read_yaml(where, MapError, "a map's manifest")
    version = content.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "Update vgssl_ros, or build the map with this version." if newer else _REMEDY
        raise MapError(f"{where} has format version {version!r:.40}; this vgssl_ros reads {FORMAT}. {remedy}")
    require_seal(where, content, MapError, _REMEDY)
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as problem:
        raise MapError(f"{where} is damaged: {type(problem).__name__} {problem}. {_REMEDY}") from problem


def _require_readable(written: Path) -> None:
    """Refuse a manifest that readers would refuse, before it takes the place of one that they accept."""
    try:
        _read(written)
    except MapError as problem:
        reason = " ".join(str(problem.__cause__ or problem).split())
        raise MapError(
            f"The new manifest {written.with_name(MANIFEST)} could not be read again ({reason}): it is not written."
        ) from problem


def _parse(content: dict[str, Any]) -> Manifest:
    """The manifest of a YAML mapping; raises a `ValueError` or its like for a value that no map has."""
    datum = content["datum"]
    if datum is not None:
        datum = LocalFrame(*(_number(datum[key]) for key in ("latitude_deg", "longitude_deg", "altitude_m")))
        _require(abs(datum.latitude_deg) <= 90 and abs(datum.longitude_deg) <= 180, "the datum is not on Earth")
    manifest = Manifest(
        map_id=_text(content["map_id"]),
        created=_text(content["created"]),
        model_id=_text(content["model_id"]),
        dimension=_integer(content["dimension"], _MAX_DIMENSION),
        precision=_text(content["precision"]),
        datum=datum,
        spacing_m=_number(content["spacing_m"]),
        source=_text(content["source"]),
        bundle={str(key): _text(value) for key, value in content["bundle"].items()},
        index=dict(content["index"]),
        calibration=None if content["calibration"] is None else dict(content["calibration"]),
        segments=tuple(_segment(item) for item in content["segments"]),
        tile_m=None if content["tile_m"] is None else _number(content["tile_m"]),
        wanted_index=content.get("wanted_index"),
    )
    _box(content["extent_m"])
    _require(manifest.precision in PRECISIONS, f"precision {manifest.precision!r} is not known")
    _require(manifest.spacing_m >= 0, "spacing_m is negative")
    _require(manifest.tile_m is None or manifest.tile_m > 0, "tile_m is not positive")
    _require(len(manifest.segments) > 0, "there are no segments")
    _require(len({item.name for item in manifest.segments}) == len(manifest.segments), "a segment is listed twice")
    _require(manifest.count == _integer(content["count"], _MAX_COUNT), "count is not the sum of the segments")
    wanted = manifest.wanted_index
    _require(wanted in (None, "auto", *PARAMETERS), f"index type {str(wanted)[:80]!r} is not known")
    parse_index(manifest.index, [(item.name, item.count) for item in manifest.segments])
    return manifest


def _segment(item: dict[str, Any]) -> SegmentEntry:
    name = _text(item["id"])
    # The name becomes a path: nothing that could lead out of the folder.
    _require(re.fullmatch(r"[0-9a-f]{8,64}", name) is not None, f"segment name {name!r} is not allowed")
    files = {}
    for file in SEGMENT_FILES:
        entry = item["files"][file]
        _require(re.fullmatch(r"[0-9a-f]{64}", _text(entry["sha256"])) is not None, f"no sha256 of {file}")
        files[file] = {"sha256": entry["sha256"], "bytes": _integer(entry["bytes"], 2**63)}
    return SegmentEntry(name, _integer(item["count"], _MAX_COUNT), *_box(item["extent_m"]), files)


def _box(extent: dict[str, Any]) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = _pair(extent["low"]), _pair(extent["high"])
    _require(low[0] <= high[0] and low[1] <= high[1], f"the box from {low} to {high} is empty")
    return low, high


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _typed(kind: type | tuple[type, ...], what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        _require(isinstance(value, kind) and not isinstance(value, bool), f"{str(value)[:80]!r} is not {what}")
        return value

    return check


_text = _typed(str, "text")


def _integer(value: Any, limit: int) -> int:
    checked = _typed(int, "an integer")(value)
    _require(0 < checked <= limit, f"{checked} is not between 1 and {limit}")
    return int(checked)


def _number(value: Any) -> float:
    checked = float(_typed((int, float), "a number")(value))
    _require(math.isfinite(checked), f"{checked} is not finite")
    return checked


def _pair(values: Any) -> tuple[float, float]:
    first, second = values
    return _number(first), _number(second)


def bundle_reference(bundle: Path | None, folder: Path) -> dict[str, str]:
    """How a map remembers the bundle that built it: absolute, and relative to itself for moving both together.

    Raises:
        MapError: Its path is no text.
    """
    if bundle is None:
        return {}
    absolute = bundle.resolve()
    try:
        absolute.as_posix().encode()
    except UnicodeEncodeError as problem:
        raise MapError(f"The path of the bundle {str(absolute)!r} is not UTF-8: rename the folder.") from problem
    return {"path": absolute.as_posix(), "relative": Path(os.path.relpath(absolute, folder.resolve())).as_posix()}
