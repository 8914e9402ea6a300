"""Maps: format, exact search, refusal of damage, replacement that survives a kill."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vgssl_core import geodesy
from vgssl_core.errors import DataError, MapError
from vgssl_core.faiss_package import load_faiss
from vgssl_core.geomap import GeoMap, MapPositions, build_map, load_map, require_model, verify_map
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.geomap.positions import CELL_M
from vgssl_core.sealed import SEAL, write_sealed
from vgssl_core.storage import sha256

ENGINES = [False, True] if load_faiss() is not None else [False]


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


PRAGUE = geodesy.LocalFrame(50.0, 14.4, 200.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map") / "map"
    build_map(folder, unit_rows(40), "model-a", positions(40, PRAGUE), bundle_path=folder.parent / "b", source="a test")
    return folder


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "map"))


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


# --- content


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


def test_images_are_ordered_by_geographic_cell(whole: Path) -> None:
    cells = np.floor(load_map(whole).positions_m[:, 1::-1] / CELL_M)
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
    datum = build_map(tmp_path / "n", unit_rows(3), "model", unknown).datum
    assert datum is not None
    assert datum.altitude_m == 0.0


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


# --- search


def by_hand(rows: NDArray, queries: NDArray, k: int) -> tuple[NDArray, NDArray]:
    distances = np.linalg.norm(rows[None].astype(np.float64) - queries[:, None].astype(np.float64), axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@given(
    count=st.integers(1, 60),
    k=st.integers(1, 70),
    queries=st.integers(0, 30),
    cuts=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_search_is_exact_with_and_without_faiss_and_in_any_number_of_segments(
    count: int, k: int, queries: int, cuts: int, seed: int
) -> None:
    rows, asked = unit_rows(count, 8, seed), unit_rows(queries, 8, seed + 1000)
    k = min(k, count)
    expected, distances = by_hand(rows, asked, k)
    for use_faiss in ENGINES:
        blocks = [block for block in np.array_split(rows, cuts) if len(block)]
        indices, found = ExactSearch(blocks, use_faiss).search(asked, k)
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_allclose(found, distances, atol=1e-5)
        assert indices.dtype == np.int64
        assert found.dtype == np.float32


@pytest.mark.parametrize("use_faiss", ENGINES)
def test_equal_images_come_in_the_order_of_their_indices_at_distance_zero(use_faiss: bool) -> None:
    rows = np.repeat(unit_rows(5), 4, axis=0)
    indices, distances = ExactSearch([rows], use_faiss).search(rows[4:5], 6)
    assert indices[0, :4].tolist() == [4, 5, 6, 7]
    assert distances[0, :4].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("use_faiss", ENGINES)
def test_one_query_and_many_give_the_same_bits(use_faiss: bool) -> None:
    rows, asked = unit_rows(3000, 64), unit_rows(300, 64, 1)
    search = ExactSearch([rows], use_faiss)
    indices, distances = search.search(asked, 10)
    for number in (0, 17, 299):
        alone = search.search(asked[number : number + 1], 10)
        np.testing.assert_array_equal(alone[0][0], indices[number])
        np.testing.assert_array_equal(alone[1][0], distances[number])


def test_both_searches_agree_to_the_last_bit_on_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgssl_core.geomap.exact._ROWS_AT_ONCE", 700)
    rows, asked = unit_rows(2000, 32), unit_rows(40, 32, 1)
    results = [ExactSearch([rows], use_faiss).search(asked, 20) for use_faiss in ENGINES]
    for indices, distances in results:
        np.testing.assert_array_equal(indices, results[0][0])
        np.testing.assert_array_equal(distances, results[0][1])


def test_queries_that_cannot_be_answered_are_refused(whole: Path) -> None:
    geomap = load_map(whole)
    with pytest.raises(MapError, match="length 16"):
        geomap.search(unit_rows(1, 17), 5)
    with pytest.raises(DataError, match="not finite"):
        geomap.search(np.full(16, np.nan, np.float32), 5)
    with pytest.raises(DataError, match="at least 1"):
        geomap.search(unit_rows(1), 0)
    assert geomap.search(unit_rows(1)[0], 1000).indices.shape == (1, 40)
    assert geomap.search(unit_rows(0), 3).indices.shape == (0, 3)


def test_two_installed_faiss_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [SimpleNamespace(metadata={"Name": name}) for name in ("faiss-cpu", "faiss_gpu_cu12", "numpy")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: both)
    load_faiss.cache_clear()
    try:
        with pytest.raises(MapError, match="pip uninstall -y faiss-cpu faiss-gpu-cu12"):
            ExactSearch([unit_rows(3)])
    finally:
        load_faiss.cache_clear()


def test_a_map_of_another_model_is_refused_with_both_names(whole: Path) -> None:
    geomap = load_map(whole)
    require_model(geomap, "model-a", "this bundle")
    with pytest.raises(MapError, match=r"model-a.*model-b"):
        require_model(geomap, "model-b", "this bundle")


# --- damage


@pytest.mark.parametrize("name", ["descriptors.npy", "poses.npy", "records.parquet"])
@pytest.mark.parametrize("damage", ["truncated", "longer", "altered", "missing"])
def test_every_damaged_file_is_found_and_named(name: str, damage: str, damaged: Path) -> None:
    path = segment_file(damaged, name)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[:-5] if damage == "truncated" else data + b"xxxxx")
    with pytest.raises(MapError, match=name):
        load_map(damaged)
    if damage != "altered":
        with pytest.raises(MapError, match=name):
            load_map(damaged, verify=False)


def save(path: Path, values: Any) -> None:
    np.save(path, values, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("descriptors.npy", lambda path: save(path, np.zeros((40, 17), np.float32))),
        ("descriptors.npy", lambda path: save(path, np.zeros((41, 16), np.float32))),
        ("descriptors.npy", lambda path: save(path, np.zeros((40, 16), np.float64))),
        ("descriptors.npy", lambda path: save(path, np.asfortranarray(unit_rows(40)))),
        ("descriptors.npy", lambda path: save(path, np.full((40, 16), None, object))),
        ("descriptors.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535)),
        ("descriptors.npy", lambda path: path.write_bytes(b"\x93NUMPY\x09\x09")),
        ("descriptors.npy", lambda path: path.write_bytes(b"x")),
        ("poses.npy", lambda path: save(path, np.zeros(40))),
        ("poses.npy", lambda path: save(path, np.zeros((40, 4), np.float32))),
        ("records.parquet", lambda path: path.write_bytes(b"PAR1" + bytes(90) + b"PAR1")),
        ("records.parquet", lambda path: path.write_bytes(b"")),
    ],
)
def test_foreign_files_with_good_checksums_are_refused(name: str, write: Callable, damaged: Path) -> None:
    write(segment_file(damaged, name))
    with pytest.raises(MapError):
        load_map(damaged)
    if segment_file(damaged, name).stat().st_size:
        repair(damaged)
    with pytest.raises(MapError, match=name.replace(".", r"\.")):
        verify_map(damaged)


def test_values_that_no_build_writes_are_found_on_the_first_load(damaged: Path) -> None:
    path = segment_file(damaged, "descriptors.npy")
    rows = np.load(path)
    rows[7] *= 3
    np.save(path, rows)
    repair(damaged)
    for load in (load_map, verify_map):
        with pytest.raises(MapError, match="descriptor 7"):
            load(damaged)
    np.save(path, unit_rows(40))
    poses = segment_file(damaged, "poses.npy")
    values = np.load(poses)
    values["x"][3] = np.nan
    np.save(poses, values)
    repair(damaged)
    with pytest.raises(MapError, match="not finite"):
        load_map(damaged)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format=3), "Update vgssl_ros"),
        (lambda m: m.update(format=1), "reads 2. Build the map again"),
        (lambda m: m.update(format=None), "format version None"),
        (lambda m: m.pop("format"), "format version None"),
        (lambda m: m.pop("model_id"), "model_id"),
        (lambda m: m.update(dimension=10**12), "not between"),
        (lambda m: m.update(dimension=-1), "not between"),
        (lambda m: m.update(dimension=15), "descriptors.npy"),
        (lambda m: m.update(count=10**15), "not between"),
        (lambda m: m.update(count=39), "sum of the segments"),
        (lambda m: m.update(precision="fp8"), "precision"),
        (lambda m: m.update(precision="fp16"), "descriptors.npy"),
        (lambda m: m.update(datum=[]), "damaged"),
        (lambda m: m["datum"].update(latitude_deg=100.0), "not on Earth"),
        (lambda m: m["datum"].update(latitude_deg=float("nan")), "finite"),
        (lambda m: m["datum"].update(latitude_deg=True), "not a number"),
        (lambda m: m.update(spacing_m=-1), "negative"),
        (lambda m: m.update(spacing_m="far"), "not a number"),
        (lambda m: m.update(extent_m={"low": [1], "high": [2, 3]}), "damaged"),
        (lambda m: m.update(segments=[]), "no segments"),
        (lambda m: m.update(segments={}), "no segments"),
        (lambda m: m.update(segments=7), "damaged"),
        (lambda m: m["segments"].append(copy.deepcopy(m["segments"][0])), "twice"),
        (lambda m: m["segments"][0].update(id="../../etc"), "not allowed"),
        (lambda m: m["segments"][0].update(id="0123456789ab"), "is missing"),
        (lambda m: m["segments"][0].update(count=0), "not between"),
        (lambda m: m["segments"][0]["files"].pop("poses.npy"), "poses.npy"),
        (lambda m: m["segments"][0]["files"]["poses.npy"].update(sha256="0" * 63), "sha256"),
        (lambda m: m["segments"][0]["files"]["poses.npy"].update(bytes=1 << 70), "not between"),
        (lambda m: m.update(bundle=3), "damaged"),
        (lambda m: m.update(index=3), "damaged"),
        (lambda m: m.update(calibration=3), "damaged"),
    ],
)
def test_a_manifest_that_no_build_writes_is_refused(change: Callable, words: str, damaged: Path) -> None:
    edit(damaged, change)
    with pytest.raises(MapError, match=words):
        load_map(damaged)


def test_what_is_no_map_is_said_to_be_none(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "segments").mkdir(parents=True)
    for path, words in {
        tmp_path / "missing": "is no folder",
        tmp_path / "empty": "has no map.yaml",
        tmp_path / "broken": "interrupted",
        tiny_bundle: "model bundle",
    }.items():
        with pytest.raises(MapError, match=words):
            load_map(path)


@given(data=st.data())
def test_random_damage_gives_our_error_or_a_map_that_answers(
    data: st.DataObject, whole: Path, tmp_path_factory
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("fuzz") / "map"))
    name = data.draw(st.sampled_from(["map.yaml", "descriptors.npy", "poses.npy", "records.parquet"]))
    path = folder / name if name == "map.yaml" else segment_file(folder, name)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    if name != "map.yaml" and data.draw(st.booleans()):
        repair(folder)
    try:
        geomap = verify_map(folder)
        assert geomap.search(unit_rows(1, geomap.dimension), 3).indices.max() < len(geomap)
    except MapError:
        pass


# --- replacement


def test_building_again_replaces_the_map_and_sweeps_the_old_segment(tmp_path: Path) -> None:
    build_map(tmp_path / "m", unit_rows(10), "one", positions(10, PRAGUE))
    open_before = load_map(tmp_path / "m")
    (tmp_path / "m" / "segments" / "0badc0de0bad").mkdir()
    build_map(tmp_path / "m", unit_rows(20, 8), "two", positions(20))
    geomap = verify_map(tmp_path / "m")
    assert (len(geomap), geomap.model_id, geomap.datum) == (20, "two", None)
    assert len(list((tmp_path / "m" / "segments").iterdir())) == 1
    # A reader of the old version goes on reading it.
    assert open_before.search(unit_rows(10), 1).indices[:, 0].tolist() != []
    assert len(open_before) == 10


def test_a_failed_build_leaves_the_old_map_and_nothing_else(whole: Path, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "map"))
    before = sorted(str(path) for path in folder.rglob("*"))

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("vgssl_core.geomap.segment._write_records", fail)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            build_map(place, unit_rows(5), "two", positions(5, PRAGUE))
    assert sorted(str(path) for path in folder.rglob("*")) == before
    assert not (tmp_path / "new").exists()
    assert verify_map(folder).model_id == "model-a"


def test_a_folder_or_file_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name, words in {"mine": "thesis.txt", "file": "is a file"}.items():
        with pytest.raises(MapError, match=words):
            build_map(tmp_path / name, unit_rows(5), "two", positions(5, PRAGUE))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "precious"


KILLED_BUILD = """
import os, signal, sys
import numpy as np
from vgssl_core.geomap import MapPositions, build_map
module, function, nth = sys.argv[2].split()
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
owner = sys.modules[module]
original, calls = getattr(owner, function), []
def counting(*arguments, **named):
    calls.append(1)
    return die() if len(calls) == int(nth) else original(*arguments, **named)
