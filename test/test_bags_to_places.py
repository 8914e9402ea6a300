"""A bag becomes a place set: positions, headings and stamps come along, JPEG files as they are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import DATUM, picture

from vgssl_core.bags import BagWriter, Geotagging, geotag
from vgssl_core.bags.to_places import write_bag_places
from vgssl_core.errors import DataError, VgsslError
from vgssl_core.geodesy import horizontal_distance_m
from vgssl_core.imaging import read_image
from vgssl_core.places import read_place_set

START_NS = 1_700_000_000_123_456_789


def jpeg(seed: int) -> bytes:
    return cv2.imencode(".jpg", picture(seed))[1].tobytes()


@pytest.fixture(params=["fixes", "odometry"])
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Ten frames 2 m apart, eastwards."""
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(10):
            stamp = START_NS + i * 10**9
            writer.compressed_image("/camera", stamp, "camera", jpeg(i))
            if request.param == "fixes":
                writer.fix("/fix", stamp, "gps", *map(float, DATUM.to_wgs84([2.0 * i, 0.0, 0.0])))
            else:
                writer.odometry("/odom", stamp, "map", "base_link", [2.0 * i, 0.0, 0.5], 0.0)
    return tmp_path / "bag"


def test_a_place_set_holds_the_frames_of_the_bag_with_their_tags(bag: Path, tmp_path: Path) -> None:
    frames = write_bag_places(bag, tmp_path / "set", Geotagging(spacing_m=3.0))
    places = read_place_set(tmp_path / "set")
    database = places.database
    assert len(database) == len(frames) == 5 and not len(places.queries)
    assert np.array_equal(np.sort(database.stamp_ns), geotag(bag, Geotagging(spacing_m=3.0)).stamp_ns)
    order = np.argsort(database.stamp_ns)
    steps_m = np.linalg.norm(np.diff(database.planar_m[order], axis=0), axis=1)
    assert np.allclose(steps_m, 4.0, atol=0.03)
    assert np.allclose(database.heading_deg[order], frames.heading_deg, atol=0.01)
    assert database.is_georeferenced == frames.is_georeferenced
    if frames.is_georeferenced:
        here = (database.latitude_deg[order], database.longitude_deg[order])
        assert horizontal_distance_m(*here, frames.latitude_deg, frames.longitude_deg).max() < 0.02


def test_jpeg_files_pass_through_unchanged(bag: Path, tmp_path: Path) -> None:
    write_bag_places(bag, tmp_path / "set", Geotagging(spacing_m=0.0))
    database = read_place_set(tmp_path / "set").database
    by_time = [database.paths[i].read_bytes() for i in np.argsort(database.stamp_ns)]
    assert by_time == [jpeg(i) for i in range(10)]


def test_raw_frames_become_files_that_look_the_same(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(2):
            writer.image("/camera", START_NS + i, "camera", picture(i))
            writer.odometry("/odom", START_NS + i, "map", "base_link", [0.0, 0.0, 0.0], 0.0)
    write_bag_places(tmp_path / "bag", tmp_path / "set", Geotagging(spacing_m=0.0))
    paths = read_place_set(tmp_path / "set").database.paths
    assert len(paths) == 2  # frames at one place have different names
    assert np.abs(read_image(paths[0]).astype(int) - picture(0)).mean() < 4


def test_a_damaged_bag_leaves_nothing_behind(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_bag_places(tmp_path / "missing", tmp_path / "set")
    (storage,) = bag.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[:3000])
    with pytest.raises(DataError):
        write_bag_places(bag, tmp_path / "set")
    assert {item.name for item in tmp_path.iterdir()} == {"bag"}


def test_a_folder_that_is_there_is_not_touched(bag: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(VgsslError, match="exists already"):
        write_bag_places(bag, tmp_path / "set")
    assert [item.name for item in (tmp_path / "set").iterdir()] == ["mine.txt"]


def test_a_real_drive_becomes_a_place_set(shared_data: Path, tmp_path: Path) -> None:
    frames = write_bag_places(shared_data / "bags" / "kitti00_map", tmp_path / "set", Geotagging(spacing_m=5.0))
    database = read_place_set(tmp_path / "set").database
    assert len(database) == len(frames) > 100 and database.is_georeferenced
    assert np.isfinite(database.heading_deg).mean() > 0.9
