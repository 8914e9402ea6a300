"""Bags: what is written is read, positions are interpolated rightly, damage is an error and never a crash."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer
from tiny import DATUM, picture

from vgssl_core.bags import BagReader, BagWriter, Geotagging, geotag, ground_truth_topic
from vgssl_core.bags.reader import typestore
from vgssl_core.errors import DataError, VgsslError

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000_123_456_789
IMAGES = "/camera/compressed"


def jpeg(seed: int) -> bytes:
    return cv2.imencode(".jpg", picture(seed))[1].tobytes()


def write_track(
    path: Path,
    east_m: list[float],
    north_m: list[float] | None = None,
    frame_offset_ns: int = 0,
    step_ns: int = SECOND_NS,
    sigma_m: float = 0.01,
) -> Path:
    """A fix each step, and an image at an offset from each."""
    with BagWriter(path) as bag:
        for number, east in enumerate(east_m):
            position = [east, north_m[number] if north_m else 0.0, 0.0]
            stamp = START_NS + number * step_ns
            latitude, longitude, altitude = map(float, DATUM.to_wgs84(position))
            bag.fix("/fix", stamp, "gps", latitude, longitude, altitude, (sigma_m,) * 3)
            bag.compressed_image(IMAGES, stamp + frame_offset_ns, "camera", jpeg(number))
    return path


def test_every_record_comes_back_as_it_was_written(tmp_path: Path):
    image = picture(3)
    with BagWriter(tmp_path / "bag") as bag:
        bag.compressed_image(IMAGES, START_NS, "camera", jpeg(3), log_ns=START_NS + 5)
        bag.image("/camera/raw", START_NS + 1, "camera", image)
        bag.camera_info("/camera/camera_info", START_NS, "camera", 64, 48, np.diag([50.0, 50.0, 1.0]))
        bag.fix("/fix", START_NS + 2, "gps", 50.0, 14.0, math.nan, (1.0, 2.0, 3.0), status=2)
        bag.odometry("/odom", START_NS + 3, "odom", "base_link", [1.0, 2.0, 3.0], 2.5, (1.0, 0.1), np.eye(6))
    with BagReader(tmp_path / "bag") as bag:
        (frame,), (raw,) = bag.frames(IMAGES), bag.frames("/camera/raw")
        (fix,), (pose,) = bag.fixes(), bag.odometry()
        assert bag.counts == dict.fromkeys(bag.topics, 1)
    assert (frame.stamp_ns, frame.log_ns, frame.frame_id) == (START_NS, START_NS + 5, "camera")
    assert frame.image().shape == (48, 64, 3) and frame.image((32, 24)).shape == (24, 32, 3)
    assert (raw.image() == image).all() and raw.stamp_ns == START_NS + 1
    assert (fix.latitude_deg, fix.longitude_deg, fix.status) == (50.0, 14.0, 2) and math.isnan(fix.altitude_m)
    assert fix.sigma_m == pytest.approx(math.sqrt(2.5)) and fix.is_valid
    assert pose.yaw_rad == pytest.approx(2.5) and pose.position_m.tolist() == [1.0, 2.0, 3.0]
    assert (pose.frame_id, pose.child_frame_id) == ("odom", "base_link")
    assert pose.covariance.reshape(6, 6).tolist() == np.eye(6).tolist()


@given(stamps=st.lists(st.integers(0, 2**31 * SECOND_NS - 1), min_size=1, max_size=5, unique=True))
def test_stamps_are_exact_to_the_nanosecond(stamps: list[int], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("stamps") / "bag"
    with BagWriter(path) as bag:
        for stamp in stamps:
            bag.compressed_image(IMAGES, stamp, "camera", b"x")
    with BagReader(path) as bag:
        assert bag.image_stamps_ns().tolist() == sorted(stamps)
        assert [message.stamp_ns for message in bag.messages()] == sorted(stamps)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("shape", ["folder", "file", "folder without metadata"])
def test_both_storages_are_read_as_folder_and_as_bare_file(tmp_path: Path, storage: StoragePlugin, shape: str):
    kind = "sensor_msgs/msg/NavSatFix"
    store = typestore()
    header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](7, 8), "gps")
    status = store.types["sensor_msgs/msg/NavSatStatus"](0, 1)
    message = store.types[kind](header, status, 1.0, 2.0, 3.0, np.zeros(9), 0)
    with Writer(tmp_path / "bag", version=8, storage_plugin=storage) as writer:
        connection = writer.add_connection("/fix", kind, typestore=store)
        writer.write(connection, 7, store.serialize_cdr(message, kind))
    path = tmp_path / "bag"
    stored = next(item for item in path.iterdir() if item.suffix in (".mcap", ".db3"))
    if shape == "folder without metadata":
        (path / "metadata.yaml").unlink()
    with BagReader(stored if shape == "file" else path) as bag:
        (fix,) = bag.fixes()
    assert fix.stamp_ns == 7 * SECOND_NS + 8
    assert math.isnan(fix.sigma_m)


def test_a_bag_is_there_whole_or_not_at_all(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / "bag") as bag:
        bag.fix("/fix", 0, "gps", 0.0, 0.0, 0.0)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    write_track(tmp_path / "bag", [0.0])
    with pytest.raises(VgsslError, match="exists already"), BagWriter(tmp_path / "bag"):
        pass
    with BagReader(tmp_path / "bag") as bag:
        assert len(list(bag.frames())) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "There is no bag at"),
        (lambda path: path.mkdir(), "is not a bag: it has no metadata.yaml"),
        (lambda path: path.write_text("hello"), "is not a bag"),
    ],
)
def test_what_is_no_bag_is_named(tmp_path: Path, make, message: str):
    make(tmp_path / "thing")
    with pytest.raises(DataError, match=message):
        BagReader(tmp_path / "thing")


def test_a_ros_1_bag_gets_the_command_that_converts_it(tmp_path: Path):
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(DataError, match="rosbags-convert"):
        BagReader(tmp_path / "old.bag")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_bag_is_an_error(tmp_path: Path, share: float):
    path = write_track(tmp_path / "bag", [0.0, 5.0, 10.0]) / "bag.mcap"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match="damaged, truncated"), BagReader(tmp_path / "bag") as bag:
        list(bag.frames())


@given(position=st.integers(0, 10**9), value=st.integers(0, 255))
def test_a_damaged_bag_is_read_or_refused_but_never_crashes(
    position: int, value: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("damage")
    path = write_track(folder / "bag", [0.0, 5.0]) / "bag.mcap"
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    try:
        with BagReader(path) as bag:
            for frame in bag.frames():
                frame.image()
            list(bag.fixes())
    except DataError as problem:
        assert "\n" not in str(problem)


def test_topics_that_are_missing_or_not_unique_are_listed(tmp_path: Path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.compressed_image("/left/compressed", 1, "left", b"x")
        bag.compressed_image("/right/compressed", 1, "right", b"x")
        bag.fix("/fix", 1, "gps", 1.0, 1.0, 1.0)
    with BagReader(tmp_path / "bag") as bag:
        with pytest.raises(DataError, match=r"several topics of images.*: /left/compressed, /right/compressed"):
            list(bag.frames())
        with pytest.raises(DataError, match="has no image topic /fix"):
            bag.image_topic("/fix")
        with pytest.raises(DataError, match="has no topic /nothing"):
            list(bag.messages(["/nothing"]))
        with pytest.raises(DataError, match="holds no odometry"):
            bag.odometry_topic()


def test_ground_truth_is_preferred_to_other_positions(tmp_path: Path):
    with BagWriter(tmp_path / "bag") as bag:
        for topic in ("/gps/fix", "/ground_truth/fix"):
            bag.fix(topic, 1, "gps", 1.0, 1.0, 1.0)
        bag.odometry("/odom", 1, "odom", "base_link", [0, 0, 0], 0.0)
    with BagReader(tmp_path / "bag") as bag:
        assert ground_truth_topic(bag, georeferenced=True) == "/ground_truth/fix"
        assert ground_truth_topic(bag, georeferenced=False) == "/odom"
        with pytest.raises(DataError, match="several topics"):
            bag.fix_topic()


@given(offset_ns=st.integers(0, SECOND_NS - 1))
def test_positions_are_interpolated_in_time(offset_ns: int, tmp_path_factory: pytest.TempPathFactory):
    path = write_track(tmp_path_factory.mktemp("track") / "bag", [0.0, 8.0, 16.0, 24.0], frame_offset_ns=offset_ns)
    tagged = geotag(path)
    # The last image lies behind the last fix, unless it has its stamp.
    assert len(tagged) == (4 if offset_ns == 0 else 3)
    enu = DATUM.to_enu(tagged.latitude_deg, tagged.longitude_deg, tagged.altitude_m)
    expected = 8.0 * (np.arange(len(tagged)) + offset_ns / SECOND_NS)
    assert np.abs(enu[:, 0] - expected).max() < 1e-3
    assert np.abs(enu[:, 1:]).max() < 1e-3
    assert np.abs((tagged.heading_deg - 90 + 180) % 360 - 180).max() < 0.1


def test_images_in_a_gap_of_the_positions_are_left_out_and_counted(tmp_path: Path):
    with BagWriter(tmp_path / "bag") as bag:
        for second in (0, 1, 2, 9, 10):
            bag.fix("/fix", START_NS + second * SECOND_NS, "gps", 50.0, 14.0 + second * 1e-4, 0.0)
        for half in range(-1, 22):
            bag.compressed_image(IMAGES, START_NS + half * SECOND_NS // 2, "camera", jpeg(0))
    tagged = geotag(tmp_path / "bag", Geotagging(max_gap_s=3.0))
    seconds = (tagged.stamp_ns - START_NS) / SECOND_NS
    assert seconds.tolist() == [0, 0.5, 1, 1.5, 2, 9, 9.5, 10]
    assert tagged.frames_total == 23 and tagged.without_position == 15
    assert [item.stamp_ns for item in tagged] == tagged.stamp_ns.tolist()


def test_positions_without_fix_or_nan_are_dropped_and_counted(tmp_path: Path):
    with BagWriter(tmp_path / "bag") as bag:
        for number, (latitude, status) in enumerate([(50.0, 0), (math.nan, 0), (50.0, -1), (95.0, 0), (50.0, 0)]):
            stamp = START_NS + number * SECOND_NS // 4
            bag.fix("/fix", stamp, "gps", latitude, 14.0, math.nan, status=status)
            bag.compressed_image(IMAGES, stamp, "camera", jpeg(0))
    tagged = geotag(tmp_path / "bag")
    assert tagged.positions_dropped == 3
    assert len(tagged) == 5
    assert np.abs(tagged.latitude_deg - 50.0).max() < 1e-9
    assert np.isnan(tagged.altitude_m).all()
    # It never moved, so nothing tells where it looks.
    assert np.isnan(tagged.heading_deg).all()


def test_no_usable_position_is_an_error(tmp_path: Path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.fix("/fix", START_NS, "gps", math.nan, math.nan, math.nan)
        bag.compressed_image(IMAGES, START_NS, "camera", jpeg(0))
    with pytest.raises(DataError, match="no usable position on /fix"):
        geotag(tmp_path / "bag")
    with BagWriter(tmp_path / "images only") as bag:
        bag.compressed_image(IMAGES, START_NS, "camera", jpeg(0))
    with pytest.raises(DataError, match="holds no positions"):
        geotag(tmp_path / "images only")
    with BagWriter(tmp_path / "other clock") as bag:
        bag.fix("/fix", 5, "gps", 50.0, 14.0, 0.0)
        bag.compressed_image(IMAGES, START_NS, "camera", jpeg(0))
    with pytest.raises(DataError, match="Check the clocks"):
        geotag(tmp_path / "other clock")


def test_spacing_thins_by_the_way_driven(tmp_path: Path):
    path = write_track(tmp_path / "bag", [0, 1, 2, 3, 4, 5, 5, 5, 5, 6, 7])
    assert (geotag(path, Geotagging(spacing_m=2.9)).planar_m[:, 0]).round(3).tolist() == [0, 3, 6]
    assert len(geotag(path)) == 11


def test_heading_follows_the_travel_and_survives_a_stop(tmp_path: Path):
    east = [0, 5, 10, 15, 15, 15, 15, 15, 15, 15]
    north = [0, 0, 0, 0, 0, 0, 0, 5, 10, 15]
    tagged = geotag(write_track(tmp_path / "bag", east, north))
    assert np.isfinite(tagged.heading_deg).all()
    assert tagged.heading_deg[0] == pytest.approx(90, abs=0.5)
    assert tagged.heading_deg[-1] % 360 == pytest.approx(0, abs=0.5) or tagged.heading_deg[-1] > 359.5
    assert ((tagged.heading_deg < 90.5) | (tagged.heading_deg > 359.5)).all()


@given(yaw=st.floats(-math.pi, math.pi))
def test_odometry_gives_local_positions_and_its_own_heading(yaw: float, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("odometry") / "bag"
    with BagWriter(path) as bag:
        for number in range(3):
            stamp = START_NS + number * SECOND_NS
            bag.odometry("/odom", stamp, "odom", "base_link", [number * 2.0, 1.0, 0.5], yaw)
            bag.compressed_image(IMAGES, stamp + SECOND_NS // 2, "camera", jpeg(number))
    tagged = geotag(path)
    assert not tagged.is_georeferenced and np.isnan(tagged.latitude_deg).all()
    assert tagged.planar_m.tolist() == [[1.0, 1.0, 0.5], [3.0, 1.0, 0.5]]
    expected = (90 - math.degrees(yaw)) % 360
    assert np.abs((tagged.heading_deg - expected + 180) % 360 - 180).max() < 1e-6


def test_a_real_bag_gives_the_heading_of_its_poses(shared_data: Path):
    path = shared_data / "bags" / "kitti00_query"
    by_motion = geotag(path, Geotagging(odometry_topic="none"))
    by_pose = geotag(path, Geotagging(position_topic="/ground_truth/odom"))
    difference = np.abs((by_motion.heading_deg - by_pose.heading_deg + 180) % 360 - 180)
    assert len(by_motion) == 398
    assert np.median(difference) < 2.0 and difference.max() < 15.0


@pytest.mark.parametrize("name", ["husky_gps_imu_odom", "philly_gps"])
def test_a_real_bag_without_images_says_so_and_lists_what_it_has(shared_data: Path, name: str):
    with pytest.raises(DataError, match=r"holds no images.*NavSatFix"):
        geotag(shared_data / "bags" / name)


def test_a_real_bag_without_camera_still_gives_fixes_and_odometry(shared_data: Path, tmp_path: Path):
    with BagReader(shared_data / "bags" / "husky_gps_imu_odom") as bag:
        assert sum(fix.is_valid for fix in bag.fixes()) == 989
        assert sum(pose.is_valid for pose in bag.odometry()) == 3952
    shutil.copy(shared_data / "bags" / "philly_gps" / "philly_gps.mcap", tmp_path)
    with BagReader(tmp_path / "philly_gps.mcap") as bag:
        assert len(list(bag.fixes())) == 151
