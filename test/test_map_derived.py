"""New maps out of others: merged, sliced, thinned."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_support import PRAGUE, Images, content, expected, make_images, only_the_map_is_left, quick_disk  # noqa: F401

from vgssl_core import geodesy
from vgssl_core.errors import ConfigError, DataError, MapError
from vgssl_core.geomap import MapPositions, add_images, build_map, load_map, merge_maps, slice_map, thin_map, verify_map
from vgssl_core.geomap.area import Box, Circle
from vgssl_core.geomap.manifest import read_manifest
from vgssl_core.geomap.segment import read_rows
from vgssl_core.geomap.thin import ThinConfig, choose

BRNO = geodesy.LocalFrame(49.2, 16.6, 250.0)


def build(path: Path, images: Images, precision: str = "fp32", model: str = "model-a", **named: Any) -> Path:
    build_map(path, images.descriptors, model, images.positions, precision, **named)
    return path


# --- merge


def test_merging_takes_the_first_frame_and_both_maps_images(tmp_path: Path) -> None:
    here, there = make_images(20), make_images(15, 1, BRNO)
    first, second = build(tmp_path / "a", here, source="Prague"), build(tmp_path / "b", there, source="Brno")
    merged = merge_maps(first, second, tmp_path / "c")
    geomap = verify_map(tmp_path / "c")
    assert merged.manifest == geomap.manifest
    assert (merged.duplicates, geomap.datum) == (0, read_manifest(first).datum)
    assert content(tmp_path / "c") == expected(here, geomap.datum) | expected(there, geomap.datum)
    # 180 km away, the images are still where they were on Earth.
    latitude, longitude, _ = geomap.to_wgs84(geomap.positions_m)
    rows = read_rows(tmp_path / "c", geomap.manifest).positions
    assert geodesy.horizontal_distance_m(latitude, longitude, rows.latitude_deg, rows.longitude_deg).max() < 1.0
    assert geomap.manifest.source == "Prague; Brno"
    only_the_map_is_left(tmp_path / "c")


def test_images_that_both_maps_have_are_taken_once_and_counted(tmp_path: Path) -> None:
    images = make_images(20)
    first = build(tmp_path / "a", images.only(np.arange(12)))
    second = build(tmp_path / "b", images.only(np.arange(8, 20)))
    merged = merge_maps(first, second, tmp_path / "c")
    assert (merged.duplicates, merged.manifest.count) == (4, 20)
    assert content(tmp_path / "c") == expected(images, merged.manifest.datum)
    # The same file at another time is another image.
    later = replace(images.positions, stamp_ns=images.positions.stamp_ns + 1)
    third = build(tmp_path / "d", Images(images.descriptors, later))
    assert merge_maps(first, third, tmp_path / "e").duplicates == 0
    assert merge_maps(first, first, tmp_path / "f").manifest.count == 12


def test_local_maps_are_merged_only_when_they_are_said_to_share_a_plane(tmp_path: Path) -> None:
    here, there = make_images(5, datum=None), make_images(5, 1, datum=None)
    first, second = build(tmp_path / "a", here), build(tmp_path / "b", there)
    with pytest.raises(MapError, match="--same_plane"):
        merge_maps(first, second, tmp_path / "c")
    merge_maps(first, second, tmp_path / "c", same_plane=True)
    assert content(tmp_path / "c") == expected(here, None) | expected(there, None)


@pytest.mark.parametrize(
    ("images", "model", "same_plane", "words"),
    [
        (make_images(5, 1), "model-b", False, r"model-a.*model-b"),
        (make_images(5, 1, dimension=8), "model-a", False, r"16-dimensional.*8-dimensional"),
        (make_images(5, 1, datum=None), "model-a", False, r"b is local and map .*a is geo-referenced"),
        (make_images(5, 1), "model-a", True, "leave out --same_plane"),
    ],
)
def test_maps_that_do_not_fit_are_not_merged(
    images: Images, model: str, same_plane: bool, words: str, tmp_path: Path
) -> None:
    first, second = build(tmp_path / "a", make_images(5)), build(tmp_path / "b", images, model=model)
    with pytest.raises(MapError, match=words):
        merge_maps(first, second, tmp_path / "c", same_plane)
    assert not (tmp_path / "c").exists()


def test_the_coarser_precision_of_two_maps_is_taken_and_said(tmp_path: Path, caplog) -> None:
    here, there = make_images(5), make_images(5, 1)
    first, second = build(tmp_path / "a", here), build(tmp_path / "b", there, "fp16")
    with caplog.at_level(logging.WARNING):
        manifest = merge_maps(first, second, tmp_path / "c").manifest
    assert manifest.precision == "fp16"
    assert "fp16" in caplog.text
    frame = manifest.datum
    assert content(tmp_path / "c") == expected(here, frame, "fp16") | expected(there, frame, "fp16")
    verify_map(tmp_path / "c")


# --- slice


def test_a_slice_holds_the_images_of_its_area_as_they_were(tmp_path: Path) -> None:
    images = make_images(80)
    whole = build(tmp_path / "m", images, "fp16", tile_m=500.0)
    frame = read_manifest(whole).datum
    assert frame is not None
    wanted = expected(images, frame, "fp16")
    centre = frame.to_wgs84([300.0, -200.0, 0.0])
    for number, area in enumerate(
        [
            Circle(300.0, -200.0, 400.0),
            Circle.around(frame, float(centre[0]), float(centre[1]), 400.0),
            Box((-100.0, -600.0), (700.0, 200.0)),
        ]
    ):
        out = tmp_path / str(number)
        manifest = slice_map(whole, out, area)
        poses = images.positions.poses(frame)
        inside = area.contains(np.stack([poses["x"], poses["y"]], axis=1))
        sources = {source for source, within in zip(images.positions.source, inside, strict=True) if within}
        assert content(out) == {source: wanted[source] for source in sources}
        assert 3 < manifest.count == len(sources) < 80
        assert (manifest.datum, manifest.precision, manifest.tile_m) == (frame, "fp16", 500.0)
        verify_map(out)
        only_the_map_is_left(out)


def test_a_slice_does_not_open_what_lies_elsewhere(tmp_path: Path) -> None:
    whole = build(tmp_path / "m", make_images(80), tile_m=500.0)
    area = Box((100.0, 100.0), (400.0, 400.0))
    for segment in read_manifest(whole).segments:
        if not area.meets(segment.low_m, segment.high_m):
            (whole / "segments" / segment.name / "descriptors.npy").unlink()
    slice_map(whole, tmp_path / "s", area)
    with pytest.raises(MapError):
        load_map(whole)


def test_an_area_without_images_is_refused(tmp_path: Path) -> None:
    whole = build(tmp_path / "m", make_images(10))
    for area in (Circle(1e6, 0.0, 10.0), Circle(0.0, 0.0, 1e-6)):
        with pytest.raises(MapError, match="no image in"):
            slice_map(whole, tmp_path / "s", area)
    assert not (tmp_path / "s").exists()


def test_what_is_no_area_is_refused() -> None:
    for make in (
        lambda: Circle(np.nan, 0, 1),
        lambda: Circle(0, 0, 0),
        lambda: Circle(0, 0, np.inf),
        lambda: Box((1, 0), (0, 1)),
        lambda: Box((0, 0), (np.inf, 1)),
        lambda: Circle.around(None, 50, 14, 5),
        lambda: Circle.around(PRAGUE, 91, 14, 5),
    ):
        with pytest.raises(DataError):
            make()


def test_areas_and_boxes_meet_where_they_have_a_common_point() -> None:
    circle, box = Circle(0, 0, 5), Box((0, 0), (1, 1))
    assert circle.meets((3, 4), (9, 9))
    assert not circle.meets((3.1, 4), (9, 9))
    assert circle.meets((-9, -9), (9, 9))
    assert box.meets((1, 1), (2, 2))
    assert not box.meets((1.1, 0), (2, 2))


@pytest.mark.parametrize("name", ["merge", "slice", "thin"])
def test_a_map_that_is_there_is_never_replaced(name: str, tmp_path: Path) -> None:
    whole, other = build(tmp_path / "a", make_images(10)), build(tmp_path / "b", make_images(10, 1))
    before = content(other)
    for out in (other, whole):
        with pytest.raises(MapError, match="already"):
            {
                "merge": lambda out=out: merge_maps(whole, other, out),
                "slice": lambda out=out: slice_map(whole, out, Circle(0, 0, 1e4)),
                "thin": lambda out=out: thin_map(whole, out, ThinConfig(1.0, 0.9)),
            }[name]()
    assert content(other) == before


def test_the_new_map_finds_the_bundle_and_drops_the_calibration(tmp_path: Path, caplog) -> None:
    (tmp_path / "bundle").mkdir()
    whole = build(tmp_path / "maps" / "a", make_images(10), bundle_path=tmp_path / "bundle")
    replace(read_manifest(whole), calibration={"a": 1}).write(whole)
    with caplog.at_level(logging.WARNING):
        manifest = slice_map(whole, tmp_path / "s", Circle(0, 0, 1e4))
    assert manifest.bundle == {"path": str(tmp_path / "bundle"), "relative": "../bundle"}
    assert manifest.calibration is None
    assert "calibrate again" in caplog.text
    (tmp_path / "bundle").rmdir()
    assert slice_map(whole, tmp_path / "t", Circle(0, 0, 1e4)).bundle == {"path": str(tmp_path / "bundle")}


# --- thin


def street(turns: list[float], headings: list[float], steps: list[float]) -> Images:
    """Images along a line: descriptors at these angles of a circle, headings in degrees, positions in metres."""
    count = len(turns)
    angles = np.radians(turns)
    unknown = np.full(count, np.nan)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    planar = np.stack([np.array(steps, float), np.zeros(count)], axis=1)
    names = tuple(f"{number:03d}" for number in range(count))
    heading = np.array(headings, float)
    return Images(rows, MapPositions(unknown, unknown, unknown, heading, np.arange(count), names, planar))


@pytest.mark.parametrize(
    ("images", "kept"),
    [
        # Alike and near: every image within 2.5 m of a kept one goes.
        (street([0] * 6, [0] * 6, [0, 1, 2, 3, 4, 9]), "000 003 005"),
        # As near, but not alike: 30 degrees are a cosine of 0.87.
        (street([0, 30, 0, 30], [0] * 4, [0, 1, 2, 2.2]), "000 001"),
        (street([0, 40, 80], [0] * 3, [0, 1, 2]), "000 001 002"),
        # Looking another way, also across north; an unknown heading leaves it to the descriptors.
        (street([0] * 4, [0, 45, 359, 90], [0, 1, 1.5, 2]), "000 001 003"),
        (street([0] * 3, [np.nan, 45, 180], [0, 1, 2]), "000"),
    ],
)
def test_an_image_stays_unless_a_kept_one_is_near_looks_the_same_way_and_looks_alike(
    images: Images, kept: str, tmp_path: Path
) -> None:
    whole = build(tmp_path / "m", images)
    thinned = thin_map(whole, tmp_path / "t", ThinConfig(2.5, 0.9, 30.0))
    geomap = verify_map(tmp_path / "t")
    assert " ".join(geomap.sources) == kept
    assert (thinned.left_out, thinned.manifest.count) == (len(images.positions) - len(geomap), len(geomap))


def test_thinning_leaves_out_what_the_rule_says_on_many_images_and_in_small_parts(tmp_path: Path, monkeypatch) -> None:
    images = make_images(300, extent_m=60.0, dimension=2)
    whole = build(tmp_path / "m", images.only(np.arange(200)))
    add_images(whole, images.descriptors[200:], "model-a", images.positions.subset(np.arange(200, 300)))
    rows = read_rows(whole, read_manifest(whole))
    config = ThinConfig(10.0, 0.8, 60.0)
    kept = choose(rows, config)
    monkeypatch.setattr("vgssl_core.geomap.thin._NEIGHBOURS_AT_ONCE", 40)
    monkeypatch.setattr("vgssl_core.geomap.thin._IMAGES_AT_ONCE", 64)
    np.testing.assert_array_equal(choose(rows, config), kept)
    descriptors, yaw = np.asarray(rows.descriptors), rows.poses["yaw"].astype(float)
    near = np.hypot(*(rows.poses[axis][:, None] - rows.poses[axis] for axis in "xy")) <= 10.0
    turned = np.abs(np.angle(np.exp(1j * (yaw[:, None] - yaw)))) > np.radians(60.0)
    redundant = near & ~turned & (descriptors @ descriptors.T >= 0.8)
    assert 30 < kept.sum() < 270
    # Of two kept ones neither makes the other redundant; each one left out is made so by a kept one.
    assert not (redundant[np.ix_(kept, kept)] & ~np.eye(kept.sum(), dtype=bool)).any()
    assert redundant[np.ix_(~kept, kept)].any(axis=1).all()


def test_the_self_consistency_tells_what_was_lost(tmp_path: Path) -> None:
    # Four views in pairs 1 m apart, and the pairs 1 km apart; the second pair looks like the first but for 5 degrees.
    whole = build(tmp_path / "m", street([0, 0, 5, 5], [0] * 4, [0, 1, 1000, 1001]))
    thinned = thin_map(whole, tmp_path / "t", ThinConfig(2.0, 0.9))
    assert (thinned.left_out, thinned.asked, thinned.found_before, thinned.found_after) == (2, 2, 1.0, 1.0)
    # The image left out at 1 m looks most like the one at 1000 m once its own neighbour is turned away.
    whole = build(tmp_path / "n", street([0, 10, 10, 10], [0] * 4, [0, 1, 1000, 1001]))
    thinned = thin_map(whole, tmp_path / "u", ThinConfig(2.0, 0.9))
    assert (thinned.left_out, thinned.asked, thinned.found_after) == (2, 2, 0.5)
    # Nothing redundant: nothing to ask.
    thinned = thin_map(whole, tmp_path / "v", ThinConfig(0.5, 0.9))
    assert (thinned.left_out, thinned.asked) == (0, 0)
    assert np.isnan(thinned.found_after)


@pytest.mark.parametrize("values", [(-1, 0.9), (np.nan, 0.9), (1, 1.1), (1, np.nan), (1, 0.9, -1), (1, 0.9, 181)])
def test_settings_that_mean_nothing_are_refused(values: tuple) -> None:
    with pytest.raises(ConfigError, match="give"):
        ThinConfig(*values)


def test_a_radius_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="radius_m"):
        thin_map(build(tmp_path / "m", make_images(5)), tmp_path / "t", ThinConfig(1, 0.9), radius_m=0)
