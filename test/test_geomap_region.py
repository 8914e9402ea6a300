"""Search around a place: exact, whatever the order of the images, and the same with and without FAISS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from map_support import ENGINES, positions, unit_rows
from numpy.typing import NDArray

from vgssl_core.errors import DataError, MapError
from vgssl_core.geomap import POSE_DTYPE, build_map, load_map
from vgssl_core.geomap.blocks import Blocks
from vgssl_core.geomap.exact import ExactSearch
from vgssl_core.geomap.positions import CELL_M, cell_order
from vgssl_core.geomap.region import CellDirectory, RegionSearch, _smallest


def poses_at(planar_m: NDArray[np.float64]) -> NDArray[np.void]:
    poses = np.zeros(len(planar_m), POSE_DTYPE)
    poses["x"], poses["y"] = planar_m.T
    return poses


def inside(poses: NDArray[np.void], x_m: float, y_m: float, radius_m: float) -> NDArray[np.int64]:
    return np.flatnonzero((poses["x"] - x_m) ** 2 + (poses["y"] - y_m) ** 2 <= radius_m**2)


@given(
    count=st.integers(1, 200),
    sorted_by_cell=st.booleans(),
    halves=st.booleans(),
    cuts=st.integers(1, 3),
    k=st.integers(1, 40),
    x_m=st.floats(-700, 700),
    y_m=st.floats(-700, 700),
    radius_m=st.floats(0.5, 900),
    seed=st.integers(0, 99),
)
@example(100, True, False, 1, 5, 100.0, -200.0, 100.0, 0)  # on the corner of four squares
@example(100, True, True, 2, 5, 9e7, 9e7, 1e8, 0)
def test_it_finds_what_comparing_every_image_finds(
    count: int,
    sorted_by_cell: bool,
    halves: bool,
    cuts: int,
    k: int,
    x_m: float,
    y_m: float,
    radius_m: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    poses = poses_at(np.round(rng.uniform(-500, 500, (count, 2)), rng.integers(-2, 3)))
    poses = poses[cell_order(poses)] if sorted_by_cell else poses
    rows = unit_rows(count, 8, seed).astype(np.float16 if halves else np.float32)
    queries = unit_rows(2, 8, seed + 1000)
    near = inside(poses, x_m, y_m, radius_m)
    arrays = [array for array in np.array_split(rows, cuts) if len(array)]
    if len(near):
        order, distances = ExactSearch([rows[near].astype(np.float32)], False).search(queries, min(k, len(near)))
    for use_faiss in ENGINES:
        indices, found = RegionSearch(Blocks(arrays), poses, use_faiss).search(queries, k, x_m, y_m, radius_m)
        assert indices.shape == found.shape == (2, min(k, len(near)))
        assert (indices.dtype, found.dtype) == (np.int64, np.float32)
        if len(near):
            np.testing.assert_array_equal(indices, near[order])
            np.testing.assert_array_equal(found, distances)


@given(
    border=st.integers(-5, 5),
    steps=st.integers(-2, 2),
    turned=st.booleans(),
    mirrored=st.booleans(),
    x_m=st.floats(-700, 700) | st.integers(-7000, 7000).map(lambda value: value / 10) | st.just(0.0),
    beside=st.sampled_from([0.0, 0.1, 99.9, 100.0, 250.3]),
    shrink=st.integers(-1, 1),
)
@example(3, 0, False, False, -279.8, 0.0, 0)
@example(0, -2, True, False, 0.0, 0.0, 0)  # so near that the square of the distance is 0
def test_an_image_on_the_border_of_a_square_is_found_as_any_other(
    border: int, steps: int, turned: bool, mirrored: bool, x_m: float, beside: float, shrink: int
) -> None:
    at = border * CELL_M
    for _ in range(abs(steps)):
        at = np.nextafter(at, np.sign(steps) * np.inf)
    radius_m = float(np.hypot(at - x_m, beside))
    radius_m = max(float(np.nextafter(radius_m, shrink * np.inf)) if shrink else radius_m, 1e-300)
    place, image = np.array([x_m, -beside if mirrored else beside]), np.array([[at, 0.0]])
    place, image = (place[::-1], image[:, ::-1]) if turned else (place, image)
    poses = poses_at(image)
    touched = CellDirectory(poses).slices(*place.tolist(), radius_m)
    assert set(inside(poses, *place.tolist(), radius_m)) <= {row for begin, end in touched for row in range(begin, end)}


def test_a_region_of_an_ordered_map_is_a_few_long_slices() -> None:
    poses = poses_at(np.random.default_rng(0).uniform(0, 5000, (50_000, 2)))
    poses = poses[cell_order(poses)]
    slices = CellDirectory(poses).slices(2450.0, 2450.0, 320.0)
    # One slice for each line of squares: from y = 2130 to 2770 these are the squares 21 to 27.
    assert len(slices) == 7
    rows = np.concatenate([np.arange(begin, end) for begin, end in slices])
    assert set(inside(poses, 2450, 2450, 320)) <= set(rows)
    assert len(rows) < 1.5 * len(inside(poses, 2450, 2450, 320))
    squares = np.floor(np.stack([poses["x"], poses["y"]], axis=1)[rows] / CELL_M)
    assert (np.abs(squares - 24).max(axis=0) <= 4).all()


@pytest.mark.parametrize("use_faiss", ENGINES)
def test_it_is_exact_among_many_images_and_equal_ones(use_faiss: bool) -> None:
    rng = np.random.default_rng(0)
    poses = poses_at(rng.uniform(0, 1500, (20_000, 2)))
    poses = poses[cell_order(poses)]
    rows = unit_rows(20_000, 8)
    rows[5000:9000] = rows[5000]
    queries = np.concatenate([unit_rows(5, 8, 1), rows[5000:5001]])
    near = inside(poses, 700, 600, 500)
    for k in (1, 10, 400):
        order, distances = ExactSearch([rows[near]], False).search(queries, k)
        indices, found = RegionSearch(Blocks([rows]), poses, use_faiss).search(queries, k, 700.0, 600.0, 500.0)
        np.testing.assert_array_equal(found, distances)
        if k <= 10:  # Among thousands of equal images, which more neighbours and the last query reach, any may come.
            np.testing.assert_array_equal(indices[:5], near[order][:5])


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5, np.inf]), min_size=1, max_size=600),
    wanted=st.integers(1, 20),
)
def test_the_smallest_values_are_among_the_proposed_ones(values: list[float], wanted: int) -> None:
    array = np.array(values, np.float32)
    wanted = min(wanted, len(array))
    places = _smallest(array, wanted)
    assert len(set(places.tolist())) == len(places) >= wanted
    np.testing.assert_array_equal(np.sort(array[places])[:wanted], np.sort(array)[:wanted])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_map_answers_around_a_place_with_the_distances_of_exact_search(precision: str, tmp_path: Path) -> None:
    build_map(tmp_path / "m", unit_rows(300), "model", positions(300), precision)
    geomap = load_map(tmp_path / "m")
    query = unit_rows(3, seed=5)
    everything = geomap.search(query, 300)
    around = geomap.search_near(query, 300, 0.0, 0.0, 400.0)
    near = np.linalg.norm(geomap.positions_m[:, :2], axis=1) <= 400.0
    assert 0 < near.sum() == around.indices.shape[1] < 300
    for row in range(3):
        chosen = near[everything.indices[row]]
        np.testing.assert_array_equal(around.indices[row], everything.indices[row][chosen])
        np.testing.assert_array_equal(around.distances[row], everything.distances[row][chosen])
    assert geomap.search_near(query[0], 5, 5000.0, 5000.0, 10.0).indices.shape == (1, 0)


def test_what_is_no_region_is_refused(tmp_path: Path) -> None:
    geomap = build_map(tmp_path / "m", unit_rows(20), "model", positions(20))
    for place in ((np.nan, 0, 10), (0, np.inf, 10), (0, 0, 0), (0, 0, -1), (0, 0, np.nan), (0, 0, 1e9), (1e300, 0, 1)):
        with pytest.raises(DataError, match="no circle"):
            geomap.search_near(unit_rows(1), 5, *place)
    with pytest.raises(DataError, match="at least 1"):
        geomap.search_near(unit_rows(1), 0, 0.0, 0.0, 10.0)
    with pytest.raises(MapError, match="length 16"):
        geomap.search_near(unit_rows(1, 17), 5, 0.0, 0.0, 10.0)
