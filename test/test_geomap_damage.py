"""Maps that are damaged or foreign are refused, with the file that is at fault."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_support import edit, repair, segment_file, unit_rows

from vgssl_core.errors import MapError
from vgssl_core.geomap import load_map, verify_map


@pytest.fixture
def damaged(tiny_map: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_map, tmp_path / "map"))


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
        (lambda m: m.update(wanted_index="../quick"), "index type '../quick' is not known"),
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
    data: st.DataObject, tiny_map: Path, tmp_path_factory
) -> None:
    folder = Path(shutil.copytree(tiny_map, tmp_path_factory.mktemp("fuzz") / "map"))
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
