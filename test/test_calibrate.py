"""The program that calibrates a map: from queries with truth to fixes that can be trusted, and its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny import DATUM, make_place_set, picture

from training import calibrate, evaluate
from vgssl_core import geodesy
from vgssl_core.bags.from_places import write_places_bag
from vgssl_core.evaluation.calibrated import judged
from vgssl_core.geomap import build_map, load_map
from vgssl_core.geomap.map_images import from_place_set
from vgssl_core.imaging import Image
from vgssl_core.inference import embed_images, open_embedder
from vgssl_core.localization import Localizer
from vgssl_core.places import read_place_set
from vgssl_core.places.names import PlaceName

STREETS, STEP_M = 70, 60.0


def seen_again(number: int, random: np.random.Generator) -> Image:
    """What the map shows at a place, on another day."""
    other = picture(number).astype(np.float64) * random.uniform(0.8, 1.2) + random.normal(0, 12, (48, 64, 3))
    return np.clip(other, 0, 255).astype(np.uint8)


def write_streets(root: Path, first: int, queries: int = 2, strangers: int = 12, north_m: float = 0.0) -> Path:
    """A place set: each place once in the database, some times in the queries, and views that the map does not have.

    Args:
        root: Folder.
        first: Number of the first picture: other streets begin elsewhere.
        queries: Of each place.
        strangers: Queries that show something new, taken where the map has images.
        north_m: Where the streets lie.
    """
    random = np.random.default_rng(first)
    for part in ("database", "queries"):
        (root / "images" / part).mkdir(parents=True)
    for place in range(STREETS):
        _write(root / "images" / "database", picture(first + place), place * STEP_M, north_m)
        for _ in range(queries):
            aside = random.uniform(-4, 4, 2)
            shown = seen_again(first + place, random)
            _write(root / "images" / "queries", shown, place * STEP_M + aside[0], north_m + aside[1])
    for stranger in range(strangers):
        _write(root / "images" / "queries", picture(90_000 + first + stranger), stranger * 300.0 + 1.0, north_m + 9.0)
    return root


def _write(folder: Path, image: Image, east_m: float, north_m: float) -> None:
    latitude, longitude, altitude = map(float, DATUM.to_wgs84([east_m, north_m, 0.0]))
    zone, letter = geodesy.utm_zone(latitude, longitude)
    east, north = geodesy.wgs84_to_utm(latitude, longitude, zone, letter)
    name = PlaceName(float(east), float(north), zone, letter, heading_deg=90.0, altitude_m=altitude).format()
    cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streets(tmp_path_factory.mktemp("calibrate") / "streets", 0)


@pytest.fixture(scope="module")
def other_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streets(tmp_path_factory.mktemp("calibrate") / "elsewhere", 10_000, north_m=50_000.0)


@pytest.fixture(scope="module")
def pristine_map(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, streets: Path) -> Path:
    embedder, images = open_embedder(tiny_bundle), from_place_set(streets)
    embedded = embed_images(embedder, images.items)
    folder = tmp_path_factory.mktemp("calibrate") / "map"
    build_map(folder, embedded.descriptors, embedder.model_id, images.positions, bundle_path=tiny_bundle)
    return folder


@pytest.fixture
def built_map(pristine_map: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine_map, tmp_path / "map"))


def run(built_map: Path, tiny_bundle: Path, *arguments: Any) -> int:
    given = ["--map", built_map, "--bundle", tiny_bundle, *arguments]
    return calibrate.main([str(item) for item in given])


def accepted(built_map: Path, bundle: Path, images: list[Image]) -> int:
    localizer = Localizer(open_embedder(bundle), load_map(built_map))
    assert not localizer.calibration.is_default
    return sum(localizer.localize(image).accepted is not None for image in images)


def test_a_calibrated_map_accepts_what_it_knows_and_not_what_it_does_not(
    tmp_path: Path, built_map: Path, tiny_bundle: Path, streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(built_map, tiny_bundle, "--data", streets, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "asked 152 queries, 152 with a map image within 25 m" in printed
    assert "default threshold" in printed and "cross-validated" in printed and f"stored in {built_map}" in printed
    random = np.random.default_rng(5)
    assert accepted(built_map, tiny_bundle, [seen_again(number, random) for number in range(STREETS)]) > 0.6 * STREETS
    assert accepted(built_map, tiny_bundle, [picture(70_000 + number) for number in range(200)]) <= 2
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["stored"] == load_map(built_map).calibration
    assert metrics["acceptance"]["right"]["percent"] > 97
    assert metrics["false_accepts_unknown_places"]["total"] == 152
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2 and "in force" in page


def test_streets_elsewhere_stand_in_for_the_map_only_where_that_is_asked(
    built_map: Path, tiny_bundle: Path, other_streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(built_map, tiny_bundle, "--data", other_streets) == 1
    message = capsys.readouterr().err
    assert "No database image lies within" in message and "--stand_in" in message
    assert load_map(built_map).calibration is None
    assert run(built_map, tiny_bundle, "--data", other_streets, "--stand_in", "true") == 0
    calibration = load_map(built_map).calibration
    assert calibration is not None and "stand in for the map" in calibration["source"]
    random = np.random.default_rng(6)
    assert accepted(built_map, tiny_bundle, [seen_again(number, random) for number in range(STREETS)]) > 0.6 * STREETS


def test_a_bag_with_truth_calibrates_as_its_images_do(
    tmp_path: Path, built_map: Path, tiny_bundle: Path, streets: Path
) -> None:
    write_places_bag(read_place_set(streets).queries, tmp_path / "drive")
    assert run(built_map, tiny_bundle, "--bag", tmp_path / "drive", "--store", "false", "--out", tmp_path / "bag") == 0
    assert load_map(built_map).calibration is None
    assert run(built_map, tiny_bundle, "--data", streets, "--store", "false", "--out", tmp_path / "set") == 0
    of_bag, of_set = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("bag", "set"))
    assert of_bag["acceptance"]["accepted"] == of_set["acceptance"]["accepted"]
    assert of_bag["stored"]["intercept"] == pytest.approx(of_set["stored"]["intercept"], rel=1e-3)


def test_images_of_the_map_do_not_calibrate_it(
    tmp_path: Path, built_map: Path, tiny_bundle: Path, streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(streets, tmp_path / "leaking"))
    for image in (copied / "images" / "database").iterdir():
        shutil.copy(image, copied / "images" / "queries")
    assert run(built_map, tiny_bundle, "--data", copied, "--store", "false") == 0
    assert f"left out {STREETS} of {STREETS + 152} queries" in capsys.readouterr().out


def test_too_few_queries_are_refused_with_what_to_do(
    tmp_path: Path, built_map: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = make_place_set(tmp_path / "few", count=6, queries=6)
    assert run(built_map, tiny_bundle, "--data", few) == 1
    message = capsys.readouterr().err
    assert "at least 100" in message and "another drive" in message
    assert load_map(built_map).calibration is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no calibration queries"),
        (["--bag", "drive", "--stand_in", "true"], "--stand_in is for --data"),
        (["--data", "places", "--radius_m", "0"], "must be positive"),
        (["--data", "places", "--target_wrong", "1"], "share of the fixes"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_work(
    pristine_map: Path, tiny_bundle: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pristine_map, tiny_bundle, *arguments) == 1
    assert message in capsys.readouterr().err


def test_an_evaluation_holds_the_answers_of_a_map_against_the_truth(
    tmp_path: Path, built_map: Path, tiny_bundle: Path, streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(name: str) -> dict[str, Any]:
        given = ["--bundle", tiny_bundle, "--data", streets, "--map", built_map, "--out", tmp_path / name]
        assert evaluate.main([str(item) for item in given]) == 0
        return json.loads((tmp_path / name / "metrics.json").read_text())

    before = evaluated("before")
    assert "not calibrated" in before["acceptance"]["calibration"]
    assert run(built_map, tiny_bundle, "--data", streets) == 0
    capsys.readouterr()
    after = evaluated("after")
    assert "calibrated on streets/val" in after["acceptance"]["calibration"]
    assert after["calibration"]["ece"] < 0.05 and after["acceptance"]["accepted"]["percent"] > 60
    assert "expected calibration error" in capsys.readouterr().out
    assert (tmp_path / "after" / "report.html").read_text().count("<svg") == 3


def test_every_query_is_judged_by_a_fit_that_had_not_seen_it(tiny_bundle: Path, streets: Path) -> None:
    from vgssl_core.localization.examples import Examples

    count, seen = 150, []
    rng = np.random.default_rng(0)
    query = np.repeat(np.arange(count), 2)
    features = rng.random((2 * count, 5))
    is_known = np.tile([True, False], count)
    nothing = np.zeros(2 * count)
    examples = Examples(query, features, is_known, is_known, nothing, nothing, nothing)

    class Constant:
        threshold, radius_m, source = 0.5, 25.0, "nothing"

        def __init__(self, given: Examples) -> None:
            self.queries = set(given.query.tolist())

        def probabilities(self, asked: np.ndarray) -> np.ndarray:
            rows = [int(np.flatnonzero((features == row).all(axis=1))[0]) for row in asked]
            assert not {int(query[row]) for row in rows} & self.queries
            seen.extend(rows)
            return np.full(len(asked), 0.7)

    result = judged(examples, Constant)  # type: ignore[arg-type]
    assert sorted(seen) == list(range(2 * count))
    assert (len(result.trust.mapped), result.unknown_fixes.total) == (count, count)
