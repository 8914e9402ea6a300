"""Place sets: file names, the reader, radius search."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_place_set

from vgssl_core import geodesy
from vgssl_core.errors import DataError
from vgssl_core.places import UNKNOWN_STAMP_NS, read_place_set, splits, within_radius
from vgssl_core.places.names import PlaceName, parse_place_name

UNKNOWN = math.nan


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


# --- names


@given(
    east=st.floats(-1e7, 1e7),
    north=st.floats(-1e7, 1e7),
    zone=st.none() | st.integers(1, 60),
    letter=st.sampled_from(geodesy.UTM_LETTERS),
    latitude=st.just(UNKNOWN) | st.floats(-90, 90),
    longitude=st.just(UNKNOWN) | st.floats(-180, 180),
    heading=st.just(UNKNOWN) | st.floats(0, 360),
    altitude=st.just(UNKNOWN) | st.floats(-400, 9000),
    stamp=st.just(UNKNOWN_STAMP_NS) | st.integers(10**15, 2**63 - 1),
    texts=st.tuples(*[st.text("abcXYZ019 .-_äé", max_size=12).map(str.strip)] * 2),
)
def test_a_name_is_read_as_it_was_written(
    east: float, north: float, zone: int | None, letter: str, latitude: float, longitude: float, heading: float,
    altitude: float, stamp: int, texts: tuple[str, str],
) -> None:  # fmt: skip
    place = PlaceName(east, north, zone, letter, latitude, longitude, heading, altitude, stamp, *texts)
    name = place.format(".png")
    assert name.startswith("@")
    assert name.endswith("@.png")
    back = parse_place_name(name)
    assert abs(back.east_m - east) <= 0.005 + 1e-9
    assert abs(back.north_m - north) <= 0.005 + 1e-9
    assert (back.zone, back.letter, back.stamp_ns) == (zone, letter, stamp)
    assert (back.pano, back.note) == texts
    for given_value, value, step in (
        (latitude, back.latitude_deg, 1e-7),
        (longitude, back.longitude_deg, 1e-7),
        (heading, back.heading_deg, 0.01),
        (altitude, back.altitude_m, 0.01),
    ):
        assert same(given_value, value) or abs(given_value - value) <= step
    assert back.format(".png") == name


def test_the_fields_of_real_sets_are_understood() -> None:
    kitti = parse_place_name(
        "@0455368.75@5425586.00@32@U@048.98157@0008.39003@001664@@266@@@120.1@20111003_125826@cross@.jpg"
    )
    assert (kitti.east_m, kitti.zone, kitti.letter, kitti.heading_deg) == (455368.75, 32, "U", 266.0)
    assert (kitti.altitude_m, kitti.pano, kitti.note) == (120.1, "001664", "cross")
    assert kitti.stamp_ns == 1317646706 * 10**9
    nordland = parse_place_name("@0000000.00@0052920.00@@@@@22050@@@@@@@winter@.jpg")
    assert (nordland.zone, nordland.letter, nordland.north_m) == (None, "", 52920.0)
    assert math.isnan(nordland.latitude_deg)
    short = parse_place_name("@1.5@-2.5@.jpg")
    assert (short.east_m, short.north_m, short.stamp_ns) == (1.5, -2.5, UNKNOWN_STAMP_NS)


@pytest.mark.parametrize("time", ["", "201110", "20111399_250000", "yesterday", "9" * 19, "1317646706"])
def test_a_time_that_is_none_is_unknown(time: str) -> None:
    assert parse_place_name(f"@1@2@@@@@@@@@@@{time}@@.jpg").stamp_ns == UNKNOWN_STAMP_NS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("photo.jpg", "not an @-name"),
        ("a@1@2@.jpg", "not an @-name"),
        ("@1@.jpg", "not an @-name"),
        ("@@2@.jpg", "UTM east"),
        ("@1@@32@U@.jpg", "UTM north"),
        ("@nan@2@.jpg", "Give the image a position"),
        ("@1@inf@.jpg", "Give the image a position"),
        ("@1@2@@@nan@@.jpg", "latitude is nan"),
        ("@1@two@.jpg", "not a number"),
        ("@1@2@x@.jpg", "UTM zone"),
        ("@1@2@²@.jpg", "UTM zone"),
        ("@1@2@61@N@.jpg", "UTM zone"),
        ("@1@2@0@N@.jpg", "UTM zone"),
        ("@1@2@-5@N@.jpg", "UTM zone"),
        ("@1@2@32@I@.jpg", "UTM band"),
        ("@1@2@32@UU@.jpg", "UTM band"),
        ("@1@2@32@U@@@@@north@@@@@.jpg", "heading"),
    ],
)
def test_a_bad_name_is_refused_and_named(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        parse_place_name(name)
    assert name in str(caught.value)


@given(st.text("@0123456789.-+eE_nainf ²٣\n\x00U", max_size=60))
def test_any_name_is_a_finite_position_or_our_error(text: str) -> None:
    try:
        place = parse_place_name("@" + text + "@.jpg")
    except DataError:
        return
    assert math.isfinite(place.east_m)
    assert math.isfinite(place.north_m)


@pytest.mark.parametrize("text", ["a@b", "a/b", "../x", "a\nb", "a\x00b"])
def test_text_that_would_break_a_name_is_not_written(text: str) -> None:
    with pytest.raises(DataError, match="cannot be part"):
        PlaceName(1, 2, note=text).format()
    with pytest.raises(DataError, match="cannot be part"):
        PlaceName(1, 2, pano=text).format()


# --- reader


def test_a_set_is_read_with_positions_on_earth(tmp_path: Path) -> None:
    place_set = read_place_set(make_place_set(tmp_path / "town", count=5, queries=2))
    assert place_set.name == "town"
    assert (len(place_set.database), len(place_set.queries)) == (5, 2)
    assert place_set.database.is_georeferenced
    assert [path.name for path in place_set.database.paths] == sorted(path.name for path in place_set.database.paths)
    steps = geodesy.horizontal_distance_m(
        place_set.database.latitude_deg[1:], place_set.database.longitude_deg[1:],
        place_set.database.latitude_deg[:-1], place_set.database.longitude_deg[:-1],
    )  # fmt: skip
    np.testing.assert_allclose(steps, 30, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(np.diff(place_set.database.planar_m, axis=0), axis=1), 30, atol=0.05)
    np.testing.assert_array_equal(place_set.database.heading_deg, 90)


def test_splits_are_read_one_at_a_time_and_must_be_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_place_set(tmp_path, count=3 if split == "train" else 4, split=split)
    assert splits(tmp_path) == ("train", "test")
    assert len(read_place_set(tmp_path, "train").database) == 3
    assert len(read_place_set(tmp_path, "test").database) == 4
    assert len(read_place_set(tmp_path / "images", "test").database) == 4
    for split in (None, "val", "../train"):
        with pytest.raises(DataError, match="train, test"):
            read_place_set(tmp_path, split)


def test_a_set_without_splits_is_read_whole_whatever_is_asked(tiny_places: Path) -> None:
    assert splits(tiny_places) == ()
    for split in (None, "train", "test"):
        assert len(read_place_set(tiny_places, split).database) == 6


def test_a_set_without_queries_has_none(tmp_path: Path) -> None:
    make_place_set(tmp_path, queries=2)
    shutil.rmtree(tmp_path / "images" / "queries")
    assert len(read_place_set(tmp_path).queries) == 0


def test_a_local_set_has_no_latitude(tmp_path: Path) -> None:
    place_set = read_place_set(make_place_set(tmp_path, local=True))
    assert not place_set.database.is_georeferenced
    assert np.isnan(place_set.database.latitude_deg).all()
    np.testing.assert_array_equal(place_set.database.planar_m[:, 0], np.arange(6) * 30)


def test_latitude_and_longitude_alone_are_a_position_on_earth(tmp_path: Path) -> None:
    put(
        tmp_path / "images" / "database",
        *(PlaceName(number, 0, None, "", 50 + number, 14).format() for number in range(3)),
    )
    database = read_place_set(tmp_path).database
    assert database.is_georeferenced
    np.testing.assert_array_equal(database.latitude_deg, [50, 51, 52])


@pytest.mark.parametrize(("latitude", "longitude"), [(50.0, 12.0), (0.0, 12.0), (0.0, 9.0), (60.0, 180.0)])
def test_images_on_both_sides_of_a_zone_border_or_the_equator_lie_in_one_plane(
    latitude: float, longitude: float, tmp_path: Path
) -> None:
    frame = geodesy.LocalFrame(latitude, longitude)
    offsets = [(-60.0, -60.0), (-60.0, 60.0), (60.0, -60.0), (60.0, 60.0), (70.0, 60.0)]
    for east, north in offsets:
        lat, lon, _ = (float(value) for value in frame.to_wgs84([east, north, 0.0]))
        zone, letter = geodesy.utm_zone(lat, lon)
        utm = geodesy.wgs84_to_utm(lat, lon, zone, letter)
        put(tmp_path / "images" / "database", PlaceName(float(utm[0]), float(utm[1]), zone, letter).format())
    database = read_place_set(tmp_path).database
    placed = frame.to_enu(database.latitude_deg, database.longitude_deg)[:, :2]
    assert sorted((round(float(e)), round(float(n))) for e, n in placed) == sorted((int(e), int(n)) for e, n in offsets)
    distances = np.linalg.norm(database.planar_m[:, None] - database.planar_m[None], axis=-1)
    np.testing.assert_allclose(distances, np.linalg.norm(placed[:, None] - placed[None], axis=-1), rtol=2e-3, atol=0.05)


def test_only_image_files_are_images(tmp_path: Path) -> None:
    database = make_place_set(tmp_path, count=2) / "images" / "database"
    put(database, ".@9@9@.jpg", "notes.txt", "@9@9@.JSON", "Thumbs.db")
    (database / "@9@9@.jpg").mkdir()
    (database / "@8@8@.jpg").symlink_to(tmp_path / "nowhere")
    assert len(read_place_set(tmp_path).database) == 2
    put(database, "@0457000.00@5538803.18@33@U@.JPG")
    assert len(read_place_set(tmp_path).database) == 3


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no image"),
        (["@1@2@32@U@.jpg", "@1@2@.jpg"], "1 of 2 file names carry a UTM zone"),
        (["@1@2@32@U@.jpg", "@1e300@2@32@U@.jpg"], "no position on Earth"),
        (["@1@2@@@50@14@.jpg", "@1@2@@@@@.jpg"], "no position on Earth"),
        (["@1@2@@@50@14@.jpg", "photo.jpg"], "not an @-name"),
    ],
)
def test_sets_without_usable_positions_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    put(tmp_path / "images" / "database", *names)
    with pytest.raises(DataError, match=words):
        read_place_set(tmp_path)


def test_what_is_no_place_set_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_place_set(tmp_path / "missing")
    with pytest.raises(DataError, match="is not a place set"):
        read_place_set(tmp_path)


def test_the_real_sets_are_read(shared_data: Path) -> None:
    kitti = read_place_set(shared_data / "kitti00_loop")
    assert (len(kitti.database), len(kitti.queries)) == (651, 225)
    assert kitti.database.is_georeferenced
    local = read_place_set(shared_data / "nordland64" / "val")
    assert (len(local.database), len(local.queries)) == (233, 233)
    assert not local.database.is_georeferenced


# --- subset and radius


def test_a_subset_keeps_the_columns_together(tiny_places: Path) -> None:
    database = read_place_set(tiny_places).database
    chosen = database.subset([4, 1])
    assert chosen.paths == (database.paths[4], database.paths[1])
    np.testing.assert_array_equal(chosen.planar_m, database.planar_m[[4, 1]])
    np.testing.assert_array_equal(chosen.stamp_ns, database.stamp_ns[[4, 1]])
    assert len(database.subset([])) == 0
    assert not database.subset([]).is_georeferenced


@given(
    queries=st.integers(0, 12), count=st.integers(0, 30), radius=st.floats(0.01, 60), columns=st.sampled_from([2, 3]),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_radius_search_equals_all_distances(queries: int, count: int, radius: float, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-50, 50, (queries, columns)), rng.uniform(-50, 50, (count, columns))
    matrix = within_radius(a, b, radius)
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    assert matrix.shape == (queries, count)
    np.testing.assert_array_equal(matrix.toarray(), distances <= radius)
    assert matrix.has_sorted_indices


def test_the_radius_is_inclusive_and_equal_points_are_neighbours() -> None:
    points = np.array([[0.0, 0], [25, 0], [25.000001, 0], [0, 0]])
    assert within_radius(points[:1], points, 25.0).indices.tolist() == [0, 1, 3]


def test_a_latitude_that_contradicts_utm_is_named_and_utm_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images" / "database"
    folder.mkdir(parents=True)
    for latitude in ("48.98157", "51.00000"):
        name = f"@455393.47@5425585.62@32@U@{latitude}@8.39037@@@@@@@@{latitude}@.jpg"
        (folder / name).touch()
    places = read_place_set(tmp_path).database
    assert abs(places.latitude_deg - 48.98157).max() < 1e-4
    assert "1 of 2 file names" in caplog.text and "51.00000" in caplog.text


def test_splits_are_found_with_and_without_the_images_folder(tmp_path: Path) -> None:
    assert splits(tmp_path) == ()
    for part in ("val", "test"):
        (tmp_path / "images" / part / "database").mkdir(parents=True)
    assert splits(tmp_path) == splits(tmp_path / "images") == ("val", "test")
