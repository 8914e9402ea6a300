"""Small maps for tests, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from vgssl_core import geodesy
from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap import MapPositions
from vgssl_core.geomap.index.entry import IndexEntry, IndexQuality
from vgssl_core.geomap.manifest import Manifest, read_manifest
from vgssl_core.geomap.segment import read_rows
from vgssl_core.sealed import SEAL, write_sealed
from vgssl_core.storage import sha256

PRAGUE = geodesy.LocalFrame(50.0, 14.4, 200.0)
#: Whether FAISS is used: both ways where it is installed.
ENGINES = [False, True] if load_faiss() is not None else [False]


@pytest.fixture(scope="module", autouse=True)
def quick_disk() -> Iterator[None]:
    """Without waiting for the disk, which no test outlives; modules that import this write a hundred maps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vgssl_core.storage._sync", lambda path: None)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


class Images(NamedTuple):
    """Descriptors with their positions."""

    descriptors: NDArray[np.float32]
    positions: MapPositions

    def only(self, indices: NDArray[np.integer]) -> Images:
        return Images(self.descriptors[indices], self.positions.subset(indices))


def make_images(
    count: int,
    seed: int = 0,
    datum: geodesy.LocalFrame | None = PRAGUE,
    extent_m: float = 1000.0,
    dimension: int = 16,
    **changes: Any,
) -> Images:
    """Random images around a datum (or in a local plane) whose sources nobody else has; some facts are unknown."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dimension))
    enu = np.concatenate([rng.uniform(-extent_m, extent_m, (count, 2)), rng.uniform(0, 20, (count, 1))], axis=1)
    unknown = np.full(count, np.nan)
    latitude, longitude, altitude = (unknown, unknown, enu[:, 2]) if datum is None else datum.to_wgs84(enu)
    values: dict[str, Any] = {
        "latitude_deg": latitude,
        "longitude_deg": longitude,
        "altitude_m": np.where(rng.random(count) < 0.2, np.nan, altitude),
        "heading_deg": np.where(rng.random(count) < 0.2, np.nan, rng.uniform(0, 360, count)),
        "stamp_ns": np.arange(count, dtype=np.int64),
        "source": tuple(f"{seed}/image {number}" for number in range(count)),
        "planar_m": enu[:, :2],
    }
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Images(unit, MapPositions(**(values | changes)))


def content(path: Path) -> dict[str, tuple]:
    """Source → everything else that a map holds of the image, as comparable values; sources must differ."""
    manifest = read_manifest(path)
    rows = read_rows(path, manifest)
    assert len(set(rows.positions.source)) == len(rows)
    descriptors = np.asarray(rows.descriptors)
    return {
        source: expected_of(descriptors[i], rows.poses[i], rows.positions, i)
        for i, source in enumerate(rows.positions.source)
    }


def expected(images: Images, datum: geodesy.LocalFrame | None, precision: str = "fp32") -> dict[str, tuple]:
    """What `content` gives of a map that holds these images."""
    stored = images.descriptors.astype({"fp32": np.float32, "fp16": np.float16}[precision]).astype(np.float32)
    poses = images.positions.poses(datum)
    return {
        source: expected_of(stored[i], poses[i], images.positions, i)
        for i, source in enumerate(images.positions.source)
    }


def expected_of(descriptor: NDArray[np.float32], pose: np.void, positions: MapPositions, i: int) -> tuple:
    facts = (positions.latitude_deg, positions.longitude_deg, positions.altitude_m, positions.heading_deg)
    # Text, because NaN is not equal to itself.
    return descriptor.tobytes(), str(pose.item()), str([float(fact[i]) for fact in facts]), int(positions.stamp_ns[i])


def only_the_map_is_left(path: Path) -> None:
    """Assert that the folder holds what the manifest lists and nothing else."""
    manifest = read_manifest(path)
    assert sorted(os.listdir(path)) == ["map.yaml", "segments"]
    assert sorted(os.listdir(path / "segments")) == sorted(item.name for item in manifest.segments)


def rewrite(path: Path, **changes: Any) -> Manifest:
    manifest = replace(read_manifest(path), **changes)
    manifest.write(path)
    return manifest


def index_over(path: Path) -> Manifest:
    """The map with an index over its segments; its file is no index, which no change needs to know."""
    (path / "index-0a0a0a0a.faiss").write_bytes(b"x")
    manifest = read_manifest(path)
    entry = IndexEntry(
        "hnsw",
        "index-0a0a0a0a.faiss",
        "0" * 64,
        1,
        tuple(item.name for item in manifest.segments),
        manifest.count,
        {"ef_search": 64, "refine_factor": 1},
        IndexQuality(1.0, 1.0, 0.1, 0.2, 300.0),
    )
    return rewrite(path, index=entry.to_dict())


def unit_rows(count: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def positions(count: int, datum: geodesy.LocalFrame | None = None, seed: int = 0, **changes: Any) -> MapPositions:
    """Random positions within 1 km of a datum, or local ones."""
    rng = np.random.default_rng(seed)
    enu = np.concatenate([rng.uniform(-1000, 1000, (count, 2)), rng.uniform(0, 20, (count, 1))], axis=1)
    unknown = np.full(count, np.nan)
    latitude, longitude, altitude = (unknown, unknown, enu[:, 2]) if datum is None else datum.to_wgs84(enu)
    values: dict[str, Any] = {
        "latitude_deg": latitude,
        "longitude_deg": longitude,
        "altitude_m": altitude,
        "heading_deg": rng.uniform(0, 360, count),
        "stamp_ns": np.arange(count, dtype=np.int64),
        "source": tuple(f"image {number}" for number in range(count)),
        "planar_m": enu[:, :2],
    }
    return MapPositions(**(values | changes))


def segment_file(folder: Path, name: str) -> Path:
    return next((folder / "segments").glob(f"*/{name}"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load((folder / "map.yaml").read_text())
    change(content)
    content.pop(SEAL)
    write_sealed(folder / "map.yaml", content)


def repair(folder: Path) -> None:
    """Make the checksums fit what the files hold now, as a hostile author would."""

    def update(content: dict[str, Any]) -> None:
        for segment in content["segments"]:
            for name, entry in segment["files"].items():
                path = folder / "segments" / segment["id"] / name
                entry.update(sha256=sha256(path), bytes=path.stat().st_size)

    edit(folder, update)
