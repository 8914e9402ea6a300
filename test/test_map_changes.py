"""Changing maps: any sequence of changes keeps exactly the images that it should."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_support import (
    PRAGUE,
    Images,
    content,
    expected,
    index_over,
    make_images,
    only_the_map_is_left,
    quick_disk,  # noqa: F401
    rewrite,
)

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap import add_images, build_map, compact, load_map, remove_images, verify_map
from vgssl_core.geomap.builder import writing
from vgssl_core.geomap.manifest import Manifest, read_manifest
from vgssl_core.geomap.positions import CELL_M, MapPositions
from vgssl_core.storage import ASIDE_PREFIX


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map") / "map"
    build_map(folder, *in_order(make_images(40)), source="a test")
    return folder


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "map"))


def in_order(images: Images, model: str = "model-a") -> tuple[Any, str, MapPositions]:
    return images.descriptors, model, images.positions


def add(path: Path, images: Images) -> Manifest:
    return add_images(path, *in_order(images))


CHANGES = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 12)),
    st.tuples(st.just("remove rows"), st.floats(0, 1)),
    st.tuples(st.just("remove by choice"), st.floats(0, 1)),
    st.tuples(st.just("compact"), st.sampled_from([None, 0, 300.0, 900.0])),
)


@settings(max_examples=8 if settings().max_examples < 100 else 300)
@given(
    changes=st.lists(CHANGES, max_size=5),
    precision=st.sampled_from(["fp32", "fp16"]),
    tile_m=st.sampled_from([None, 500.0]),
    datum=st.sampled_from([PRAGUE, None]),
    seed=st.integers(0, 1000),
)
def test_any_sequence_of_changes_keeps_exactly_the_expected_images(
    changes: list, precision: str, tile_m: float | None, datum: Any, seed: int, tmp_path_factory: Any
) -> None:
    folder, rng = tmp_path_factory.mktemp("life") / "map", np.random.default_rng(seed)
    images = make_images(15, seed, datum)
    frame = build_map(folder, *in_order(images), precision, tile_m=tile_m).datum
    wanted = expected(images, frame, precision)
    for number, (change, value) in enumerate(changes):
        if change == "add":
            # Far away, so that a datum that followed the images would show.
            images = make_images(value, seed + 2000 + number, datum, extent_m=5000.0)
            add(folder, images)
            wanted |= expected(images, frame, precision)
        elif change == "compact":
            compact(folder, value)
        else:
            chosen = {source for source in sorted(wanted) if rng.random() < value}
            if len(chosen) == len(wanted):
                with pytest.raises(MapError, match="No image"):
                    remove_images(folder, lambda positions: np.ones(len(positions), bool))
                continue
            sources = load_map(folder).sources
            rows = np.flatnonzero([source in chosen for source in sources])
            by_rows = change == "remove rows"
            remove_images(folder, rows if by_rows else (lambda p, c=chosen: np.array([s in c for s in p.source])))
            wanted = {source: facts for source, facts in wanted.items() if source not in chosen}
        assert content(folder) == wanted
        only_the_map_is_left(folder)
    geomap = verify_map(folder)
    assert geomap.datum == frame
    assert geomap.manifest.precision == precision
    queries = geomap.descriptors(slice(0, len(geomap)))
    assert geomap.search(queries, 1).indices[:, 0].tolist() == list(range(len(wanted)))


def test_added_images_come_after_those_that_are_there_in_one_more_segment(path: Path) -> None:
    before = load_map(path)
    images = make_images(10, seed=1)
    manifest = add(path, images)
    geomap = verify_map(path)
    assert geomap.sources[:40] == before.sources
    assert sorted(geomap.sources[40:]) == sorted(images.positions.source)
    assert [item.count for item in manifest.segments] == [40, 10]
    assert manifest.segments[:1] == before.manifest.segments
    assert manifest.map_id != before.manifest.map_id
    assert geomap.spacing_m == build_spacing(geomap.positions_m)
    assert manifest == geomap.manifest


def build_spacing(positions_m: np.ndarray) -> float:
    distances = np.linalg.norm(positions_m[:, None, :2] - positions_m[None, :, :2], axis=2)
    np.fill_diagonal(distances, np.inf)
    return round(float(np.median(distances.min(axis=1))), 3)


def test_a_map_tells_each_of_its_sources_once_and_not_without_end(path: Path) -> None:
    for number, source in enumerate(["b", "", "a test", "c", "b", "x" * 5000, "y"]):
        images = make_images(1, seed=20 + number)
        add_images(path, *in_order(images), source=source)
        told = read_manifest(path).source
        assert told.startswith("a test; b; c; x"[: len(told)])
        assert len(told) <= 4000
    assert told.endswith("x…")


@pytest.mark.parametrize(
    ("images", "model", "words"),
    [
        (make_images(3), "model-b", "model-a.*model-b"),
        (make_images(3, dimension=8), "model-a", "length 16.*have 8"),
        (make_images(3, datum=None), "model-a", "is geo-referenced and the new images are local.*latitude"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Images, model: str, words: str, path: Path) -> None:
    before = (path / "map.yaml").read_bytes()
    with pytest.raises(MapError, match=words):
        add_images(path, *in_order(images, model))
    assert (path / "map.yaml").read_bytes() == before
    only_the_map_is_left(path)


def test_positions_on_earth_do_not_fit_a_local_map(tmp_path: Path) -> None:
    build_map(tmp_path / "m", *in_order(make_images(5, datum=None)))
    with pytest.raises(MapError, match=r"is local and the new images are geo-referenced.*plane"):
        add(tmp_path / "m", make_images(5))


def test_bad_images_and_places_without_map_are_refused_and_nothing_is_made(path: Path, tmp_path: Path) -> None:
    images = make_images(5, seed=3)
    with pytest.raises(DataError, match="1 of 5 descriptors"):
        add(path, Images(images.descriptors * np.array([[1], [1], [2], [1], [1]], np.float32), images.positions))
    with pytest.raises(DataError, match="no image"):
        add(path, images.only(np.array([], int)))
    for change in (
        lambda where: add(where, images),
        lambda where: remove_images(where, [0]),
        lambda where: compact(where),
    ):
        with pytest.raises(MapError, match="no map"):
            change(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    only_the_map_is_left(path)


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ([40], "no image 40"),
        ([-1], "no image -1"),
        ([0.5], "by their indices"),
        (np.zeros((2, 2), int), "by their indices"),
        (lambda positions: np.arange(len(positions)), "choice of images gave int64"),
        (lambda positions: np.zeros(3, bool), "for 40 images"),
    ],
)
def test_a_choice_that_means_no_images_is_refused(which: Any, words: str, path: Path) -> None:
    with pytest.raises(DataError, match=words):
        remove_images(path, which)
    only_the_map_is_left(path)


def test_removing_nothing_changes_nothing(path: Path) -> None:
    before = (path / "map.yaml").read_bytes()
    assert remove_images(path, []) == read_manifest(path)
    remove_images(path, lambda positions: np.zeros(len(positions), bool))
    assert (path / "map.yaml").read_bytes() == before


def test_only_touched_segments_are_written_anew(path: Path) -> None:
    names = [item.name for item in add(path, make_images(10, seed=1)).segments]
    after = [item.name for item in remove_images(path, [45]).segments]
    assert after[0] == names[0]
    assert after[1] != names[1]
    assert [item.name for item in remove_images(path, range(40, 49)).segments] == names[:1]


def test_indices_of_another_version_are_refused(path: Path) -> None:
    chosen_in = read_manifest(path).map_id
    remove_images(path, [3], chosen_in)
    with pytest.raises(MapError, match="has changed"):
        remove_images(path, [3], chosen_in)
    assert len(load_map(path)) == 39


def test_a_choice_sees_positions_in_the_maps_frame(path: Path) -> None:
    east = load_map(path).positions_m[:, 0]
    remove_images(path, lambda positions: positions.planar_m[:, 0] > 0)
    np.testing.assert_array_equal(np.sort(load_map(path).positions_m[:, 0]), np.sort(east[east <= 0]))


def test_compacting_joins_segments_in_the_order_of_cells(path: Path) -> None:
    add(path, make_images(30, seed=1))
    assert len(compact(path).segments) == 1
    cells = np.floor(load_map(path).positions_m[:, 1::-1] / CELL_M)
    assert cells.tolist() == sorted(cells.tolist())


def test_tiles_are_segments_that_hold_the_images_of_a_square(tmp_path: Path) -> None:
    geomap = build_map(tmp_path / "m", *in_order(make_images(60)), tile_m=900.0)
    starts = np.cumsum([0, *(item.count for item in geomap.manifest.segments)])
    tiles = [geomap.positions_m[begin:end, :2] for begin, end in itertools.pairwise(starts)]
    squares = [{tuple(square) for square in np.floor(tile / 900.0).tolist()} for tile in tiles]
    assert all(len(square) == 1 for square in squares)
    assert len(set.union(*squares)) == len(tiles) > 4
    for tile, segment in zip(tiles, geomap.manifest.segments, strict=True):
        assert (tile >= segment.low_m).all()
        assert (tile <= segment.high_m).all()
        assert np.abs(tile.min(axis=0) - segment.low_m).max() < 2e-3
        assert np.abs(tile.max(axis=0) - segment.high_m).max() < 2e-3
        cells = np.floor(tile[:, ::-1] / CELL_M).tolist()
        assert cells == sorted(cells)
    # New images become tiles too, and compacting keeps the cut until it is told otherwise.
    added = add(tmp_path / "m", make_images(60, seed=1))
    assert len(added.segments) > len(tiles) + 4
    assert len(compact(tmp_path / "m").segments) < len(added.segments)
    assert len(compact(tmp_path / "m", tile_m=0).segments) == 1
    assert read_manifest(tmp_path / "m").tile_m is None


@pytest.mark.parametrize(("tile_m", "words"), [(-1.0, "positive"), (np.nan, "positive"), (1e-3, "take larger ones")])
def test_tiles_that_no_map_has_are_refused(tile_m: float, words: str, tmp_path: Path, path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vgssl_core.geomap.builder.MAX_SEGMENTS", 30)
    with pytest.raises(MapError, match=words):
        build_map(tmp_path / "new", *in_order(make_images(40)), tile_m=tile_m)
    assert not (tmp_path / "new").exists()
    with pytest.raises(MapError, match=words):
        compact(path, tile_m)
    only_the_map_is_left(path)


def test_a_box_that_does_not_hold_the_images_is_found(path: Path) -> None:
    segment = read_manifest(path).segments[0]
    rewrite(path, segments=(replace(segment, high_m=(segment.high_m[0] - 1, segment.high_m[1])),))
    with pytest.raises(MapError, match="outside the box"):
        load_map(path)


def test_a_calibration_is_dropped_with_a_warning_when_the_content_changes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for change in (lambda: add(path, make_images(3, seed=1)), lambda: remove_images(path, [0])):
        rewrite(path, calibration={"a": 1})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert change().calibration is None
        assert "calibrate again" in caplog.text
    rewrite(path, calibration={"a": 1})
    assert compact(path).calibration == {"a": 1}


def test_an_index_stays_until_a_segment_that_it_covers_is_written_anew(path: Path) -> None:
    index = index_over(path).index
    assert add(path, make_images(5, seed=1)).index == index
    assert remove_images(path, [42]).index == index
    assert (path / "index-0a0a0a0a.faiss").exists()
    assert read_manifest(path).wanted_index is None
    assert remove_images(path, [3]).index == {"type": "exact"}
    assert add(path, make_images(5, seed=2)).wanted_index == compact(path).wanted_index == "hnsw"
    assert not (path / "index-0a0a0a0a.faiss").exists()
    index_over(path)
    assert compact(path).index == {"type": "exact"}
    only_the_map_is_left(path)


@pytest.mark.parametrize("name", ["descriptors.npy", "poses.npy", "records.parquet"])
def test_damage_is_not_written_on_with_a_good_checksum(name: str, path: Path) -> None:
    load_map(path)
    file = next((path / "segments").glob(f"*/{name}"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    before = (path / "map.yaml").read_bytes()
    for change in (lambda: remove_images(path, [0]), lambda: compact(path)):
        with pytest.raises(MapError, match=name.replace(".", r"\.")):
            change()
    assert (path / "map.yaml").read_bytes() == before


def test_a_change_that_fails_leaves_the_old_map_and_nothing_else(path: Path, monkeypatch) -> None:
    before = content(path)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("vgssl_core.geomap.segment._write_records", fail)
    for change in (
        lambda: add(path, make_images(5, seed=1)),
        lambda: remove_images(path, [3]),
        lambda: compact(path, 300.0),
    ):
        with pytest.raises(OSError, match="disk full"):
            change()
        only_the_map_is_left(path)
    assert content(path) == before


def test_a_writer_sweeps_though_the_number_of_a_killed_one_is_in_use_again(path: Path) -> None:
    for folder in (path, path / "segments"):
        (folder / f"{ASIDE_PREFIX}{os.getpid()}-01234567-left").write_text("")
    add(path, make_images(1, seed=9))
    only_the_map_is_left(path)


def test_a_second_writer_is_refused(path: Path) -> None:
    before = content(path)
    with writing(path):
        for change in (
            lambda: add(path, make_images(5, seed=1)),
            lambda: remove_images(path, [3]),
            lambda: compact(path),
        ):
            with pytest.raises(MapError, match="Another process is writing"):
                change()
    assert content(path) == before
