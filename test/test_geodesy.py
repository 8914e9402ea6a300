"""WGS84, UTM, local ENU, distances, headings: everywhere on Earth."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgssl_core import geodesy
from vgssl_core.errors import DataError
from vgssl_core.geodesy import LocalFrame

LATITUDES = st.floats(-90, 90) | st.sampled_from([-90.0, 90.0, 0.0, 89.9999999, -1e-12])
LONGITUDES = st.floats(-180, 180) | st.sampled_from([-180.0, 180.0, 179.9999999, 0.0, 6.0, 12.0])
ALTITUDES = st.floats(-400, 9000)
NEAR = st.floats(-5000, 5000)
GEOD = pyproj.Geod(ellps="WGS84")


# --- UTM


@given(
    latitude=st.floats(-80, 84),
    longitude=LONGITUDES,
    shift=st.sampled_from([-1, 0, 1]),
)
def test_utm_goes_there_and_back_also_in_the_neighbouring_zone(latitude: float, longitude: float, shift: int) -> None:
    zone, letter = geodesy.utm_zone(latitude, longitude)
    zone = (zone - 1 + shift) % 60 + 1
    east, north = geodesy.wgs84_to_utm(latitude, longitude, zone, letter)
    back = geodesy.utm_to_wgs84(east, north, zone, letter)
    assert geodesy.horizontal_distance_m(latitude, longitude, *back) < 1e-3


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (48.98, 8.39, (32, "U")),
        (0.0, 0.0, (31, "N")),
        (-1e-9, 0.0, (31, "M")),
        (60.0, 5.0, (32, "V")),
        (56.0, 2.9, (31, "V")),
        (64.0, 5.0, (31, "W")),
        (78.0, 8.9, (31, "X")),
        (78.0, 9.0, (33, "X")),
        (78.0, 20.9, (33, "X")),
        (78.0, 21.0, (35, "X")),
        (78.0, 33.0, (37, "X")),
        (78.0, 41.9, (37, "X")),
        (84.0, 42.0, (38, "X")),
        (-80.0, -180.0, (1, "C")),
        (10.0, 180.0, (1, "P")),
        (10.0, 179.9999, (60, "P")),
        (10.0, 6.0, (32, "P")),
        (10.0, 5.9999999, (31, "P")),
    ],
)
def test_zones_and_bands_are_the_standard_ones(latitude: float, longitude: float, expected: tuple[int, str]) -> None:
    assert geodesy.utm_zone(latitude, longitude) == expected


@pytest.mark.parametrize(
    ("latitude", "longitude"), [(84.1, 0), (-80.1, 0), (math.nan, 0), (10, math.nan), (10, math.inf)]
)
def test_points_outside_utm_are_refused(latitude: float, longitude: float) -> None:
    with pytest.raises(DataError):
        geodesy.utm_zone(latitude, longitude)


@pytest.mark.parametrize(
    ("zone", "letter"), [(0, "N"), (61, "N"), (-1, "N"), (32, ""), (32, "I"), (32, "UU"), (32, "é")]
)
def test_zones_and_letters_that_do_not_exist_are_refused(zone: int, letter: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        geodesy.utm_to_wgs84(5e5, 5e6, zone, letter)
    with pytest.raises(DataError, match="does not exist"):
        geodesy.wgs84_to_utm(50.0, 9.0, zone, letter)


def test_utm_agrees_with_a_published_point_and_knows_the_south() -> None:
    # The CN Tower, Toronto: 17T 630084 4833438.
    latitude, longitude = geodesy.utm_to_wgs84(630084, 4833438, 17, "T")
    assert (round(float(latitude), 4), round(float(longitude), 4)) == (43.6426, -79.3871)
    south, _ = geodesy.utm_to_wgs84(500000, 9000000, 33, "L")
    north, _ = geodesy.utm_to_wgs84(500000, 9000000, 33, "x")
    assert south < 0 < north


# --- distances


@given(LATITUDES, LONGITUDES, NEAR, NEAR)
def test_short_distances_equal_the_geodesic(latitude: float, longitude: float, east: float, north: float) -> None:
    azimuth, length = math.degrees(math.atan2(east, north)), math.hypot(east, north)
    other_lon, other_lat, _ = GEOD.fwd(longitude, latitude, azimuth, length)
    chord = geodesy.horizontal_distance_m(latitude, longitude, other_lat, other_lon)
    assert chord == pytest.approx(length, abs=1e-3)


@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
def test_distance_is_symmetric_and_zero_only_at_the_same_place(a: float, b: float, c: float, d: float) -> None:
    distance = geodesy.horizontal_distance_m(a, b, c, d)
    assert distance == geodesy.horizontal_distance_m(c, d, a, b)
    assert 0 <= distance < 12_757_000
    assert geodesy.horizontal_distance_m(a, b, a, b) == 0


def test_distances_cross_the_antimeridian_and_the_poles_and_take_arrays() -> None:
    assert geodesy.horizontal_distance_m(0, 179.9999, 0, -179.9999) == pytest.approx(22.26, abs=0.01)
    assert geodesy.horizontal_distance_m(90, 0, 90, 123) == pytest.approx(0, abs=1e-6)
    assert geodesy.horizontal_distance_m(89.9999, 0, 89.9999, 180) == pytest.approx(22.34, abs=0.01)
    assert geodesy.horizontal_distance_m(np.zeros((3, 1)), 0.0, np.zeros(4), 1.0).shape == (3, 4)


@given(LATITUDES, LONGITUDES)
def test_geocentric_goes_there_and_back(latitude: float, longitude: float) -> None:
    back = geodesy.geocentric_to_wgs84(geodesy.geocentric(latitude, longitude))
    assert geodesy.horizontal_distance_m(latitude, longitude, *back) < 1e-6


def test_the_earths_centre_is_below_no_point() -> None:
    with pytest.raises(DataError, match="around the globe"):
        geodesy.geocentric_to_wgs84([0.0, 0.0, 0.0])


# --- headings


@given(st.floats(-1e4, 1e4))
def test_heading_and_yaw_go_there_and_back_within_their_ranges(heading: float) -> None:
    yaw = geodesy.compass_to_yaw_rad(heading)
    assert -math.pi <= yaw < math.pi
    back = geodesy.yaw_to_compass_deg(yaw)
    assert 0 <= back < 360
    assert abs((back - heading + 180) % 360 - 180) < 1e-6


@given(st.floats(-100, 100))
def test_any_yaw_gives_a_compass_heading(yaw: float) -> None:
    assert 0 <= geodesy.yaw_to_compass_deg(yaw) < 360


def test_ranges_are_closed_below_and_open_above_after_rounding() -> None:
    assert geodesy.yaw_to_compass_deg(math.pi / 2 + 1e-17) == 0
    assert geodesy.yaw_to_compass_deg(np.nextafter(math.pi / 2, 4)) < 360
    for heading in (270.0, np.nextafter(270.0, 0), np.nextafter(270.0, 400), -90.0, 630.0):
        assert -math.pi <= geodesy.compass_to_yaw_rad(heading) < math.pi


def test_the_four_winds() -> None:
    np.testing.assert_allclose(
        geodesy.compass_to_yaw_rad([0, 90, 180, 270]), np.radians([90, 0, -90, -180]), atol=1e-12
    )
    np.testing.assert_allclose(geodesy.yaw_to_compass_deg(np.radians([0, 90, 180, -90])), [90, 0, 270, 180], atol=1e-9)
    assert np.isnan(geodesy.compass_to_yaw_rad(math.nan))


# --- local frame


@given(LATITUDES, LONGITUDES, ALTITUDES, NEAR, NEAR, st.floats(-100, 100))
def test_enu_goes_there_and_back_at_any_datum(
    latitude: float, longitude: float, altitude: float, east: float, north: float, up: float
) -> None:
    frame = LocalFrame(latitude, longitude, altitude)
    back = frame.to_enu(*frame.to_wgs84([east, north, up]))
    np.testing.assert_allclose(back, [east, north, up], atol=1e-5)


@given(st.floats(-89.9, 89.9), LONGITUDES, ALTITUDES)
def test_axes_point_east_north_and_up(latitude: float, longitude: float, altitude: float) -> None:
    frame = LocalFrame(latitude, longitude, altitude)
    np.testing.assert_allclose(frame.to_enu(latitude, longitude, altitude), 0, atol=1e-6)
    np.testing.assert_allclose(frame.to_enu(latitude, longitude, altitude + 10), [0, 0, 10], atol=1e-6)
    for azimuth, axis in ((90, 0), (0, 1)):
        lon, lat, _ = GEOD.fwd(longitude, latitude, azimuth, 10)
        enu = frame.to_enu(lat, lon, altitude)
        # The ellipsoid's geodesics are longer at height.
        assert enu[axis] == pytest.approx(10 * (1 + altitude / 6.37e6), abs=1e-3)
        assert abs(enu[1 - axis]) < 0.02


@given(LATITUDES, LONGITUDES, NEAR, NEAR, st.sampled_from([math.nan, None, math.inf]))
def test_unknown_altitude_gives_unknown_up_and_right_east_and_north(
    latitude: float, longitude: float, east: float, north: float, unknown: float | None
) -> None:
    frame = LocalFrame(latitude, longitude, 150.0)
    lat, lon, _ = frame.to_wgs84([east, north, 0.0])
    enu = frame.to_enu(lat, lon, unknown)
    assert math.isnan(enu[2])
    np.testing.assert_allclose(enu[:2], [east, north], atol=0.01)
    lat, lon, altitude = frame.to_wgs84([east, north, math.nan])
    assert math.isnan(altitude)
    np.testing.assert_allclose(frame.to_enu(lat, lon, unknown)[:2], [east, north], atol=1e-5)


def test_enu_takes_arrays_of_any_shape_and_leaves_its_input_alone() -> None:
    frame = LocalFrame(50.0, 14.0, 200.0)
    enu = np.random.default_rng(0).uniform(-100, 100, (2, 3, 3))
    enu[0, 0, 2] = math.nan
    copy = enu.copy()
    latitude, longitude, altitude = frame.to_wgs84(enu)
    assert latitude.shape == longitude.shape == altitude.shape == (2, 3)
    np.testing.assert_array_equal(enu, copy)
    np.testing.assert_allclose(frame.to_enu(latitude, longitude, altitude), enu, atol=1e-3)


@pytest.mark.parametrize("distance_m", [5e3, 50e3, 1e5])
def test_points_of_unknown_altitude_come_back_from_far_away(distance_m: float) -> None:
    frame = LocalFrame(50.0, 14.0, 300.0)
    enu = distance_m * np.array([[1.0, 0.0, np.nan], [0.6, 0.8, np.nan], [-0.7, -0.7, np.nan]])
    latitude, longitude, altitude = frame.to_wgs84(enu)
    assert np.isnan(altitude).all()
    back = frame.to_enu(latitude, longitude, np.full(3, 300.0))
    assert np.allclose(back[:, :2], enu[:, :2], atol=1e-3)
