"""From matches to hypotheses, and the localizer that every program calls."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from tiny import DATUM, make_bundle, make_place_set, picture

from vgssl_core import geodesy
from vgssl_core.errors import BundleError, ConfigError, DataError, MapError
from vgssl_core.geomap import GeoMap, MapPositions, build_map
from vgssl_core.imaging import read_image
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.localization import (
    DEFAULT,
    Hypothesis,
    Localization,
    Localizer,
    LocalizerConfig,
    Region,
    is_blank,
    open_localizer,
)
from vgssl_core.localization.hypotheses import UNKNOWN_YAW_VARIANCE, cluster_matches, match_weights, pose_of

CONFIG = LocalizerConfig()


class Still:
    """An embedder that gives a ready descriptor, for maps whose descriptors are made by hand."""

    model_id, dimension = "still", 4
    preprocessing = None

    def __init__(self, descriptor: NDArray[np.float32] | None = None) -> None:
        self.descriptor = descriptor

    def embed(self, images: list) -> NDArray[np.float32]:
        assert self.descriptor is not None
        return np.stack([self.descriptor] * len(images))


def make_map(folder: Path, planar: list, heading: list | None = None, georeferenced: bool = True, **changes) -> GeoMap:
    """A map whose image i lies at ``planar[i]`` (metres from DATUM) with a random descriptor."""
    count = len(planar)
    rows = np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    enu = np.concatenate([np.asarray(planar, float), np.zeros((count, 1))], axis=1)
    latitude, longitude, altitude = DATUM.to_wgs84(enu)
    if not georeferenced:
        latitude = longitude = altitude = np.full(count, np.nan)
    values = {
        "latitude_deg": latitude,
        "longitude_deg": longitude,
        "altitude_m": altitude,
        "heading_deg": np.full(count, np.nan) if heading is None else np.asarray(heading, float),
        "stamp_ns": np.arange(count),
        "source": tuple(str(number) for number in range(count)),
        "planar_m": enu[:, :2],
    }
    return build_map(folder, rows, "still", MapPositions(**(values | changes)))


def localize_all(geomap: GeoMap, distances: list[float], config: LocalizerConfig = CONFIG) -> Localization:
    """Hypotheses when the map's images, in the order of their sources, match at the given distances."""
    order = np.argsort(distances, kind="stable")
    index_of = {source: index for index, source in enumerate(geomap.sources)}
    indices = np.array([index_of[str(number)] for number in order])
    return Localizer(Still(), geomap, config).localize_matches(indices, np.float32(distances)[order])


# --- weights and clusters


def test_a_match_weighs_by_its_cosine_relative_to_the_spread_of_the_list() -> None:
    distances = np.array([0.2, 0.6, 1.0, 1.4])
    cosine = 1 - distances**2 / 2
    softmax = np.exp((cosine - cosine[0]) / (0.2 * (cosine[0] - cosine[-1])))
    np.testing.assert_allclose(match_weights(distances, 0.2), softmax, rtol=1e-12)
    assert match_weights(distances, 0.2)[[0, -1]] == pytest.approx([1, np.exp(-5)])
    # A network that holds all its descriptors ten times closer together gives the same weights.
    closer = np.sqrt(2 - 2 * (0.9 + cosine / 10))
    np.testing.assert_allclose(match_weights(closer, 0.2), softmax, rtol=1e-9)
    assert (match_weights(distances, 1e-6) > 0).all()
    np.testing.assert_array_equal(match_weights(np.full(3, 0.7), 0.2), 1)


def test_matches_of_one_place_join_and_outvote_a_single_better_one() -> None:
    planar = np.array([[500.0, 0], [0, 0], [3, 0], [6, 0]])
    clusters = cluster_matches(planar, np.array([1.0, 0.5, 0.5, 0.5]), 12.5, 5)
    assert [cluster.members.tolist() for cluster in clusters] == [[1, 2, 3], [0]]
    assert [cluster.score for cluster in clusters] == pytest.approx([0.6, 0.4])


def test_equal_clusters_come_in_the_order_of_their_best_match() -> None:
    planar = np.array([[0.0, 0], [100, 0], [200, 0]])
    clusters = cluster_matches(planar, np.ones(3), 12.5, 5)
    assert [cluster.members.tolist() for cluster in clusters] == [[0], [1], [2]]


