"""The program localize, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest
import yaml
from tiny import DATUM, make_bundle, make_place_set, picture

import training.build_map
import training.localize
import training.vgssl
from vgssl_core import geodesy
from vgssl_core.sealed import SEAL, write_sealed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a geo-referenced map, a local map, and a photo of their fourth place."""
    folder = tmp_path_factory.mktemp("localize")
    make_bundle(folder / "bundle")
    for name, local in (("map", False), ("local", True)):
        places = make_place_set(folder / f"{name}_places", local=local)
        arguments = ["--bundle", folder / "bundle", "--data", places, "--out", folder / name]
        assert training.build_map.main([str(argument) for argument in arguments]) == 0
    cv2.imwrite(str(folder / "photo.jpg"), picture(3, 320, 240)[..., ::-1])
    return folder


def localize(*arguments: object) -> int:
    return training.localize.main([str(argument) for argument in arguments])


def test_a_photo_is_found_with_the_maps_own_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.vgssl.main(["localize", "--map", str(folder / "map"), str(folder / "photo.jpg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    latitude, longitude, _ = DATUM.to_wgs84([90.0, 0.0, 0.0])
    rank, given_latitude, given_longitude, heading, *_ = lines[1].split()
    assert (rank, heading) == ("0", "90°")
    assert geodesy.horizontal_distance_m(float(given_latitude), float(given_longitude), latitude, longitude) < 1
    assert any("not calibrated" in line for line in lines)
    assert lines[-1].startswith(f"https://www.openstreetmap.org/?mlat={float(latitude):.5f}")


def test_json_holds_everything_as_plain_values(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert localize("--map", folder / "map", folder / "photo.jpg", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    best = content["hypotheses"][0]
    assert best["rank"] == 0  # As in the table and in the node's messages.
    assert best["heading_deg"] == pytest.approx(90, abs=0.01)
    assert best["altitude_m"] == pytest.approx(200, abs=0.1)
    assert 0 < best["probability"] <= 1
    assert content["accepted"] == (best["probability"] >= content["threshold"])
    assert content["is_calibrated"] is False
    assert len(best["covariance"]) == 4
    assert len(content["matches"]) == 6
    assert "@0457089.85@" in content["matches"][0]["source"]
    assert localize("--map", folder / "local", folder / "photo.jpg", "--json", "true") == 0
    local = json.loads(capsys.readouterr().out)["hypotheses"][0]
    assert (local["latitude_deg"], local["altitude_m"]) == (None, None)
    assert local["position_m"][0] == pytest.approx(90)


def test_a_local_map_gives_metres(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert localize("--map", folder / "local", folder / "photo.jpg", "--localizer.max_hypotheses", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[1:3] == ["x", "m"]
    assert lines[1].split()[1:3] == ["90.00", "0.00"]
    assert lines[3].startswith("best match")
    assert "openstreetmap" not in "".join(lines)


def test_what_cannot_be_localized_is_one_clear_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path / "other", seed=1).path
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:900])
    lost = Path(shutil.copytree(folder / "map", tmp_path / "lost" / "map"))
    manifest = yaml.safe_load((lost / "map.yaml").read_text())
    manifest["bundle"]["path"] = "/nowhere/bundle"
    del manifest[SEAL]
    write_sealed(lost / "map.yaml", manifest)
    photo = folder / "photo.jpg"
    cases = {
        "Cannot read image": ("--map", folder / "map", tmp_path / "missing.jpg"),
        "empty.jpg does not decode": ("--map", folder / "map", tmp_path / "empty.jpg"),
        "cut.jpg does not decode": ("--map", folder / "map", tmp_path / "cut.jpg"),
        "There is no map": ("--map", tmp_path / "missing", photo),
        "model bundle": ("--map", folder / "bundle", photo),
        "There is no model bundle": ("--map", folder / "map", "--bundle", folder / "map", photo),
        "cannot be compared": ("--map", folder / "map", "--bundle", other, photo),
        "no longer at": ("--map", lost, photo),
        "it must be positive": ("--map", folder / "map", photo, "--localizer.k", 0),
    }
    for words, arguments in cases.items():
        assert localize(*arguments) == 1, words
        problem = capsys.readouterr().err
        assert "Traceback" not in problem
        line = [text for text in problem.splitlines() if text.startswith("error: ")]
        assert len(line) == 1
        assert words in line[0]
