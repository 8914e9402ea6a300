"""The town: determinism, geometry, separation of the splits, the drive's sensors, and what a kill leaves."""

from __future__ import annotations

import dataclasses
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgssl_core import geodesy, storage
from vgssl_core.bags import BagReader
from vgssl_core.errors import ConfigError, VgsslError
from vgssl_core.imaging import read_image
from vgssl_core.places import read_place_set
from vgssl_core.places.names import parse_place_name
from vgssl_core.town import drive as town_drive
from vgssl_core.town.camera import Camera, Pose
from vgssl_core.town.conditions import CONDITIONS
from vgssl_core.town.config import TownConfig
from vgssl_core.town.ground import draw_top_view
from vgssl_core.town.layout import plan_districts
from vgssl_core.town.neighbourhood import furnish
from vgssl_core.town.photographs import plan_town
from vgssl_core.town.render import Canvas, Quads, Texture, draw, draw_ground
from vgssl_core.town.scene import Scene, TextureStore, ground_square
from vgssl_core.town.writer import render_town

TINY = TownConfig(
    train_size=2, val_size=2, test_size=2, block_m=60.0, spacing_m=14.0, drive_s=12.0, drive_hz=2.0, width=64, height=48
)
CAMERA = Camera.of_view(128, 96, 76.0)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town that renders in seconds."""
    return render_town(tmp_path_factory.mktemp("town") / "tiny", 7, TINY)


def _wall(distance_m: float, color: tuple[int, int, int], half_m: float = 1.0) -> Quads:
    """A square wall that looks west, `distance_m` east of the origin, centred at height 2."""
    texture = Texture.of(np.full((16, 16, 3), color, np.uint8), 8.0)
    corner = np.array([[distance_m, half_m, 2 + half_m]])
    right, down = np.array([[0, -2 * half_m, 0]]), np.array([[0, 0, -2 * half_m]])
    return Quads(corner, right, down, [texture], np.ones(1))


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(town: Path, tmp_path: Path) -> None:
    again = render_town(tmp_path / "again", 7, dataclasses.replace(TINY, workers=1))
    files = sorted(path.relative_to(town) for path in town.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert storage.sha256(town / file) == storage.sha256(again / file), file


def test_another_seed_plans_another_town() -> None:
    first, second = (plan_town(seed, TINY).tasks[0].shots[0].pose for seed in (1, 2))
    assert abs(first.x_m - second.x_m) + abs(first.y_m - second.y_m) > 0.1


@given(
    east=st.floats(3, 60),
    north=st.floats(-20, 20),
    up=st.floats(0, 20),
    yaw=st.floats(-3, 3),
    pitch=st.floats(-0.2, 0.2),
)
def test_a_point_projects_where_the_camera_matrix_says(
    east: float, north: float, up: float, yaw: float, pitch: float
) -> None:
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    pose = Pose(10.0, -4.0, 1.6, yaw)
    point = np.append(turn @ (east, north) + (10.0, -4.0), up)
    pixels, depth = CAMERA.project(pose, point[None])
    expected = CAMERA.matrix @ (-north, 1.6 - up, east)
    assert depth[0] == pytest.approx(east)
    assert pixels[0] == pytest.approx(expected[:2] / expected[2], abs=1e-6)
    rotation = dataclasses.replace(pose, pitch_rad=pitch).rotation
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_a_drawn_wall_fills_exactly_its_projection_and_knows_its_depth() -> None:
    camera, pose = CAMERA.scaled(2), Pose(0.0, 0.0, 1.6, 0.05, 0.02)
    canvas = Canvas.blank(camera)
    draw(canvas, camera, pose, _wall(8.0, (200, 10, 10)))
    rows, columns = np.nonzero(canvas.image[..., 0])
    corners = np.array([[8, 1, 3], [8, -1, 3], [8, -1, 1], [8, 1, 1]], float)
    pixels, depths = camera.project(pose, corners)
    assert (columns.min(), rows.min()) == pytest.approx(pixels.min(axis=0), abs=1.5)
    assert (columns.max(), rows.max()) == pytest.approx(pixels.max(axis=0), abs=1.5)
    inside = 1 / canvas.inverse_depth[rows, columns]
    assert depths.min() - 0.05 < inside.min() and inside.max() < depths.max() + 0.05


def test_a_nearer_wall_hides_a_farther_one_in_either_order() -> None:
    pose, near, far = Pose(0.0, 0.0, 2.0, 0.0), _wall(6.0, (200, 0, 0)), _wall(9.0, (0, 200, 0), 3.0)
    pictures = []
    for quads in (near + far, far + near):
        canvas = Canvas.blank(CAMERA)
        draw(canvas, CAMERA, pose, quads)
        pictures.append(canvas.image)
    assert (pictures[0] == pictures[1]).all()
    column, row = np.round(CAMERA.project(pose, np.array([[6.0, 0, 2.0]]))[0][0]).astype(int)
    assert pictures[0][row, column].tolist() == [200, 0, 0]
    assert (pictures[0][..., 1] == 200).any()


def test_a_wall_seen_from_behind_is_not_drawn_and_one_beside_the_camera_is_clipped() -> None:
    canvas = Canvas.blank(CAMERA)
    draw(canvas, CAMERA, Pose(9.0, 0.0, 2.0, math.pi), _wall(6.0, (200, 0, 0)))
    assert not canvas.image.any()
    texture = Texture.of(np.full((16, 16, 3), 90, np.uint8), 8.0)
    beside = Quads(np.array([[-20.0, 3, 6]]), np.array([[60.0, 0, 0]]), np.array([[0, 0, -6.0]]), [texture], np.ones(1))
    draw(canvas, CAMERA, Pose(0.0, 0.0, 1.6, 0.0), beside)
    assert canvas.image[:, 0].any() and not canvas.image[:, 70:].any()


def test_the_ground_lies_where_the_camera_projects_it() -> None:
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[195:205, 260:270] = 255
    pose, canvas = Pose(0.0, 0.0, 1.6, 0.0), Canvas.blank(CAMERA)
    # 10 pixels per metre, north up, north-west corner at (-20, 20): the white square is at 6 to 7 m east, 0 m north.
    draw_ground(canvas, CAMERA, pose, np.array([-20.0, 20.0]), 40.0, Texture.of(picture, 10.0))
    rows, columns = np.nonzero(canvas.image[..., 0] > 128)
    expected = CAMERA.project(pose, np.array([[6.5, 0.0, 0.0]]))[0][0]
    assert (columns.mean(), rows.mean()) == pytest.approx(expected, abs=1.0)


@given(seed=st.integers(0, 2**31))
def test_no_image_of_one_split_is_near_one_of_another(seed: int) -> None:
    plan = plan_town(seed, TINY)
    places = {
        split: np.array([s.pose.position_m for task in plan.tasks if task.split == split for s in task.shots])
        for split in ("train", "val", "test")
    }
    for one, other in (("train", "val"), ("val", "test"), ("train", "test")):
        assert np.linalg.norm(places[one][:, None] - places[other][None], axis=-1).min() > 100


@given(seed=st.integers(0, 2**31))
def test_positives_of_a_query_look_the_same_way(seed: int) -> None:
    shots = [shot for task in plan_town(seed, TINY).tasks if task.split == "train" for shot in task.shots]
    database = [shot.pose for shot in shots if shot.part == "database"]
    queries = [shot.pose for shot in shots if shot.part == "queries"]
    for query in queries:
        for pose in database:
            if math.hypot(query.x_m - pose.x_m, query.y_m - pose.y_m) <= 10:
                assert math.cos(query.yaw_rad - pose.yaw_rad) > 0.7


def test_the_layout_is_read_and_its_positions_agree(town: Path) -> None:
    settings = storage.read_yaml(town / "town.yaml", VgsslError, "a town's description")
    datum = settings["datum"]
    frame = geodesy.LocalFrame(datum["latitude_deg"], datum["longitude_deg"], datum["altitude_m"])
    for split in ("train", "val", "test"):
        places = read_place_set(town, split)
        for part, name in ((places.database, "database"), (places.queries, "queries")):
            assert len(part) == settings["counts"][f"{split}/{name}"] > 0
            assert part.is_georeferenced
            written = [parse_place_name(path.name) for path in part.paths]
            away = geodesy.horizontal_distance_m(
                part.latitude_deg,
                part.longitude_deg,
                [name.latitude_deg for name in written],
                [name.longitude_deg for name in written],
            )
            assert away.max() < 0.05
            assert np.abs(frame.to_enu(part.latitude_deg, part.longitude_deg)[:, :2]).max() < 2000
            assert np.isfinite(part.heading_deg).all() and len(set(part.stamp_ns)) == len(part)
            assert read_image(part.paths[0]).shape == (TINY.height, TINY.width, 3)
        assert {parse_place_name(path.name).note for path in places.database.paths} == {"day"}


def test_a_heading_is_the_compass_direction_in_which_the_drive_moves(town: Path) -> None:
    with BagReader(town / "drive") as bag:
        poses = list(bag.odometry("/ground_truth/odom"))
    position, yaw = np.array([pose.position_m for pose in poses]), np.array([pose.yaw_rad for pose in poses])
    moved = np.diff(position[:, :2], axis=0)
    course = np.arctan2(moved[:, 1], moved[:, 0])
    assert np.median(np.abs((course - yaw[:-1] + np.pi) % (2 * np.pi) - np.pi)) < 0.05


def test_the_bag_holds_what_it_promises(town: Path) -> None:
    settings = storage.read_yaml(town / "town.yaml", VgsslError, "a town's description")
    datum, count = settings["datum"], settings["drive"]["frames"]
    with BagReader(town / "drive") as bag:
        assert set(bag.topics) == {
            "/camera/image_raw/compressed",
            "/camera/camera_info",
            "/gps/fix",
            "/odom",
            "/ground_truth/odom",
            "/ground_truth/fix",
        }
        frames = list(bag.frames(None))
        truth, exact = list(bag.odometry("/ground_truth/odom")), list(bag.fixes("/ground_truth/fix"))
        noisy = list(bag.fixes("/gps/fix"))
    stamps = [frame.stamp_ns for frame in frames]
    assert len(stamps) == count and stamps == sorted(set(stamps))
    assert stamps == [pose.stamp_ns for pose in truth] == [fix.stamp_ns for fix in noisy]
    assert np.diff(stamps) == pytest.approx(1e9 / TINY.drive_hz)
    assert frames[0].image().shape == (TINY.height, TINY.width, 3)
    assert {pose.frame_id for pose in truth} == {"map"}
    frame = geodesy.LocalFrame(datum["latitude_deg"], datum["longitude_deg"], datum["altitude_m"])
    positions = np.array([pose.position_m for pose in truth])
    for fixes, limit in ((exact, 1e-4), (noisy, 15.0)):
        enu = frame.to_enu(*([getattr(f, k) for f in fixes] for k in ("latitude_deg", "longitude_deg", "altitude_m")))
        error = np.linalg.norm(enu - positions, axis=1)
        assert error.max() < limit
    assert error.mean() > 0.3
    assert settings["drive"]["condition"] != "day"


def test_the_map_lacks_one_street_of_the_drive() -> None:
    for seed in range(1, 6):
        plan = plan_town(seed, TownConfig())
        assert plan.drive is not None and len(plan.drive.time_s) > 400
        assert 0.04 < (plan.drive.street == plan.unmapped_street).mean() < 0.25
        mapped = [t.street for t in plan.tasks if t.split == "test" and t.shots[0].part == "database"]
        assert plan.unmapped_street not in mapped
        assert set(plan.drive.street) - {plan.unmapped_street} <= set(mapped)


def test_the_vehicle_keeps_to_its_limits() -> None:
    plan = plan_town(3, TownConfig(drive_hz=20.0))
    assert plan.drive is not None
    speed, times = plan.drive.speed_m_s, plan.drive.time_s
    assert speed.max() <= town_drive.CRUISE_M_S + 1e-9
    assert np.abs(np.gradient(speed, times)).max() < 1.5 * town_drive.LENGTHWAYS_M_S2
    assert np.abs(np.gradient(plan.drive.yaw_rad, times) * speed).max() < 2 * town_drive.LATERAL_M_S2
    assert np.linalg.norm(np.diff(plan.drive.position_m, axis=0), axis=1).max() < 0.5


def test_gnss_noise_has_the_documented_size_and_memory() -> None:
    times = np.arange(0, 4000, 0.5)
    errors = np.concatenate([town_drive.gnss_error_m(seed, times) for seed in range(4)])
    expected = math.hypot(town_drive.GNSS_WANDER_M, town_drive.GNSS_WHITE_M)
    assert errors[:, :2].std() == pytest.approx(expected, rel=0.15)
    assert errors[:, 2].std() == pytest.approx(2 * expected, rel=0.2)
    assert np.corrcoef(errors[:-1, 0], errors[1:, 0])[0, 1] > 0.8


def test_odometry_drifts_within_the_documented_model() -> None:
    ends = []
    for seed in range(1, 9):
        exact = plan_town(seed, dataclasses.replace(TownConfig(), train_size=2, val_size=2)).drive
        assert exact is not None
        position, yaw = town_drive.drifting_odometry(seed, exact)
        angle = exact.yaw_rad[0]
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        true = (exact.position_m - exact.position_m[0]) @ turn.T
        error = np.linalg.norm(position - true, axis=1)
        driven = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(exact.position_m, axis=0), axis=1))])
        turned = town_drive.ODOMETRY_TURN_RAD_S * exact.time_s
        turned = turned + 4 * town_drive.ODOMETRY_WALK_RAD_SQRT_S * np.sqrt(exact.time_s)
        assert (np.abs(yaw - (exact.yaw_rad - angle)) <= turned + 1e-9).all()
        assert (error <= driven * (town_drive.ODOMETRY_SCALE + turned) + 0.2).all()
        ends.append((error[len(error) // 8], error[-1]))
    early, late = np.mean(ends, axis=0)
    assert late > 2 * early and late > 1.0


def test_conditions_change_the_picture_but_not_the_geometry() -> None:
    district = plan_districts(5, TINY)["test"]
    neighbourhood, street = furnish(5, district), district.inner_streets[0]
    top_view = draw_top_view(district.streets, *ground_square(street), 5)
    pose = Pose(*street.point(15.0), 1.6, street.yaw_rad)
    drawn = {}
    for name in ("day", "dusk", "rain"):
        scene = Scene(neighbourhood, street, top_view, [], TextureStore(CONDITIONS[name]), 0.0)
        drawn[name] = scene.draw(CAMERA, pose, [], [])
    for name in ("dusk", "rain"):
        assert (drawn[name].inverse_depth == drawn["day"].inverse_depth).all()
        assert np.abs(drawn[name].image.astype(int) - drawn["day"].image).mean() > 5


def test_an_occupied_folder_and_senseless_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(VgsslError, match="exists already"):
        render_town(tmp_path / "full", 1, TINY)
    for change in ({"train_size": 1}, {"block_m": math.nan}, {"width": 0}, {"drive_s": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            render_town(tmp_path / "out", 1, dataclasses.replace(TINY, **change))
    with pytest.raises(ConfigError, match="seed"):
        render_town(tmp_path / "out", -1, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_kill_leaves_no_town_and_no_worker(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "training.town", "--out", str(out), "--seed", "3", "--town.workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = ""
    while not re.search(r"[1-9]\d*/\d+ \[", seen):
        letter = process.stderr.read(1)
        assert letter, seen
        seen += letter
    assert any(tmp_path.iterdir())
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The workers hold the pipe open: it ends when the last of them has noticed and gone.
    process.stderr.read()
    assert not out.exists()