POINTS = arrays(float, st.tuples(st.integers(1, 20), st.just(2)), elements=st.floats(-60, 60))


@given(POINTS, st.integers(0, 1000), st.floats(0.1, 50))
def test_clusters_divide_the_matches_and_stay_within_two_radii(planar: NDArray, seed: int, radius: float) -> None:
    weights = np.random.default_rng(seed).uniform(1e-6, 1, len(planar))
    clusters = cluster_matches(planar, weights, radius, 100)
    assert sorted(np.concatenate([cluster.members for cluster in clusters])) == list(range(len(planar)))
    assert sum(cluster.score for cluster in clusters) == pytest.approx(1)
    scores = [cluster.score for cluster in clusters]
    assert scores == sorted(scores, reverse=True)
    for cluster in clusters:
        members = planar[cluster.members]
        assert np.linalg.norm(members[:, None] - members[None], axis=-1).max() <= 2 * radius + 1e-6
    assert [c.score for c in cluster_matches(planar, weights, radius, 2)] == scores[:2]


# --- poses


@given(
    POINTS,
    st.integers(0, 1000),
    st.floats(0, 30),
    st.sampled_from(["known", "unknown", "some"]),
)
def test_covariances_are_finite_symmetric_positive_definite_and_floored(
    planar: NDArray, seed: int, spacing: float, what: str
) -> None:
    rng = np.random.default_rng(seed)
    weights = match_weights(np.sort(rng.uniform(0, 2, len(planar))), rng.choice([1e-4, 0.2, 10]))
    z, yaw = rng.uniform(-50, 50, len(planar)), rng.uniform(-np.pi, np.pi, len(planar))
    if what != "known":
        hidden = np.ones(len(planar), bool) if what == "unknown" else rng.random(len(planar)) < 0.5
        z[hidden], yaw[hidden] = np.nan, np.nan
    position, heading, covariance = pose_of(np.column_stack([planar, z]), yaw, weights, spacing, CONFIG, DEFAULT)
    assert np.isfinite(covariance).all()
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0
    assert np.linalg.eigvalsh(covariance[:2, :2]).min() >= 1.0 + spacing**2 - 1e-6
    assert covariance[3, 3] <= UNKNOWN_YAW_VARIANCE
    assert (position[:2] >= planar.min(0) - 1e-9).all()
    assert (position[:2] <= planar.max(0) + 1e-9).all()
    if what == "unknown":
        assert math.isnan(position[2])
        assert math.isnan(heading)
        assert covariance[2, 2] == 100.0**2
        assert covariance[3, 3] == UNKNOWN_YAW_VARIANCE


def test_the_position_is_the_weighted_mean_and_the_spread_enters_the_covariance() -> None:
    positions = np.array([[0.0, 0, 10], [8, 0, 20]])
    position, _, covariance = pose_of(positions, np.zeros(2), np.array([3.0, 1.0]), 0.0, CONFIG, DEFAULT)
    np.testing.assert_allclose(position, [2, 0, 12.5])
    # Effective number of matches 1 / (.75² + .25²) = 1.6; weighted spread 12; imagined match 6.25²; floor 1.
    assert covariance[0, 0] == pytest.approx((1.6 * 12 + 6.25**2) / 2.6 + 1)
    assert covariance[1, 1] == pytest.approx(6.25**2 / 2.6 + 1)


def test_headings_average_over_the_circle_and_opposite_ones_are_unknown() -> None:
    def of(*degrees: float) -> tuple[float, float]:
        yaw = np.radians(np.array(degrees))
        _, mean, covariance = pose_of(np.zeros((len(yaw), 3)), yaw, np.ones(len(yaw)), 0.0, CONFIG, DEFAULT)
        return math.degrees(mean), covariance[3, 3]

    mean, near = of(170.0, -170.0)
    assert abs(mean) == pytest.approx(180)
    mean, opposite = of(0.0, 180.0)
    assert math.isnan(mean)
    assert opposite == UNKNOWN_YAW_VARIANCE
    mean, alone = of(30.0)
    assert mean == pytest.approx(30)
    mean, many = of(*[30.0] * 20)
    assert many < near < opposite
    assert many < alone < opposite
    assert of(*[30.0] * 5000)[1] == pytest.approx(math.radians(5.0) ** 2)


