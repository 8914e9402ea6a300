"""Map images from CSV tables, and the times in them."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import picture

from vgssl_core.errors import DataError
from vgssl_core.geomap.map_images import MapImages
from vgssl_core.geomap.stamps import UNITS, parse_stamp
from vgssl_core.geomap.table import HEADERS, from_table
from vgssl_core.places import UNKNOWN_STAMP_NS

LINES = ["a.png,50.1,14.4", "sub/b.png,50.2,14.5", "c.png,-33.0,-70.0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    (folder / "sub").mkdir()
    for number, name in enumerate(("a.png", "sub/b.png", "c.png", "ü,1.png")):
        cv2.imwrite(str(folder / name), picture(number)[..., ::-1])
    return folder


def read(folder: Path, text: str | bytes, **options: bool) -> MapImages:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return from_table(path, **options)


def table(header: str, *lines: str) -> str:
    return "\n".join([header, *lines]) + "\n"


def test_images_and_positions_come_in_the_order_of_the_lines(folder: Path) -> None:
    images = read(
        folder,
        table(
            "image,latitude,longitude,altitude,heading,timestamp",
            f"{folder}/c.png,50.1,14.4,200.5,359.5,2024-05-01T10:00:00Z",
            "a.png,-33,-70.25,,-90,",
            '"ü,1.png",0,180,NaN,nan,1714557600',
        ),
    )
    positions = images.positions
    assert positions.source == tuple(str(folder / name) for name in ("c.png", "a.png", "ü,1.png"))
    np.testing.assert_array_equal(positions.latitude_deg, [50.1, -33, 0])
    np.testing.assert_array_equal(positions.longitude_deg, [14.4, -70.25, 180])
    np.testing.assert_array_equal(positions.altitude_m, [200.5, math.nan, math.nan])
    np.testing.assert_array_equal(positions.heading_deg, [359.5, 270, math.nan])
    assert positions.stamp_ns.tolist() == [1714557600 * 10**9, UNKNOWN_STAMP_NS, 1714557600 * 10**9]
    assert positions.is_georeferenced
    for (name, load), number in zip(images.items, (2, 0, 3), strict=True):
        assert Path(name).is_file()
        np.testing.assert_array_equal(load(), picture(number))
    assert images.description == f"table {folder / 't.csv'}"


@pytest.mark.parametrize("column", HEADERS)
def test_every_header_that_is_documented_is_understood_in_any_case(column: str, folder: Path) -> None:
    plain = {"image": "image", "latitude": "lat", "longitude": "lon"}
    if column in "xy":
        plain = {"image": "image", "x": "x", "y": "y"}
    values = {"image": "a.png", "stamp": "1"} | dict.fromkeys(
        ("latitude", "longitude", "altitude", "heading", *"xy"), "7"
    )
    for header in HEADERS[column]:
        for spelt in (header, header.upper(), header.replace("_", " ").title(), f" {header} [m] "):
            names = plain | {column: spelt}
            images = read(folder, table(",".join(names.values()), ",".join(values[name] for name in names)))
            assert images.positions.source == (str(folder / "a.png"),)
            told = {
                "altitude": images.positions.altitude_m,
                "heading": images.positions.heading_deg,
                "stamp": images.positions.stamp_ns,
            }
            assert column not in told or told[column][0] in (7, 1, 10**9)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(delimiter: str, newline: str, folder: Path) -> None:
    text = table("image, lat ,lon,note", *(f"{line},x" for line in LINES), ",,,", "")
    text = text.replace(",", delimiter).replace("\n", newline)
    images = read(folder, b"\xef\xbb\xbf" + text.encode())
    assert images.positions.latitude_deg.tolist() == [50.1, 50.2, -33.0]


def test_x_and_y_make_a_local_map_and_z_is_their_altitude(folder: Path) -> None:
    positions = read(folder, table("file,x,y,z,heading", "a.png,1.5,-2,3,90", "c.png,1e3,0,,")).positions
    assert not positions.is_georeferenced
    np.testing.assert_array_equal(positions.planar_m, [[1.5, -2], [1000, 0]])
    np.testing.assert_array_equal(positions.altitude_m, [3, math.nan])


def test_columns_that_are_not_used_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    positions = read(folder, table("image,lat,lon,altitud,x,y", "a.png,1,2,3,4,5")).positions
    assert "the columns 'altitud', 'x', 'y' are not used" in caplog.text
    assert math.isnan(positions.altitude_m[0])
    assert positions.planar_m is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"line 1: there is no column of the image \(image, path, .*there are none"),
        (table("lat,lon", "1,2"), r"line 1: there is no column of the image .*there are 'lat', 'lon'"),
        (table("image,lat", "a.png,2"), "no column of the longitude"),
        (table("image,y", "a.png,2"), r"no column of the x \("),
        (table("image,heading", "a.png,2"), "no column of the latitude"),
        (table("image,lat,Latitude,lon", "a.png,1,1,1"), "columns 'lat' and 'Latitude' both tell the latitude"),
        (table("image,lat,lon", "a.png,north,2"), r"1 values .*line 2, column 'lat': 'north' is not a number"),
        (table("image,lat,lon", "a.png,1,2", "c.png,1,2_0"), "line 3, column 'lon': '2_0' is not a number"),
        (table("image;lat;lon", "a.png;50,1;14"), "'50,1' is not a number .write a decimal point"),
        (table("image,lat,lon", "a.png,nan,2"), "line 2, column 'lat': 'nan' is no position"),
        (table("image,x,y", "a.png,1,NaN"), "line 2, column 'y': 'NaN' is no position"),
        (table("image,lat,lon", "a.png,,2"), "line 2, column 'lat': '' is empty"),
        (table("image,lat,lon", "a.png,90.1,2"), "'90.1' is beyond 90 degrees"),
        (table("image,lat,lon", "a.png,1,-180.1"), "'-180.1' is beyond 180 degrees"),
        (table("image,x,y", "a.png,1,inf"), "'inf' is not finite"),
        (table("image,lat,lon,alt", "a.png,1,2,high"), "column 'alt': 'high' is not a number"),
        (table("image,lat,lon,alt", "a.png,1,2,-inf"), "column 'alt': '-inf' is not finite"),
        (table("image,lat,lon,heading", "a.png,1,2,361"), "'361' is no compass heading"),
        (table("image,lat,lon,time", "a.png,1,2,noon"), "column 'time': 'noon' is neither an ISO 8601"),
        (table("image,lat,lon,time", "a.png,1,2,2024-13-01T00:00"), "is no date and time"),
        (table("image,lat,lon,time", "a.png,1,2,-5"), "is not between 1970 and 2262"),
        (table("image,lat,lon", ",1,2"), "column 'image': '' names no file"),
        (
            table("image,lat,lon", "a.png,x,y", "c.png,x,y"),
            "4 values .*line 2, column 'lat'.*line 2, column 'lon'.*; …",
        ),
        (table("image,lat,lon", "a.png,1"), "line 2 has 2 cells, the header 3"),
        (table("image,lat,lon", "a.png,1,2,3"), "line 2 has 4 cells, the header 3"),
        (table("image,lat,lon"), "lists no image"),
        (
            table("image,lat,lon", "a.png,1,2", "", "./sub/../a.png,1,2"),
            r"1 images are listed again: line 4: .*in line 2",
        ),
        (table("image,lat,lon", *LINES, "no.png,1,2", "d.png,1,2"), r"2 of 5 images are missing: line 5: .*no\.png; l"),
        (table("image,lat,lon", 'a.png,"1"2,2'), "after line 1: "),
        (table("image,lat,lon", 'a.png,"1,2'), "after line 1: "),
        (b"image,lat,lon\n\xe4.png,1,2\n", "not UTF-8 after line"),
        (b"image,lat,lon\na.png,1,2\nb\x00.png,1,2\n", "line"),
        (table("image,lat,lon", "a.png,1," + "9" * 200_000), "after line 1: field larger"),
    ],
)
def test_what_cannot_be_used_is_named_with_line_and_column(text: str | bytes, words: str, folder: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(folder, text)
    assert str(folder / "t.csv") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["none.csv", ""])
def test_a_table_that_cannot_be_read_is_named(name: str, folder: Path) -> None:
    with pytest.raises(DataError, match="Cannot read the table"):
        from_table(folder / name)


def test_missing_images_are_left_to_the_embedding_where_that_is_asked(folder: Path) -> None:
    images = read(folder, table("image,lat,lon", LINES[0], "no.png,1,2"), missing_ok=True)
    (_, good), (_, gone) = images.items
    assert good().shape == picture(0).shape
    with pytest.raises(DataError, match=r"Cannot read image .*no\.png"):
        gone()


@given(content=st.text("ab.png,\"';\n\r\t\0latonimgeé0123456789-", max_size=60))
def test_any_text_is_a_table_or_our_error(content: str, folder: Path) -> None:
    for head in ("", "image,lat,lon\n", "image,lat,lon\na.png,1,2\n"):
        try:
            assert len(read(folder, head + content).positions) > 0
        except DataError as problem:
            assert str(folder / "t.csv") in str(problem)


# --- times

NOON = 1714564800 * 10**9  # 2024-05-01 12:00 UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T12:00:00Z", NOON),
        ("2024-05-01 12:00", NOON),
        ("2024-05-01T14:00:00+02:00", NOON),
        ("2024-05-01T14:00+0200", NOON),
        ("2024-05-01T06:30:00-05:30", NOON),
        ("2024-05-01t12:00:00 utc", NOON),
        ("2024:05:01 12:00:00", NOON),
        ("2024-05-01T12:00:00.123456789Z", NOON + 123456789),
        ("2024-05-01T12:00:00,5+00", NOON + 500000000),
        ("2024-05-01T12:00:00.1234567891234Z", NOON + 123456789),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1714564800", NOON),
        ("1714564800.123456789", NOON + 123456789),
        ("1714564800000", NOON),
        ("1714564800000000", NOON),
        ("1714564800000000000", NOON),
        ("1.7145648e9", NOON),
        ("0", 0),
    ],
)
def test_times_are_exact_to_the_nanosecond(text: str, expected: int) -> None:
    assert parse_stamp(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "now", "nan", "inf", "1_0", "1e999999999", "2024-05-01", "12:00", "2024-05-01T25:00", "2024-02-30T00:00",
     "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "-1", "2023-01-01T00:00:00 CET", "9" * 19, "1e30"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is "):
        parse_stamp(text)


@pytest.mark.parametrize("header", ["stamp_{}", "Timestamp [{}]", "time ({})", "captured_at.{}"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_in_the_header_is_that_of_its_numbers(header: str, unit: str, folder: Path) -> None:
    # A simulated clock starts at 0, so that the size of its numbers tells nothing.
    text = table(f"image,lat,lon,{header.format(unit)}", "a.png,1,2,5000000000")
    expected = 5_000_000_000 * UNITS[unit]
    if expected >= 2**63:
        with pytest.raises(DataError, match="2262"):
            read(folder, text)
    else:
        assert read(folder, text).positions.stamp_ns.tolist() == [expected]


@given(stamp_ns=st.integers(10**17, 2**63 - 1))
def test_any_stamp_comes_back_from_each_of_its_spellings(stamp_ns: int) -> None:
    seconds = f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"
    iso = f"{np.datetime64(stamp_ns, 'ns')}Z"
    assert parse_stamp(str(stamp_ns)) == parse_stamp(seconds) == parse_stamp(iso) == stamp_ns
