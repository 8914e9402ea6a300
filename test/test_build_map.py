"""The programs build-map and map, as a user runs them."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import DATUM, make_place_set, picture

import training.build_map
import training.map
from vgssl_core import geodesy
from vgssl_core.bags import BagWriter
from vgssl_core.geomap import load_map, verify_map
from vgssl_core.places import read_place_set

CAMERA, FIX, ODOMETRY = "/camera/image_raw/compressed", "/gps/fix", "/odom"


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR))[1].tobytes()


def make_bag(path: Path, images: list[bytes], fixes: bool = True, odometry: bool = False, known: bool = True) -> Path:
    """Images once a second, the vehicle going 5 m/s east from the datum."""
    with BagWriter(path) as bag:
        for second in range(len(images) if images else 4):
            stamp = (second + 1) * 10**9
            if images:
                bag.compressed_image(CAMERA, stamp, "camera", images[second])
            latitude, longitude, altitude = (float(v) for v in DATUM.to_wgs84([5.0 * second, 0.0, 0.0]))
            if fixes:
                bag.fix(FIX, stamp, "gps", latitude if known else float("nan"), longitude, altitude)
            if odometry:
                bag.odometry(ODOMETRY, stamp, "odom", "base_link", [5.0 * second, 0.0, 0.0], 0.0)
    return path


def build(*arguments: object) -> int:
    return training.build_map.main([str(argument) for argument in arguments])


def test_a_map_from_a_place_set_is_built_and_described(
    tiny_bundle: Path, tiny_places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("--bundle", tiny_bundle, "--data", tiny_places, "--out", tmp_path / "map") == 0
    printed = capsys.readouterr().out
    for words in ("6, typically 30.0 m apart", "150 m east-west x 0 m", "50.0000000, 14.401", "on disk", "built in"):
        assert words in printed
    geomap = verify_map(tmp_path / "map")
    assert (len(geomap), geomap.manifest.precision) == (6, "fp32")
    assert training.map.main(["info", str(tmp_path / "map")]) == 0
    assert training.map.main(["verify", str(tmp_path / "map")]) == 0
    assert "verified" in capsys.readouterr().out


def test_the_split_is_chosen_and_is_test_by_default(tiny_bundle: Path, tmp_path: Path) -> None:
    make_place_set(tmp_path / "set", count=3, split="train")
    make_place_set(tmp_path / "set", count=4, split="test")
    common = ("--bundle", tiny_bundle, "--data", tmp_path / "set", "--precision", "fp16")
    assert build(*common, "--out", tmp_path / "a") == 0
    assert build(*common, "--out", tmp_path / "b", "--split", "train") == 0
    assert (len(load_map(tmp_path / "a")), len(load_map(tmp_path / "b"))) == (4, 3)
    assert build(*common, "--out", tmp_path / "c", "--split", "val") == 1


@pytest.mark.parametrize(("spacing", "count"), [(0, 8), (4.9, 8), (9.9, 4), (1000, 1)])
def test_a_map_from_a_bag_is_thinned_to_the_spacing(
    spacing: float, count: int, tiny_bundle: Path, tmp_path: Path
) -> None:
    bag = make_bag(tmp_path / "bag", [jpeg(number) for number in range(8)])
    assert build("--bundle", tiny_bundle, "--bag", bag, "--out", tmp_path / "map", "--spacing-m", spacing) == 0
    geomap = load_map(tmp_path / "map")
    assert len(geomap) == count
    assert geomap.datum is not None
    assert min(geomap.sources) == f"{bag}#{CAMERA}@1000000000"
    if count == 8:
        latitude, longitude, altitude = geomap.to_wgs84(geomap.positions_m)
        east = DATUM.to_enu(latitude, longitude, altitude)[:, 0]
        np.testing.assert_allclose(east[np.argsort(geomap.sources)], np.arange(8) * 5, atol=0.01)
        np.testing.assert_allclose(geodesy.yaw_to_compass_deg(geomap.yaw_rad), 90, atol=0.1)


def test_a_map_from_odometry_is_local(tiny_bundle: Path, tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag", [jpeg(number) for number in range(5)], fixes=False, odometry=True)
    assert build("--bundle", tiny_bundle, "--bag", bag, "--out", tmp_path / "map") == 0
    geomap = load_map(tmp_path / "map")
    assert geomap.datum is None
    np.testing.assert_allclose(
        geomap.positions_m[np.argsort(geomap.sources)], [[5.0 * number, 0, 0] for number in range(5)], atol=1e-6
    )
    np.testing.assert_allclose(geomap.yaw_rad, 0, atol=1e-6)


def test_the_position_topic_decides_between_fixes_and_odometry(tiny_bundle: Path, tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag", [jpeg(number) for number in range(3)], odometry=True)
    common = ("--bundle", tiny_bundle, "--bag", bag, "--image-topic", CAMERA)
    assert build(*common, "--out", tmp_path / "a") == 0
    assert build(*common, "--out", tmp_path / "b", "--position-topic", ODOMETRY) == 0
    assert load_map(tmp_path / "a").datum is not None
    assert load_map(tmp_path / "b").datum is None


def test_fixes_and_odometry_make_one_map_of_camera_poses(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for second in range(40):
            stamp = (second + 1) * 10**9
            bag.compressed_image(CAMERA, stamp, "camera", jpeg(second))
            position = [0.0, 2.0 * second, 0.0]
            bag.odometry(ODOMETRY, stamp, "odom", "base_link", [7.0 - 2.0 * second, 3.0, 0.0], np.pi)
            # A receiver that is right every five seconds, without a fix at other times, and once far off.
            latitude, longitude, altitude = (float(value) for value in DATUM.to_wgs84(position))
            far = 0.01 if second == 7 else 0.0
            status, sigma = (2, 0.1) if second % 5 == 0 else (2, 900.0) if second == 7 else (-1, 0.1)
            bag.fix(FIX, stamp, "gps", latitude + far, longitude, altitude, (sigma,) * 3, status)
    common = ("--bundle", tiny_bundle, "--bag", tmp_path / "bag", "--out", tmp_path / "map")
    mounted = ("--camera_extrinsics", 1.0, -0.5, 1.5, 0, 0, np.pi / 2)
    with caplog.at_level(logging.INFO):
        assert build(*common, *mounted, "--gnss-status", "gbas", "--max-sigma-m", 5, "--spacing-m", 3.9) == 0
    geomap = load_map(tmp_path / "map")
    poses = np.argsort(geomap.positions_m[:, 1])
    enu = DATUM.to_enu(*geomap.to_wgs84(geomap.positions_m[poses]))
    # It drives north; the camera sits a metre ahead and half a metre to the right, and looks to the left.
    np.testing.assert_allclose(enu, [[0.5, 4.0 * number + 1.0, 1.5] for number in range(18)], atol=0.02)
    assert np.abs((geodesy.yaw_to_compass_deg(geomap.yaw_rad) - 270 + 180) % 360 - 180).max() < 0.5
    account = [
        "18 of 40 images, 4 without a position in time, 18 nearer than 3.9 m to the one before",
        "positions of /gps/fix: 40 messages, of which 31 without a fix, 1 with a standard deviation above 5 m",
        "way between them and heading from /odom",
        "camera at 1 -0.5 1.5 0 0 1.5708 (x y z roll pitch yaw)",
    ]
    told = "; ".join(account)
    assert geomap.manifest.source.endswith(told) and told in capsys.readouterr().out and told in caplog.text


def test_images_that_do_not_decode_are_refused_or_left_out_where_asked(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    places = make_place_set(tmp_path / "set", count=5)
    images = sorted((places / "images" / "database").iterdir())
    images[1].write_bytes(images[1].read_bytes()[:300])
    images[3].write_bytes(b"")
    assert build("--bundle", tiny_bundle, "--data", places, "--out", tmp_path / "map") == 1
    assert "2 of 5 images do not decode" in capsys.readouterr().err
    assert not (tmp_path / "map").exists()
    assert build("--bundle", tiny_bundle, "--data", places, "--out", tmp_path / "map", "--skip-damaged") == 0
    assert "left out    2 of 5 images" in capsys.readouterr().out
    assert images[1].name in caplog.text
    assert "2 of 5 images do not decode" in caplog.text
    geomap = load_map(tmp_path / "map")
    assert sorted(geomap.sources) == sorted(str(images[number]) for number in (0, 2, 4))
    bag = make_bag(tmp_path / "bag", [jpeg(0), b"rubbish", jpeg(2)])
    assert build("--bundle", tiny_bundle, "--bag", bag, "--out", tmp_path / "map2", "--skip-damaged") == 0
    assert len(load_map(tmp_path / "map2")) == 2


def test_what_cannot_become_a_map_is_one_clear_line_and_leaves_nothing(
    tiny_bundle: Path, tiny_places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map"
    broken = make_place_set(tmp_path / "broken", count=2)
    for image in (broken / "images" / "database").iterdir():
        image.write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_position" / "images" / "database").mkdir(parents=True)
    (tmp_path / "no_position" / "images" / "database" / "@nan@5@.jpg").write_bytes(jpeg(0))
    truncated = Path(shutil.copytree(tiny_bundle, tmp_path / "truncated"))
    (truncated / "model.onnx").write_bytes((truncated / "model.onnx").read_bytes()[:100])
    images = [jpeg(number) for number in range(3)]
    bags = {
        "no images": make_bag(tmp_path / "bag1", []),
        "no positions": make_bag(tmp_path / "bag2", images, fixes=False),
        "NaN": make_bag(tmp_path / "bag3", images, known=False),
        "3 of 3 images do not decode": make_bag(tmp_path / "bag4", [b"rubbish"] * 3),
    }
    cases: list[tuple[str, list[object]]] = [
        ("2 of 2 images do not decode", ["--bundle", tiny_bundle, "--data", broken]),
        ("not a place set", ["--bundle", tiny_bundle, "--data", tmp_path / "empty"]),
        ("Give the image a position", ["--bundle", tiny_bundle, "--data", tmp_path / "no_position"]),
        ("is not a folder", ["--bundle", tiny_bundle, "--data", tmp_path / "missing"]),
        ("no model bundle", ["--bundle", tmp_path / "missing", "--data", tiny_places]),
        ("truncated", ["--bundle", truncated, "--data", tiny_places]),
        ("Cannot read the table", ["--bundle", tiny_bundle, "--csv", tmp_path / "missing.csv"]),
        ("holds no photograph", ["--bundle", tiny_bundle, "--photos", tmp_path / "empty"]),
        ("no backend", ["--bundle", tiny_bundle, "--data", tiny_places, "--backend", "abacus"]),
        *((words, ["--bundle", tiny_bundle, "--bag", bag]) for words, bag in bags.items()),
    ]
    for words, arguments in cases:
        assert build(*arguments, "--out", out) == 1, words
        problem = capsys.readouterr().err
        line = [text for text in problem.splitlines() if text.startswith("error: ")]
        assert len(line) == 1, problem
        assert words in line[0]
        assert "Traceback" not in problem
        assert not out.exists()
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("Give either --data (a place set), --bag", []),
        ("one of them, not 2", ["--data", "a", "--bag", "b"]),
        ("one of them, not 4", ["--data", "a", "--bag", "b", "--csv", "c", "--photos", "d"]),
        ("--spacing_m is for --bag: leave it out with --data", ["--data", "a", "--spacing-m", 3]),
        ("--max_gap_s is for --bag", ["--csv", "a", "--max-gap-s", 1]),
        ("--image_topic is for --bag", ["--photos", "a", "--image-topic", CAMERA]),
        ("--position_topic is for --bag", ["--data", "a", "--position-topic", FIX]),
        ("--gnss_status is for --bag", ["--csv", "a", "--gnss-status", "sbas"]),
        ("--camera_extrinsics is for --bag", ["--data", "a", "--camera-extrinsics", 1, 0, 0, 0, 0, 0]),
        ("--max_sigma_m is -1.0", ["--bag", "a", "--max-sigma-m", -1]),
        ("--max_bridge_s is -1.0", ["--bag", "a", "--max-bridge-s", -1]),
        ("--split is for --data: leave it out with --bag", ["--bag", "a", "--split", "test"]),
        ("--skip_untagged is for --photos", ["--csv", "a", "--skip-untagged"]),
        ("--batch_size is 0: it must be at least 1", ["--data", "a", "--batch-size", 0]),
        ("--shard_images is 0", ["--data", "a", "--shard-images", 0]),
        ("--spacing_m is -1.0", ["--bag", "a", "--spacing-m", -1]),
        ("--tile_m is 0.0: it must be more than 0", ["--data", "a", "--tile-m", 0]),
        ("--memory_mb is -1.0", ["--data", "a", "--memory-mb", -1]),
    ],
)
def test_options_that_no_build_has_are_refused_before_anything_is_read(
    words: str, arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("--bundle", tmp_path / "none", "--out", tmp_path / "map", *arguments) == 1
    assert words in capsys.readouterr().err


def test_a_map_from_a_table_is_the_map_of_its_place_set(tiny_bundle: Path, tiny_places: Path, tmp_path: Path) -> None:
    places = read_place_set(tiny_places).database
    lines = ["Image Path;Lat;Lon;Alt;Heading;Captured At"]
    for index, path in enumerate(places.paths):
        numbers = (places.latitude_deg, places.longitude_deg, places.altitude_m, places.heading_deg)
        lines.append(";".join([os.path.relpath(path, tmp_path), *(repr(float(n[index])) for n in numbers), str(index)]))
    (tmp_path / "t.csv").write_text("\n".join(lines))
    common = ("--bundle", tiny_bundle)
    assert build(*common, "--csv", tmp_path / "t.csv", "--out", tmp_path / "a") == 0
    assert build(*common, "--data", tiny_places, "--out", tmp_path / "b") == 0
    first, second = verify_map(tmp_path / "a"), verify_map(tmp_path / "b")
    assert first.poses.tobytes() == second.poses.tobytes()
    assert first.sources == second.sources
    np.testing.assert_array_equal(first.descriptors(slice(None)), second.descriptors(slice(None)))
    assert first.manifest.source == f"table {tmp_path / 't.csv'}"
    (tmp_path / "t.csv").write_text("\n".join([*lines, "gone.png;50;14;;;"]))
    assert build(*common, "--csv", tmp_path / "t.csv", "--out", tmp_path / "c") == 1
    assert build(*common, "--csv", tmp_path / "t.csv", "--out", tmp_path / "c", "--skip-damaged") == 0
    assert len(load_map(tmp_path / "c")) == 6


def test_a_map_from_real_photographs(shared_data: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    photos = shared_data / "lund_exif" / "original_exif"
    assert build("--bundle", tiny_bundle, "--photos", photos, "--out", tmp_path / "map") == 0
    geomap = verify_map(tmp_path / "map")
    assert len(geomap) == 29
    assert geomap.datum is not None
    assert (geomap.datum.latitude_deg, geomap.datum.longitude_deg) == pytest.approx((55.699, 13.195), abs=2e-3)
    # The photographs lie in an area of 172 m x 56 m.
    assert np.ptp(geomap.positions_m[:, :2], axis=0) == pytest.approx([56, 172], abs=5)


def test_a_foreign_folder_is_refused_before_the_work(
    tiny_bundle: Path, tiny_places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert build("--bundle", tiny_bundle, "--data", tiny_places, "--out", tmp_path) == 1
    assert "thesis.txt" in capsys.readouterr().err
    assert build("--bundle", tiny_bundle, "--data", tiny_places, "--out", tiny_bundle) == 1


@pytest.mark.parametrize("action", ["info", "verify"])
def test_a_damaged_map_is_one_clear_line(
    action: str, tiny_bundle: Path, tiny_places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("--bundle", tiny_bundle, "--data", tiny_places, "--out", tmp_path / "map") == 0
    path = next((tmp_path / "map" / "segments").glob("*/descriptors.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert training.map.main([action, str(tmp_path / "map")]) == 1
    assert "truncated" in capsys.readouterr().err
    assert training.map.main([action, str(tiny_bundle)]) == 1
    assert "model bundle" in capsys.readouterr().err


def test_a_real_drive_becomes_a_map(shared_data: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bag = shared_data / "bags" / "kitti00_map"
    assert build("--bundle", tiny_bundle, "--bag", bag, "--out", tmp_path / "map", "--spacing-m", 5) == 0
    geomap = verify_map(tmp_path / "map")
    assert 150 < len(geomap) < 260
    assert geomap.spacing_m >= 4
    assert geomap.datum is not None
    assert abs(geomap.datum.latitude_deg - 48.98) < 0.01
    assert build("--bundle", tiny_bundle, "--bag", shared_data / "bags" / "philly_gps", "--out", tmp_path / "no") == 1
    assert not (tmp_path / "no").exists()


def test_a_place_that_cannot_be_written_is_one_clear_line(
    tiny_bundle: Path, tiny_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("--bundle", tiny_bundle, "--data", tiny_places, "--out", "/proc/nowhere/map") == 1
    problem = capsys.readouterr().err
    assert "error: " in problem
    assert "/proc/nowhere" in problem
    assert "Traceback" not in problem