setattr(owner, function, counting)
rows = np.eye(8, dtype=np.float32)
unknown = np.full(8, np.nan)
places = MapPositions(unknown, unknown, unknown, unknown, np.arange(8), tuple("abcdefgh"), np.eye(8)[:, :2] * 100)
build_map(sys.argv[1], rows, "two", places)
"""


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("vgssl_core.geomap.segment _write_records 1", "model-a"),
        ("vgssl_core.geomap.segment sha256 2", "model-a"),
        ("vgssl_core.storage _sync 3", "model-a"),
        ("vgssl_core.storage _move_into_place 1", "model-a"),
        ("vgssl_core.geomap.manifest write_sealed 1", "model-a"),
        ("os replace 2", "model-a"),
        ("vgssl_core.geomap.builder sweep 1", "two"),
        ("shutil rmtree 2", "two"),
    ],
)
def test_a_kill_at_any_moment_leaves_a_whole_map(moment: str, expected: str, damaged: Path) -> None:
    command = [sys.executable, "-c", KILLED_BUILD, str(damaged), moment]
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run(command, cwd=root, timeout=60).returncode == -signal.SIGKILL
    geomap = verify_map(damaged)
    assert geomap.model_id == expected
    geomap.search(unit_rows(1, geomap.dimension), 3)
    # The next build finds its way and leaves nothing of the killed one.
    build_map(damaged, unit_rows(5), "three", positions(5, PRAGUE))
    assert verify_map(damaged).model_id == "three"
    assert sorted(os.listdir(damaged)) == ["map.yaml", "segments"]
    assert len(os.listdir(damaged / "segments")) == 1


def test_a_first_build_that_was_killed_is_taken_up_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_BUILD, str(tmp_path / "m"), "vgssl_core.geomap.manifest write_sealed 1"]
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run(command, cwd=root, timeout=60).returncode == -signal.SIGKILL
    with pytest.raises(MapError, match="interrupted"):
        load_map(tmp_path / "m")
    build_map(tmp_path / "m", unit_rows(5), "three", positions(5, PRAGUE))
    assert verify_map(tmp_path / "m").model_id == "three"
    assert len(os.listdir(tmp_path / "m" / "segments")) == 1


def test_two_builds_at_once_do_not_meet(whole: Path, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "map"))
    from vgssl_core.geomap.builder import writing

    with writing(folder), pytest.raises(MapError, match="Another process"):
        build_map(folder, unit_rows(5), "two", positions(5, PRAGUE))
    assert verify_map(folder).model_id == "model-a"


def test_the_manifest_remembers_the_bundle_absolutely_and_relatively(whole: Path) -> None:
    reference = read_manifest(whole).bundle
    assert reference == {"path": str(whole.parent / "b"), "relative": "../b"}


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