def test_more_agreeing_matches_claim_more() -> None:
    sigma = [
        pose_of(np.zeros((count, 3)), np.zeros(count), np.ones(count), 1.0, CONFIG, DEFAULT)[2][0, 0]
        for count in (1, 2, 5, 20)
    ]
    assert sigma == sorted(sigma, reverse=True)


# --- localizer


def test_a_hypothesis_lies_where_its_images_do(tmp_path: Path) -> None:
    geomap = make_map(tmp_path / "m", [[0, 0], [4, 0], [300, 40]], heading=[80, 100, 270])
    result = localize_all(geomap, [0.5, 0.5, 0.6])
    best = result.hypotheses[0]
    enu = DATUM.to_enu(best.latitude_deg, best.longitude_deg, best.altitude_m)
    np.testing.assert_allclose(enu, [2, 0, 0], atol=1e-3)
    assert geodesy.yaw_to_compass_deg(best.yaw_rad) == pytest.approx(90, abs=1e-3)
    assert (best.rank, best.support) == (0, 2)
    assert 0 <= best.probability <= 1
    weights = match_weights(np.float64([0.5, 0.5, 0.6]), 0.2)
    assert best.score == pytest.approx(weights[:2].sum() / weights.sum(), rel=1e-5)
    assert [item.rank for item in result.hypotheses] == [0, 1]
    assert sum(item.score for item in result.hypotheses) == pytest.approx(1)
    assert best.sigma_m == pytest.approx(math.sqrt(np.linalg.eigvalsh(best.covariance[:2, :2])[-1]))


def test_a_local_map_gives_positions_without_latitude(tmp_path: Path) -> None:
    result = localize_all(make_map(tmp_path / "m", [[5, 7], [900, 7]], georeferenced=False), [0.1, 1.0])
    best = result.hypotheses[0]
    np.testing.assert_allclose(best.position_m[:2], [5, 7])
    assert all(math.isnan(value) for value in (best.latitude_deg, best.longitude_deg, best.altitude_m, best.yaw_rad))
    assert np.isfinite(best.covariance).all()


def test_unknown_altitude_is_nan_and_the_rest_is_known(tmp_path: Path) -> None:
    geomap = make_map(tmp_path / "m", [[0, 0], [4, 0]], altitude_m=np.full(2, np.nan))
    best = localize_all(geomap, [0.1, 0.1]).hypotheses[0]
    assert math.isnan(best.altitude_m)
    assert math.isnan(best.position_m[2])
    assert geodesy.horizontal_distance_m(best.latitude_deg, best.longitude_deg, *DATUM.to_wgs84([2.0, 0, 0])[:2]) < 0.01


def test_no_more_hypotheses_than_asked_for(tmp_path: Path) -> None:
    geomap = make_map(tmp_path / "m", [[100 * number, 0] for number in range(8)])
    for limit in (1, 3, 20):
        result = localize_all(geomap, [0.5] * 8, LocalizerConfig(max_hypotheses=limit))
        assert len(result.hypotheses) == min(limit, 8)


