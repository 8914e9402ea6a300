"""Fixes and odometry together: curves, headings and gaps between fixes; gates; cameras beside the origin."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import DATUM

from vgssl_core.bags import BagReader, BagWriter, GeotaggedFrames, Geotagging, geotag
from vgssl_core.bags.fused_track import fuse
from vgssl_core.bags.records import Fix
from vgssl_core.bags.sifting import FixGate, sift_fixes
from vgssl_core.bags.track import Track, track_of_fixes, track_of_odometry
from vgssl_core.errors import ConfigError, DataError
from vgssl_core.extrinsics import camera_poses, check_extrinsics, vehicle_poses
from vgssl_core.geodesy import compass_to_yaw_rad, yaw_to_compass_deg
from vgssl_core.localization import Hypothesis
from vgssl_ros.base_pose import CameraMount, DefaultAltitude

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000_000_000_000
IMAGES, FIXES, ODOMETRY = "/camera/compressed", "/fix", "/odom"
Motion = Callable[[float], tuple[complex, float]]


def around(seconds: float) -> tuple[complex, float]:
    """A circle of 20 m at 8 m/s: position east + i north, and yaw."""
    angle = 8.0 * seconds / 20.0
    return 20.0 * complex(math.cos(angle), math.sin(angle)), angle + math.pi / 2


def ahead(seconds: float) -> tuple[complex, float]:
    """To the east at 5 m/s."""
    return complex(5.0 * seconds), 0.0


def ahead_and_back(seconds: float) -> tuple[complex, float]:
    """To the north at 5 m/s for 10 s, 10 s of rest, then backwards."""
    way = 5.0 * min(seconds, 10.0) - 5.0 * max(seconds - 20.0, 0.0)
    return way * 1j, math.pi / 2


@dataclass(frozen=True)
class Drive:
    """What the sensors say about a motion."""

    motion: Motion = around
    seconds: float = 16.0
    fix_period_s: float = 2.0
    fix_lost: Callable[[float], bool] = lambda seconds: False
    #: From the true position to the odometry's.
    odometry: Callable[[float, complex, float], tuple[complex, float]] = lambda seconds, place, yaw: (place, yaw)
    sigma_m: float | None = 0.05
    status: Callable[[float], int] = lambda seconds: 2

    def write(self, path: Path) -> Path:
        """Fixes, odometry at 20 Hz and images at 5 Hz, with other stamps."""
        with BagWriter(path) as bag:
            for step in range(int(self.seconds * 20) + 1):
                seconds = step / 20
                stamp = START_NS + step * SECOND_NS // 20
                place, yaw = self.motion(seconds)
                there, turned = self.odometry(seconds, place, yaw)
                bag.odometry(ODOMETRY, stamp, "odom", "base_link", [there.real, there.imag, 7.0], turned)
                if step % round(20 * self.fix_period_s) == 0 and not self.fix_lost(seconds):
                    position = map(float, DATUM.to_wgs84([place.real, place.imag, 3.0]))
                    sigma = None if self.sigma_m is None else (self.sigma_m,) * 3
                    bag.fix(FIXES, stamp, "gps", *position, sigma, self.status(seconds))
                if step % 4 == 1:
                    bag.compressed_image(IMAGES, stamp + 12_345_678, "camera", b"x")
        return path

    def errors(self, frames: GeotaggedFrames) -> tuple[np.ndarray, np.ndarray]:
        """Metres and degrees."""
        truth = [self.motion((stamp - START_NS) / SECOND_NS) for stamp in frames.stamp_ns.tolist()]
        enu = DATUM.to_enu(frames.latitude_deg, frames.longitude_deg, frames.altitude_m)
        places, yaws = np.array([place for place, _ in truth]), np.array([yaw for _, yaw in truth])
        turned = np.degrees(compass_to_yaw_rad(frames.heading_deg) - yaws)
        return np.abs(enu[:, 0] + 1j * enu[:, 1] - places), np.abs((turned + 180) % 360 - 180)


def elsewhere(seconds: float, place: complex, yaw: float) -> tuple[complex, float]:
    """Another origin and direction."""
    return 1j * place + (500 - 300j), yaw + math.pi / 2


def drifting(seconds: float, place: complex, yaw: float) -> tuple[complex, float]:
    """3 % too long, and turning away by a third of a degree a second."""
    turn = math.radians(seconds / 3)
    return 1.03 * place * complex(math.cos(turn), math.sin(turn)), yaw + turn


@pytest.mark.parametrize(("odometry", "position_m", "heading_deg"), [(elsewhere, 0.01, 0.5), (drifting, 0.3, 3.0)])
def test_curves_between_fixes_are_those_of_the_odometry(
    odometry: Callable, position_m: float, heading_deg: float, tmp_path: Path
):
    drive = Drive(odometry=odometry)
    path = drive.write(tmp_path / "bag")
    together, alone = geotag(path), geotag(path, Geotagging(odometry_topic="none"))
    assert (together.odometry_topic, alone.odometry_topic) == (ODOMETRY, None)
    assert together.is_georeferenced and len(together) == len(alone) == 80
    errors_m, errors_deg = drive.errors(together)
    assert errors_m.max() < position_m and errors_deg.max() < heading_deg
    assert together.altitude_m == pytest.approx(DATUM.altitude_m + 3.0, abs=0.01)
    assert np.median(drive.errors(alone)[0]) > 1.0


@given(
    east=st.floats(-1e4, 1e4), north=st.floats(-1e4, 1e4), turn=st.floats(-math.pi, math.pi), noise=st.integers(0, 99)
)
def test_origin_and_direction_of_the_odometry_do_not_matter(east: float, north: float, turn: float, noise: int):
    stamps = START_NS + np.arange(60) * SECOND_NS // 4
    rng = np.random.default_rng(noise)
    places = np.cumsum(rng.normal(1.0, 0.3, 60) * np.exp(1j * np.cumsum(rng.normal(0, 0.2, 60))))
    yaws = np.angle(np.diff(places, prepend=0))

    def track(places: np.ndarray, yaws: np.ndarray, every: int = 1) -> Track:
        planar = np.stack([places.real, places.imag, np.zeros(len(places))], axis=1)
        return Track(stamps[::every], planar[::every], yaw_to_compass_deg(yaws)[::every], None, "/t")

    fixes = track(places + rng.normal(0, 0.2, (60, 2)) @ [1, 1j], np.full(60, np.nan), 8)
    moved = places * np.exp(1j * turn) + complex(east, north)
    here, there = (
        fuse(fixes, track(p, y), 0.2, 3.0, 30.0).at(stamps[:50] + 1, 3.0)
        for p, y in ((places, yaws), (moved, yaws + turn))
    )
    assert np.isfinite(here[0]).all()
    assert np.abs(here[0] - there[0]).max() < 1e-6
    assert np.abs((here[1] - there[1] + 180) % 360 - 180).max() < 1e-6


def test_the_heading_is_known_at_rest_and_backwards(tmp_path: Path):
    drive = Drive(ahead_and_back, seconds=30.0, fix_period_s=1.0, odometry=elsewhere)
    path = drive.write(tmp_path / "bag")
    errors_m, errors_deg = drive.errors(geotag(path))
    assert errors_m.max() < 0.05 and errors_deg.max() < 0.5
    # By the direction of travel it looks backwards in the end.
    assert np.nanmax(drive.errors(geotag(path, Geotagging(odometry_topic="none")))[1]) > 170


def test_odometry_bridges_long_gaps_between_fixes_but_not_longer_ones(tmp_path: Path):
    drive = Drive(fix_lost=lambda seconds: 3.0 < seconds < 13.0, odometry=elsewhere)
    path = drive.write(tmp_path / "bag")
    frames = geotag(path)
    assert len(frames) == 80 and drive.errors(frames)[0].max() < 0.05
    assert len(geotag(path, Geotagging(max_bridge_s=11.0))) == 20
    assert len(geotag(path, Geotagging(odometry_topic="none"))) == 20


def test_odometry_that_is_reset_leaves_its_moment_to_the_fixes(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def reset(seconds: float, place: complex, yaw: float) -> tuple[complex, float]:
        return (place, yaw) if seconds < 8.3 else (place * 1j + 900, yaw + math.pi / 2)

    drive = Drive(odometry=reset)
    frames = geotag(drive.write(tmp_path / "bag"))
    errors_m, errors_deg = drive.errors(frames)
    torn = (frames.stamp_ns > START_NS + 8 * SECOND_NS) & (frames.stamp_ns < START_NS + 10 * SECOND_NS)
    assert errors_m[~torn].max() < 0.05 and errors_m[torn].max() < 1.7 and errors_deg.max() < 5
    assert "contradicts the fixes on /fix between 1 of 8 pairs" in caplog.text


@pytest.mark.parametrize(
    "useless",
    [
        lambda seconds, place, yaw: (0j, 0.0),
        lambda seconds, place, yaw: (complex(0, 9 * seconds), 0.0),
        lambda seconds, place, yaw: (complex("nan"), 0.0),
        lambda seconds, place, yaw: (0.1 * place, yaw),
    ],
    ids=["still", "straight", "NaN", "feet"],
)
def test_odometry_that_does_not_follow_the_fixes_moves_no_position(
    useless: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = Drive(odometry=useless).write(tmp_path / "bag")
    together, alone = geotag(path), geotag(path, Geotagging(odometry_topic="none"))
    assert np.abs(together.planar_m - alone.planar_m).max() < 0.02
    assert "fixes alone" in caplog.text or "interpolated alone" in caplog.text or "straight lines" in caplog.text


def test_odometry_that_faces_another_way_than_it_moves_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    frames = geotag(Drive(odometry=lambda seconds, place, yaw: (place, yaw - math.pi / 2)).write(tmp_path / "bag"))
    assert re.search("/odom moves (89|90) degrees to the left of where its x axis points", caplog.text)
    corrected = Geotagging(camera_extrinsics=(0.0, 0.0, 0.0, 0.0, 0.0, math.pi / 2))
    assert len(frames) == 80 and Drive().errors(geotag(tmp_path / "bag", corrected))[1].max() < 0.5
    caplog.clear()
    geotag(Drive(ahead_and_back, odometry=elsewhere, seconds=30.0).write(tmp_path / "other"))
    assert "x axis" not in caplog.text


@pytest.mark.parametrize("others", [[], ["/wheels"]])
def test_of_several_odometries_none_is_taken_unless_it_is_chosen_or_the_others_are_the_truth(
    others: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(20):
            stamp = START_NS + number * SECOND_NS
            bag.fix(FIXES, stamp, "gps", *map(float, DATUM.to_wgs84([5.0 * number, 0.0, 0.0])), (0.1,) * 3)
            for topic in (ODOMETRY, "/ground_truth/odom", *others):
                bag.odometry(topic, stamp, "odom", "base_link", [5.0 * number, 0.0, 0.0], 0.0)
            bag.compressed_image(IMAGES, stamp, "camera", b"x")
    with caplog.at_level(logging.INFO):
        assert geotag(tmp_path / "bag").odometry_topic == (None if others else ODOMETRY)
    assert ("--odometry_topic: /odom, /wheels" in caplog.text) == bool(others)
    chosen = Geotagging(odometry_topic="/ground_truth/odom")
    assert geotag(tmp_path / "bag", chosen).odometry_topic == "/ground_truth/odom"
    with pytest.raises(DataError, match="has no Odometry topic /fix"):
        geotag(tmp_path / "bag", Geotagging(odometry_topic=FIXES))


def test_each_gate_leaves_out_its_fixes_and_counts_them(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    good = (2, 0.5, 0.0)
    made = {
        1: (-1, 0.5, 0.0),
        2: (0, 0.5, 0.0),
        3: (1, 0.5, 0.0),
        4: (2, 60.0, 0.0),
        5: (2, 0.5, math.nan),
        6: (2, None, 0),
    }
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(10):
            status, sigma, wrong = made.get(number, good)
            stamp = START_NS + number * SECOND_NS // 4
            latitude, longitude, altitude = map(float, DATUM.to_wgs84([number, 0.0, 0.0]))
            bag.fix(FIXES, stamp, "gps", latitude + wrong, longitude, altitude, sigma and (sigma,) * 3, status)
            bag.compressed_image(IMAGES, stamp, "camera", b"x")
    usual = geotag(tmp_path / "bag")
    dropped = {"without a fix": 1, "with a standard deviation above 25 m": 1, "NaN or off the Earth": 1}
    assert usual.positions.dropped == dropped and usual.positions_dropped == 3
    told = "10 messages, of which 1 without a fix, 1 with a standard deviation above 25 m, 1 NaN or off the Earth"
    assert f"Positions on /fix: {told}, are left out" in caplog.text
    assert usual.account() == f"10 of 10 images; positions of /fix: {told}"
    strict = geotag(tmp_path / "bag", Geotagging(gnss_status="gbas", max_sigma_m=0.4, spacing_m=3))
    assert strict.positions.dropped["with a status below gbas"] == 2
    assert strict.positions.dropped["with a standard deviation above 0.4 m"] == 5
    # Only the fix that states no standard deviation is left, and one image is taken there.
    assert strict.account().startswith("1 of 10 images, 9 without a position in time; ")
    bad = Drive(seconds=4.0, sigma_m=0.5).write(tmp_path / "bad")
    with pytest.raises(DataError, match=r"position on /fix: 3 messages, of which 3 with a standard.*--max_sigma_m"):
        geotag(bad, Geotagging(max_sigma_m=0.4))


@given(status=st.integers(0, 2), max_sigma_m=st.floats(0, 10), seed=st.integers(0, 99))
def test_what_passes_a_gate_is_as_good_as_it_asks(status: int, max_sigma_m: float, seed: int):
    rng = np.random.default_rng(seed)
    fixes = [
        Fix(int(stamp), 50.0, 14.0, 0.0, int(rng.integers(-1, 3)), np.full(9, rng.uniform(0, 80)), int(rng.integers(3)))
        for stamp in rng.integers(0, 20, 30)
    ]
    sifted = sift_fixes(fixes, FixGate(status, max_sigma_m))
    good = [fix for fix in fixes if fix.status >= status and not fix.sigma_m > max_sigma_m]
    assert sum(sifted.dropped.values()) == 30 - len(good) and sifted.recorded == 30
    assert [fix.stamp_ns for fix in sifted.good] == sorted({fix.stamp_ns for fix in good})
    assert all(fix is next(first for first in good if first.stamp_ns == fix.stamp_ns) for fix in sifted.good)


extrinsics = st.tuples(*[st.floats(-3, 3)] * 3, *[st.floats(-1.4, 1.4)] * 2, st.floats(-math.pi, math.pi))


@given(extrinsics=extrinsics, heading=st.floats(0, 359.9), known=st.booleans())
def test_what_the_map_composes_the_node_takes_apart(extrinsics: tuple, heading: float, known: bool):
    vehicle_m = np.array([[100.0, -50.0, 2.0]])
    heading_deg = np.array([heading if known else math.nan])
    camera_m, looks_deg = camera_poses(vehicle_m, heading_deg, extrinsics)
    back_m, back_deg = vehicle_poses(camera_m, looks_deg, extrinsics)
    assert back_m == pytest.approx(vehicle_m, abs=1e-9)
    assert not known or abs((back_deg[0] - heading + 180) % 360 - 180) < 1e-9
    best = Hypothesis(
        rank=0,
        position_m=camera_m[0],
        yaw_rad=float(compass_to_yaw_rad(looks_deg)[0]),
        covariance=np.eye(4),
        score=1.0,
        probability=1.0,
        support=1,
        latitude_deg=math.nan,
        longitude_deg=math.nan,
        altitude_m=math.nan,
        sigma_m=1.0,
    )
    pose = CameraMount(extrinsics).base_pose(best, None, DefaultAltitude(0.0, 10.0))
    assert pose.position_m == pytest.approx(vehicle_m[0], abs=1e-9)
    assert not known or abs(math.remainder(pose.yaw_rad - float(compass_to_yaw_rad(heading)), 2 * math.pi)) < 1e-9


def test_a_camera_on_the_left_that_looks_left_is_there(tmp_path: Path):
    drive = Drive(ahead, fix_period_s=1.0)
    mounted = (1.0, 2.0, 1.5, 0.3, 0.0, math.pi / 2)
    path = drive.write(tmp_path / "bag")
    camera, vehicle = geotag(path, Geotagging(camera_extrinsics=mounted)), geotag(path)
    assert camera.planar_m - vehicle.planar_m == pytest.approx(np.tile([1.0, 2.0, 1.5], (len(camera), 1)), abs=0.01)
    assert (camera.heading_deg + 180) % 360 == pytest.approx(180, abs=0.1)
    assert camera.account().endswith("camera at 1 2 1.5 0.3 0 1.5708 (x y z roll pitch yaw)")
    moved = DATUM.to_enu(camera.latitude_deg, camera.longitude_deg, camera.altitude_m)
    still = DATUM.to_enu(vehicle.latitude_deg, vehicle.longitude_deg, vehicle.altitude_m)
    assert moved - still == pytest.approx(np.tile([1.0, 2.0, 1.5], (len(camera), 1)), abs=0.01)


@pytest.mark.parametrize("wrong", [(0.0,) * 5, (0.0,) * 5 + (math.nan,), (math.inf,) + (0.0,) * 5])
def test_extrinsics_that_are_no_pose_are_refused(wrong: tuple):
    with pytest.raises(ConfigError, match=r"--camera_extrinsics is .*six finite numbers"):
        check_extrinsics(wrong)


def test_real_odometry_joins_real_fixes_better_than_straight_lines(shared_data: Path):
    with BagReader(shared_data / "bags" / "husky_gps_imu_odom") as bag:
        fixes = sift_fixes(list(bag.fixes()), FixGate()).good
        odometry = track_of_odometry(list(bag.odometry()), ODOMETRY)
    # A fix in forty seconds; the others are the truth, which strays by a metre itself.
    sparse, every = track_of_fixes(fixes[::100], 60.0, FIXES), track_of_fixes(fixes, 60.0, FIXES)
    together, alone = (
        track.at(every.stamp_ns, 60.0)[0][:, :2] for track in (fuse(sparse, odometry, 0.8, 1.0, 60.0), sparse)
    )
    inside = np.isfinite(alone).all(axis=1)
    errors_m = [np.linalg.norm(places - every.planar_m[:, :2], axis=1)[inside] for places in (together, alone)]
    assert np.isfinite(together[inside]).all()
    assert np.median(errors_m[0]) < 1.5 and np.median(errors_m[1]) > 3.0
    assert np.percentile(errors_m[0], 90) < 0.5 * np.percentile(errors_m[1], 90)
