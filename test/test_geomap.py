"""Maps: what goes in comes back, in a frame of its own, and only what fits is answered."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from map_support import PRAGUE, edit, positions, segment_file, unit_rows

from vgssl_core import geodesy
from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap import GeoMap, build_map, load_map, require_model, verify_map
from vgssl_core.geomap.description import describe
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.geomap.positions import CELL_M


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_descriptors_poses_and_records_come_back_together(precision: str, tmp_path: Path) -> None:
    rows, given_positions = unit_rows(50), positions(50, PRAGUE)
    geomap = build_map(tmp_path / "m", rows, "model", given_positions, precision)
    order = [int(source.split()[1]) for source in geomap.sources]
    assert sorted(order) == list(range(50))
    assert geomap.datum is not None
    expected = geomap.datum.to_enu(
        given_positions.latitude_deg, given_positions.longitude_deg, given_positions.altitude_m
    )
    np.testing.assert_allclose(geomap.positions_m, expected[order], atol=1e-6)
    yaw = geodesy.compass_to_yaw_rad(given_positions.heading_deg)
    np.testing.assert_allclose(geomap.yaw_rad, yaw[order], atol=1e-6)
    stored = np.load(segment_file(tmp_path / "m", "descriptors.npy"), allow_pickle=False)
    assert stored.dtype == (np.float32 if precision == "fp32" else np.float16)
    np.testing.assert_allclose(stored, rows[order], atol=1e-3 if precision == "fp16" else 0)
    records = pyarrow.parquet.read_table(segment_file(tmp_path / "m", "records.parquet")).to_pydict()
    np.testing.assert_array_equal(records["latitude_deg"], given_positions.latitude_deg[order])
    np.testing.assert_array_equal(records["stamp_ns"], given_positions.stamp_ns[order])
    assert verify_map(tmp_path / "m").size_bytes == geomap.size_bytes > 0


def test_images_are_ordered_by_geographic_cell(tiny_map: Path) -> None:
    cells = np.floor(load_map(tiny_map).positions_m[:, 1::-1] / CELL_M)
    assert cells.tolist() == sorted(cells.tolist())


def test_the_datum_is_the_mean_position_at_the_mean_known_altitude(tmp_path: Path) -> None:
    altitude = np.array([100.0, np.nan, 300.0])
    given_positions = positions(
        3,
        latitude_deg=np.array([50.0, 50.0, 50.003]),
        longitude_deg=np.array([14.0, 14.003, 14.0]),
        altitude_m=altitude,
    )
    geomap = build_map(tmp_path / "m", unit_rows(3), "model", given_positions)
    assert geomap.datum is not None
    assert geomap.datum.altitude_m == 200.0
    assert abs(geomap.datum.latitude_deg - 50.001) < 1e-6
    assert np.abs(geomap.positions_m[:, :2].mean(axis=0)).max() < 0.02
    assert np.isnan(geomap.positions_m[:, 2]).sum() == 1
    unknown = positions(3, PRAGUE, altitude_m=np.full(3, np.nan))
    flat = build_map(tmp_path / "n", unit_rows(3), "model", unknown)
    assert flat.datum is not None
    assert flat.datum.altitude_m == 0.0
    assert any(line.startswith("datum") and line.endswith("altitude not known") for line in describe(flat))
    assert any(line.startswith("datum") and line.endswith("altitude 200.0 m") for line in describe(geomap))


@pytest.mark.parametrize(
    ("latitude", "longitude"), [(0.0, 180.0), (0.0, -180.0), (90.0, 0.0), (-90.0, 77.0), (84.2, 179.9999)]
)
def test_maps_at_the_poles_and_across_the_antimeridian_keep_their_distances(
    latitude: float, longitude: float, tmp_path: Path
) -> None:
    datum = geodesy.LocalFrame(latitude, longitude, 10.0)
    rng = np.random.default_rng(1)
    enu = np.concatenate([rng.uniform(-500, 500, (20, 2)), np.zeros((20, 1))], axis=1)
    lat, lon, altitude = datum.to_wgs84(enu)
    given_positions = positions(20, latitude_deg=lat, longitude_deg=lon, altitude_m=altitude)
    geomap = build_map(tmp_path / "m", unit_rows(20), "model", given_positions)
    order = [int(source.split()[1]) for source in geomap.sources]
    placed = geomap.positions_m - geomap.positions_m[0]
    np.testing.assert_allclose(
        np.linalg.norm(placed, axis=1), np.linalg.norm(enu[order] - enu[order][0], axis=1), atol=1e-3
    )
    back = geomap.to_wgs84(geomap.positions_m)
    assert geodesy.horizontal_distance_m(back[0], back[1], lat[order], lon[order]).max() < 1e-4


def test_a_local_map_has_no_datum_and_keeps_its_plane(tmp_path: Path) -> None:
    given_positions = positions(10)
    geomap = build_map(tmp_path / "m", unit_rows(10), "model", given_positions)
    order = [int(source.split()[1]) for source in geomap.sources]
    assert geomap.datum is None
    assert given_positions.planar_m is not None
    np.testing.assert_array_equal(geomap.positions_m[:, :2], given_positions.planar_m[order])
    assert all(np.isnan(values).all() for values in geomap.to_wgs84(geomap.positions_m))
    assert yaml.safe_load((tmp_path / "m" / "map.yaml").read_text())["crs"] == "local"
    assert load_map(tmp_path / "m").datum is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latitude_deg": np.array([50.0, np.nan, 50.0])}, "1 of 3 images have no usable position.*image 1"),
        ({"longitude_deg": np.array([14.0, 14.0, np.inf])}, "1 of 3.*image 2"),
        ({"latitude_deg": np.array([91.0, 95.0, 50.0])}, "2 of 3.*image 0"),
        ({"latitude_deg": np.full(3, np.nan), "planar_m": None}, "3 of 3"),
        ({"latitude_deg": np.full(3, np.nan), "planar_m": np.full((3, 2), np.nan)}, "3 of 3"),
        ({"heading_deg": np.zeros(2)}, "heading_deg"),
        ({"planar_m": np.zeros((3, 3))}, "planar_m"),
        ({"latitude_deg": np.zeros(3), "longitude_deg": np.array([0.0, 120.0, -120.0])}, "around the globe"),
    ],
)
def test_positions_that_no_map_can_hold_are_refused(changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        build_map(tmp_path / "m", unit_rows(3), "model", positions(3, PRAGUE, **changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 2.0])
def test_descriptors_that_are_not_of_unit_length_are_refused(value: float, tmp_path: Path) -> None:
    rows = unit_rows(5)
    rows[3] = value
    with pytest.raises(DataError, match=r"1 of 5 descriptors.*image 3"):
        build_map(tmp_path / "m", rows, "model", positions(5, PRAGUE))
    with pytest.raises(DataError):
        build_map(tmp_path / "m", unit_rows(4), "model", positions(5, PRAGUE))
    with pytest.raises(DataError, match="no image"):
        build_map(tmp_path / "m", unit_rows(0), "model", positions(0, PRAGUE))
    with pytest.raises(MapError, match="fp8"):
        build_map(tmp_path / "m", unit_rows(5), "model", positions(5, PRAGUE), "fp8")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_remembers_the_bundle_absolutely_and_relatively(tiny_map: Path) -> None:
    reference = read_manifest(tiny_map).bundle
    assert reference == {"path": str(tiny_map.parent / "b"), "relative": "../b"}


def test_the_spacing_is_the_typical_distance_of_neighbours(tmp_path: Path) -> None:
    planar = np.stack([np.arange(10) * 3.0, np.zeros(10)], axis=1)
    assert build_map(tmp_path / "m", unit_rows(10), "m", positions(10, planar_m=planar)).spacing_m == 3.0
    same = np.zeros((10, 2))
    assert build_map(tmp_path / "n", unit_rows(10), "m", positions(10, planar_m=same)).spacing_m == 0.0


def test_several_segments_are_one_map(tmp_path: Path) -> None:
    first = build_map(tmp_path / "a", unit_rows(6), "m", positions(6))
    second = build_map(tmp_path / "b", unit_rows(5, seed=1), "m", positions(5, seed=1))
    entry = yaml.safe_load((tmp_path / "b" / "map.yaml").read_text())["segments"][0]
    shutil.copytree(tmp_path / "b" / "segments" / entry["id"], tmp_path / "a" / "segments" / entry["id"])
    edit(tmp_path / "a", lambda m: (m["segments"].append(entry), m.update(count=11)))
    joined: GeoMap = verify_map(tmp_path / "a")
    assert joined.sources == [*first.sources, *second.sources]
    np.testing.assert_array_equal(joined.positions_m, np.concatenate([first.positions_m, second.positions_m]))
    queries = second.descriptors(slice(0, 5))
    assert joined.search(queries, 1).indices[:, 0].tolist() == [6, 7, 8, 9, 10]


def test_queries_that_cannot_be_answered_are_refused(tiny_map: Path) -> None:
    geomap = load_map(tiny_map)
    with pytest.raises(MapError, match="length 16"):
        geomap.search(unit_rows(1, 17), 5)
    with pytest.raises(DataError, match="not finite"):
        geomap.search(np.full(16, np.nan, np.float32), 5)
    with pytest.raises(DataError, match="at least 1"):
        geomap.search(unit_rows(1), 0)
    assert geomap.search(unit_rows(1)[0], 1000).indices.shape == (1, 40)
    assert geomap.search(unit_rows(0), 3).indices.shape == (0, 3)


def test_a_map_of_another_model_is_refused_with_both_names(tiny_map: Path) -> None:
    geomap = load_map(tiny_map)
    require_model(geomap, "model-a", "this bundle")
    with pytest.raises(MapError, match=r"model-a.*model-b"):
        require_model(geomap, "model-b", "this bundle")
