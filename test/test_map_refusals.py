"""A writer switches to nothing that a reader refuses: it says why, and the map that was there stays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from map_support import PRAGUE, content, only_the_map_is_left, positions, quick_disk, unit_rows  # noqa: F401

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap import add_images, build_map, load_map, verify_map

COUNT = 3
UNREADABLE_NAME = os.fsdecode(b"bundle-\xff")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    build_map(tmp_path / "m", unit_rows(COUNT), "model", positions(COUNT, PRAGUE))
    return tmp_path / "m"


@pytest.mark.parametrize("value", [4294967295.0, -2e6, np.inf])
@pytest.mark.parametrize("datum", [PRAGUE, None])
def test_an_altitude_that_no_image_has_is_refused_with_its_image(value: float, datum, tmp_path: Path) -> None:
    places = positions(COUNT, datum, seed=1, altitude_m=np.array([200.0, value, np.nan]))
    with pytest.raises(DataError, match=r"1 of 3 images have no usable altitude.*image 1"):
        build_map(tmp_path / "new", unit_rows(COUNT, seed=1), "model", places)
    build_map(tmp_path / "m", unit_rows(COUNT), "model", positions(COUNT, datum))
    with pytest.raises(DataError, match="usable altitude"):
        add_images(tmp_path / "m", unit_rows(COUNT, seed=1), "model", places)
    assert len(verify_map(tmp_path / "m")) == COUNT


def test_the_highest_altitude_is_loaded_from_anywhere_on_earth(tmp_path: Path) -> None:
    places = positions(COUNT, PRAGUE, latitude_deg=np.array([50.0, -50, 0]), altitude_m=np.array([1e6, -1e6, 0]))
    build_map(tmp_path / "m", unit_rows(COUNT), "model", places)
    assert len(verify_map(tmp_path / "m")) == COUNT


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("length", [0.9990003, 1.0009998])
def test_a_descriptor_that_is_just_long_or_short_enough_is_loaded_too(
    length: float, precision: str, tmp_path: Path
) -> None:
    rows = unit_rows(COUNT) * np.float32(length)
    build_map(tmp_path / "m", rows, "model", positions(COUNT), precision)
    assert len(verify_map(tmp_path / "m")) == COUNT


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"bundle_path": UNREADABLE_NAME}, "bundle.*rename"),
        ({"source": "long " * 20_000}, "new manifest .*map.yaml.* text of 100000 characters"),
        ({"source": "\ud800"}, "new manifest .*map.yaml"),
    ],
)
def test_a_manifest_that_could_not_be_read_takes_no_place(named: dict, words: str, path: Path) -> None:
    before = content(path)
    for place in (path, path.with_name("new")):
        with pytest.raises(MapError, match=words):
            build_map(place, unit_rows(5), "model", positions(5, PRAGUE), **named)
    assert content(path) == before
    only_the_map_is_left(path)
    assert not path.with_name("new").exists()


def test_values_that_no_reader_accepts_are_found_before_the_switch(path: Path, monkeypatch) -> None:
    before = content(path)
    # As if the checks of what is given had a gap.
    monkeypatch.setattr("vgssl_core.geomap.builder.check_descriptors", lambda *_: None)
    with pytest.raises(MapError, match=r"descriptor \d is not of unit length"):
        build_map(path, unit_rows(5) * np.array([[1], [1], [2], [1], [1]], np.float32), "model", positions(5))
    assert content(path) == before
    only_the_map_is_left(path)


def test_a_map_gets_no_more_segments_than_a_reader_takes(path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vgssl_core.geomap.manifest.MAX_SEGMENTS", 3)
    for seed in (1, 2):
        add_images(path, unit_rows(2, seed=seed), "model", positions(2, PRAGUE, seed))
    with pytest.raises(MapError, match=r"4 segments, and 3 is the limit: .*vgssl map compact"):
        add_images(path, unit_rows(2, seed=3), "model", positions(2, PRAGUE, 3))
    assert len(load_map(path)) == COUNT + 4
    only_the_map_is_left(path)