def assert_equal(some: Sequence[Hypothesis], others: Sequence[Hypothesis]) -> None:
    for a, b in zip(some, others, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


@given(seed=st.integers(0, 10**6))
def test_the_same_query_gives_the_same_answer(seed: int, shared_map: GeoMap) -> None:
    descriptor = np.random.default_rng(seed).standard_normal(4).astype(np.float32)
    descriptor /= np.linalg.norm(descriptor)
    localizer = Localizer(Still(descriptor), shared_map)
    first, second = localizer.localize(picture(0)), localizer.localize_descriptor(descriptor)
    third = localizer.localize_matches(first.indices, first.distances)
    for other in (second, third):
        assert_equal(first.hypotheses, other.hypotheses)
    assert set(first.timings_ms) == {"embed", "search", "hypotheses"}
    assert set(third.timings_ms) == {"hypotheses"}
    assert all(0 < item.score <= 1 for item in first.hypotheses)
    assert len(first.indices) == min(CONFIG.k, len(shared_map))


@pytest.fixture(scope="module")
def shared_map(tmp_path_factory: pytest.TempPathFactory) -> GeoMap:
    planar = np.random.default_rng(3).uniform(-200, 200, (60, 2))
    return make_map(tmp_path_factory.mktemp("map") / "m", planar.tolist(), heading=list(range(60)))


@pytest.mark.parametrize("name", ["k", "cluster_radius_m", "max_hypotheses", "temperature", "position_floor_m"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_settings_that_cannot_work_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        LocalizerConfig(**{name: value})


def test_descriptors_that_are_no_numbers_or_too_long_are_refused(shared_map: GeoMap) -> None:
    localizer = Localizer(Still(), shared_map)
    with pytest.raises(DataError, match="finite"):
        localizer.localize_descriptor(np.full(4, np.nan, np.float32))
    with pytest.raises(MapError, match="length 4"):
        localizer.localize_descriptor(np.zeros(5, np.float32))


# --- a prior place


def test_only_what_lies_in_the_region_is_searched(shared_map: GeoMap) -> None:
    localizer = Localizer(Still(), shared_map)
    descriptor = shared_map.descriptors(slice(0, 1))[0]
    away = -shared_map.positions_m[0, :2]
    region = Region(*away, 120.0)
    found = localizer.localize_descriptor(descriptor, region)
    near = np.linalg.norm(shared_map.positions_m[:, :2] - away, axis=1) <= 120.0
    assert not near[0]
    assert near[found.indices].all()
    everything = shared_map.search(descriptor, len(shared_map)).indices[0]
    np.testing.assert_array_equal(found.indices, everything[near[everything]][: CONFIG.k])
    assert all(np.linalg.norm(item.position_m[:2] - away) <= 120.0 for item in found.hypotheses)
    assert found.accepted is None
    localizer.embedder.descriptor = descriptor
    assert_equal(localizer.localize(picture(0), region).hypotheses, found.hypotheses)


def test_a_region_without_images_gives_no_hypothesis(shared_map: GeoMap) -> None:
    found = Localizer(Still(), shared_map).localize_descriptor(
        shared_map.descriptors(slice(0, 1))[0], Region(1e4, 0.0, 5.0)
    )
    assert (found.hypotheses, found.accepted, len(found.indices)) == ((), None, 0)


@pytest.mark.parametrize(
    "values", [(math.nan, 0, 1), (0, math.inf, 1), (0, 0, 0), (0, 0, -1), (0, 0, 1e9), (1e9, 0, 1)]
)
def test_what_is_no_region_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="region"):
        Region(*values)


# --- frames that show nothing


@pytest.mark.parametrize("size", [(64, 48), (320, 240), (640, 194), (640, 480)])
def test_black_noise_and_bare_skies_show_nothing_and_pictures_do(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    sky = np.linspace([90, 140, 230], [200, 220, 250], height)[:, None] + np.zeros((1, width, 1))
    blank = {
        "black": np.zeros((height, width, 3)),
        "white": np.full((height, width, 3), 255),
        "dark current": rng.poisson(2, (height, width, 3)),
        "colour noise": rng.integers(0, 256, (height, width, 3)),
        "grey noise": rng.integers(0, 256, (height, width, 1)) + np.zeros((1, 1, 3)),
        "snow": 255 * rng.integers(0, 2, (height, width, 1)) + np.zeros((1, 1, 3)),
        "sky": sky + rng.normal(0, 3, sky.shape),
    }
    assert [name for name, image in blank.items() if not is_blank(np.clip(image, 0, 255).astype(np.uint8))] == []
    for seed in range(20):
        dark = (picture(seed, width, height) * 0.2).astype(np.uint8)
        assert not is_blank(picture(seed, width, height))
        assert not is_blank(dark)


def test_real_frames_are_not_taken_for_blank(shared_data: Path) -> None:
    folders = ("kitti00_loop/images/queries", "nordland64/val/images/queries", "stromovka_seasons/images/queries")
    for folder in folders:
        files = sorted((shared_data / folder).iterdir())[::25]
        assert not any(is_blank(read_image(file)) for file in files)


def test_a_blank_frame_is_never_accepted_whatever_it_matches(shared_map: GeoMap) -> None:
    descriptor = shared_map.descriptors(slice(5, 6))[0]
    localizer = Localizer(Still(descriptor), shared_map)
    seen, blank = localizer.localize(picture(0)), localizer.localize(np.zeros((48, 64, 3), np.uint8))
    assert (seen.is_blank, blank.is_blank) == (False, True)
    assert seen.accepted is seen.hypotheses[0]
    assert blank.accepted is None
    assert {item.probability for item in blank.hypotheses} == {0.0}
    assert sorted(item.score for item in blank.hypotheses) == sorted(item.score for item in seen.hypotheses)


# --- map and bundle together


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder with a bundle and a map of a street of six pictures."""
    from vgssl_core.geomap.map_images import from_place_set
    from vgssl_core.inference import embed_images

    make_bundle(tmp_path / "bundle")
    images = from_place_set(make_place_set(tmp_path / "places"))
    embedder = open_embedder(tmp_path / "bundle")
    embedded = embed_images(embedder, images.items)
    build_map(
        tmp_path / "map", embedded.descriptors, embedder.model_id, images.positions, bundle_path=tmp_path / "bundle"
    )
    return tmp_path


def test_a_picture_of_the_street_is_found_where_it_was_taken(built: Path) -> None:
    localizer = open_localizer(built / "map", threads=1)
    for number in range(6):
        best = localizer.localize(picture(number, 320, 240)).hypotheses[0]
        latitude, longitude, _ = DATUM.to_wgs84([30.0 * number, 0, 0])
        assert geodesy.horizontal_distance_m(best.latitude_deg, best.longitude_deg, latitude, longitude) < 1
        assert geodesy.yaw_to_compass_deg(best.yaw_rad) == pytest.approx(90, abs=0.01)


def test_what_a_frame_may_be_decoded_to_is_the_networks_input(built: Path) -> None:
    assert open_localizer(built / "map", threads=1).least_size == (32, 24)


def test_the_bundle_is_found_by_the_map_also_when_both_have_moved(built: Path) -> None:
    moved = built / "moved"
    moved.mkdir()
    for name in ("map", "bundle"):
        shutil.move(built / name, moved / name)
    assert open_localizer(moved / "map").embedder.model_id == load_bundle(moved / "bundle").model_id
    shutil.move(moved / "bundle", moved / "elsewhere")
    with pytest.raises(BundleError, match=r"no longer at.*--bundle"):
        open_localizer(moved / "map")
    assert len(open_localizer(moved / "map", moved / "elsewhere").geomap) == 6


def test_a_map_without_a_remembered_bundle_asks_for_one(tmp_path: Path) -> None:
    make_map(tmp_path / "m", [[0, 0]])
    with pytest.raises(BundleError, match="names none"):
        open_localizer(tmp_path / "m")


def test_a_map_of_another_model_is_refused_with_both_names(built: Path) -> None:
    other = make_bundle(built / "other", seed=1)
    own = load_bundle(built / "bundle")
    with pytest.raises(MapError, match=f"{own.model_id[:16]}.*{other.model_id[:16]}"):
        open_localizer(built / "map", built / "other")
    with pytest.raises(MapError, match="model"):
        Localizer(Still(), open_localizer(built / "map").geomap)


def test_localizing_needs_neither_torch_nor_ros(built: Path) -> None:
    code = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'timm', 'torchvision', 'rclpy', 'faiss', 'openvino', 'onnx'):\n"
        "            raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'faiss' else find(name, *a)\n"
        "import training.build_map, training.localize\n"
        "folder = sys.argv[1]\n"
        "arguments = ['--bundle', folder + '/bundle', '--data', folder + '/places', '--out', folder + '/second']\n"
        "assert training.build_map.main(arguments) == 0\n"
        "image = sys.argv[2]\n"
        "assert training.localize.main(['--map', folder + '/second', image]) == 0\n"
    )
    image = next((built / "places" / "images" / "database").iterdir())
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(built), str(image)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "exact, numpy" in done.stdout
    assert "openstreetmap" in done.stdout
