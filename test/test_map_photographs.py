"""Map images from folders of photographs: what their EXIF tells, and what it fails to."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures
from PIL.TiffImagePlugin import IFDRational
from tiny import picture

from vgssl_core.errors import DataError
from vgssl_core.geomap.exif import read_tags
from vgssl_core.geomap.photographs import from_photographs
from vgssl_core.geomap.stamps import parse_stamp
from vgssl_core.places import UNKNOWN_STAMP_NS, read_place_set

PRAGUE = {1: "N", 2: (50.0, 6.0, 0.0), 3: "E", 4: (14.0, 24.0, 0.0)}


def photograph(path: Path, gps: dict[int, Any] | None, taken: dict[int, Any] | None = None, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Pictures.Exif()
    for ifd, tags in ((0x8825, gps), (0x8769, taken)):
        if tags is not None:
            exif.get_ifd(ifd).update(tags)
    Pictures.fromarray(picture(seed)).save(path, exif=exif.tobytes(), quality=95)
    return path


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({}, (50.1, 14.4)),
        ({1: "S"}, (-50.1, 14.4)),
        ({3: "W"}, (50.1, -14.4)),
        ({1: "s\0", 3: "w "}, (-50.1, -14.4)),
        ({2: (50.0, 6.6, 36.0)}, (50.12, 14.4)),
        ({2: (50.1, 0.0, 0.0)}, (50.1, 14.4)),
        ({2: (90.0, 0.0, 0.0), 4: (180.0, 0.0, 0.0)}, (90, 180)),
        ({2: (0.0, 0.0, 0.0)}, (0, 14.4)),
    ],
)
def test_degrees_minutes_and_seconds_have_a_side_of_the_earth(
    gps: dict[int, Any], expected: tuple[float, float], tmp_path: Path
) -> None:
    tags = read_tags(photograph(tmp_path / "a.jpg", PRAGUE | gps))
    assert (tags.latitude_deg, tags.longitude_deg) == pytest.approx(expected, abs=1e-9)
    assert math.isnan(tags.altitude_m)
    assert math.isnan(tags.heading_deg)
    assert (tags.stamp_ns, tags.is_magnetic, tags.is_local_time) == (UNKNOWN_STAMP_NS, False, False)


@pytest.mark.parametrize(
    ("gps", "altitude"),
    [
        ({6: 212.5}, 212.5),
        ({5: b"\0", 6: 212.5}, 212.5),
        ({5: b"\1", 6: 3.0}, -3.0),
        ({5: b"\2", 6: 3.0}, 3.0),
        ({5: b"\3", 6: 3.0}, -3.0),
        ({5: b"\1"}, math.nan),
        ({6: IFDRational(0, 0)}, math.nan),
    ],
)
def test_altitude_is_above_or_below_the_sea(gps: dict[int, Any], altitude: float, tmp_path: Path) -> None:
    tags = read_tags(photograph(tmp_path / "a.jpg", PRAGUE | gps))
    assert tags.altitude_m == pytest.approx(altitude, nan_ok=True)


@pytest.mark.parametrize(
    ("gps", "heading", "magnetic"),
    [
        ({16: "T", 17: 271.5}, 271.5, False),
        ({16: "M", 17: 271.5}, 271.5, True),
        ({17: 360.0}, 0.0, False),
        ({16: "T", 17: 400.0}, math.nan, False),
        ({16: "M", 17: IFDRational(1, 0)}, math.nan, True),
    ],
)
def test_heading_is_the_direction_of_the_image(
    gps: dict[int, Any], heading: float, magnetic: bool, tmp_path: Path
) -> None:
    tags = read_tags(photograph(tmp_path / "a.jpg", PRAGUE | gps))
    assert tags.heading_deg == pytest.approx(heading, nan_ok=True)
    assert tags.is_magnetic is magnetic


GPS_TIME = {7: (12.0, 30.0, 15.25), 29: "2024:05:01"}


@pytest.mark.parametrize(
    ("gps", "taken", "expected", "is_local"),
    [
        (GPS_TIME, {0x9003: "2001:01:01 00:00:00"}, "2024-05-01T12:30:15.25Z", False),
        ({**GPS_TIME, 29: "2024-05-01"}, {}, "2024-05-01T12:30:15.25Z", False),
        ({}, {0x9003: "2024:05:01 12:00:00", 0x9011: "+02:00"}, "2024-05-01T10:00:00Z", False),
        ({}, {0x9003: "2024:05:01 12:00:00", 0x9011: "-05:30", 0x9291: "25"}, "2024-05-01T17:30:00.25Z", False),
        ({}, {0x9003: "2024:05:01 12:00:00"}, "2024-05-01T12:00:00Z", True),
        ({29: "2024:05:01"}, {0x9003: "2024:05:01 12:00:00"}, "2024-05-01T12:00:00Z", True),
        ({**GPS_TIME, 29: "2024:02:31"}, {0x9003: "2024:05:01 12:00:00"}, "2024-05-01T12:00:00Z", True),
        ({**GPS_TIME, 7: (99.0, 0.0, 0.0)}, {}, None, False),
        ({**GPS_TIME, 7: (12.0, IFDRational(0, 0), 0.0)}, {}, None, False),
        ({}, {0x9003: "    :  :     :  :  "}, None, False),
        ({}, {0x9003: "0000:00:00 00:00:00"}, None, False),
        ({}, {0x9003: "1714557600"}, None, False),
    ],
)
def test_time_is_the_fix_s_else_the_camera_s(
    gps: dict[int, Any], taken: dict[int, Any], expected: str | None, is_local: bool, tmp_path: Path
) -> None:
    tags = read_tags(photograph(tmp_path / "a.jpg", PRAGUE | gps, taken))
    assert tags.stamp_ns == (UNKNOWN_STAMP_NS if expected is None else parse_stamp(expected))
    assert tags.is_local_time is is_local


@pytest.mark.parametrize(
    ("gps", "words"),
    [
        (None, "no GPS position"),
        ({1: "N", 2: (1.0, 2.0, 3.0)}, "no GPS position"),
        ({**PRAGUE, 1: ""}, "does not tell N or S"),
        ({2: PRAGUE[2], 4: PRAGUE[4]}, "does not tell N or S"),
        ({**PRAGUE, 3: "N"}, "does not tell E or W"),
        ({**PRAGUE, 2: (90.0, 1.0, 0.0)}, "damaged"),
        ({**PRAGUE, 2: (50.0, 61.0, 0.0)}, "damaged"),
        ({**PRAGUE, 2: (IFDRational(0, 0),) * 3}, "damaged"),
        ({**PRAGUE, 4: (181.0, 0.0, 0.0)}, "damaged"),
        ({**PRAGUE, 2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)}, "without a fix"),
    ],
)
def test_what_is_no_position_is_told(gps: dict[int, Any] | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_tags(photograph(tmp_path / "a.jpg", gps))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_other_formats_carry_exif_too(suffix: str, tmp_path: Path) -> None:
    assert read_tags(photograph(tmp_path / f"a{suffix}", PRAGUE)).latitude_deg == pytest.approx(50.1)


@given(data=st.data())
def test_damaged_exif_is_read_or_told(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    good = photograph(folder / "a.jpg", {**PRAGUE, **GPS_TIME, 6: 200.0, 17: 5.0}, {0x9003: "2024:05:01 12:00:00"})
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    (folder / "b.jpg").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        tags = read_tags(folder / "b.jpg")
    except ValueError as problem:
        assert str(problem).startswith("it")
    else:
        assert abs(tags.latitude_deg) <= 90
        assert abs(tags.longitude_deg) <= 180
        assert not abs(tags.heading_deg) > 360
        assert -1 <= tags.stamp_ns < 2**63


# --- folders


def test_folders_are_walked_in_order_without_what_is_hidden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["b.JPG", "a.jpeg", "sub/c.jpg", "sub/deep/d.png", "other/e.Jpg"]
    for number, name in enumerate(names):
        photograph(tmp_path / name, PRAGUE | {2: (float(number), 0.0, 1.0)}, seed=number)
    for name in (".hidden.jpg", ".thumbnails/f.jpg", "sub/._c.jpg"):
        photograph(tmp_path / name, PRAGUE)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "new.HEIC").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    images = from_photographs(tmp_path)
    ordered = ["a.jpeg", "b.JPG", "other/e.Jpg", "sub/c.jpg", "sub/deep/d.png"]
    assert images.positions.source == tuple(str(tmp_path / name) for name in ordered)
    assert np.floor(images.positions.latitude_deg).tolist() == [1, 0, 4, 2, 3]
    assert [Path(name).name for name, _ in images.items] == [Path(name).name for name in ordered]
    assert "files that are not read (1 .heic)" in caplog.text
    assert images.description == f"photographs {tmp_path}"


def test_photographs_without_position_are_counted_and_named_and_left_out_where_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photograph(tmp_path / "a.jpg", PRAGUE)
    photograph(tmp_path / "b.jpg", None)
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"2 of 3 photographs .*b\.jpg \(it has no GPS.*c\.jpg \(it does not open.*--skip"
    ):
        from_photographs(tmp_path)
    assert from_photographs(tmp_path, skip_untagged=True).positions.source == (str(tmp_path / "a.jpg"),)
    assert "2 of 3 photographs have no usable GPS position" in caplog.text
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match="2 of 2 photographs") as caught:
        from_photographs(tmp_path, skip_untagged=True)
    assert "--skip" not in str(caught.value)


def test_magnetic_headings_and_clocks_without_offset_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    photograph(tmp_path / "a.jpg", PRAGUE | {16: "M", 17: 90.0}, {0x9003: "2024:05:01 12:00:00"})
    photograph(tmp_path / "b.jpg", PRAGUE | {16: "T", 17: 90.0})
    images = from_photographs(tmp_path)
    assert images.positions.heading_deg.tolist() == [90, 90]
    for words in ("1 of 2 headings are from magnetic north", "1 of 2 times", "1 of 2 photographs do not tell when"):
        assert words in caplog.text


def test_an_altitude_that_stands_for_unknown_is_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photograph(tmp_path / "a.jpg", PRAGUE | {6: 4294967295.0})
    photograph(tmp_path / "b.jpg", PRAGUE | {6: 212.5})
    np.testing.assert_array_equal(from_photographs(tmp_path).positions.altitude_m, [np.nan, 212.5])
    assert "1 of 2 altitudes are impossible" in caplog.text


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    for place, words in ((tmp_path, "holds no photograph"), (tmp_path / "a.txt", "not a folder")):
        with pytest.raises(DataError, match=words):
            from_photographs(place)
    with pytest.raises(DataError, match="is not a folder"):
        from_photographs(tmp_path / "none")


def test_a_name_that_is_no_text_is_refused_before_the_work(tmp_path: Path) -> None:
    os.rename(photograph(tmp_path / "a.jpg", PRAGUE), os.fsencode(tmp_path) + b"/\xff.jpg")
    with pytest.raises(DataError, match="not UTF-8"):
        from_photographs(tmp_path)


def test_real_photographs_lie_where_their_place_set_says(shared_data: Path) -> None:
    folder = shared_data / "lund_exif"
    images = from_photographs(folder / "original_exif")
    places = read_place_set(folder)
    named = np.concatenate([np.stack([p.latitude_deg, p.longitude_deg], 1) for p in (places.database, places.queries)])
    read = np.stack([images.positions.latitude_deg, images.positions.longitude_deg], 1)
    assert len(read) == len(named) == 29
    np.testing.assert_allclose(np.sort(read, axis=0), np.sort(named, axis=0), atol=2e-7)
    assert np.isfinite(images.positions.altitude_m).all()
    assert next(iter(images.items))[1]().shape == (768, 1024, 3)
