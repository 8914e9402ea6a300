"""Export in several precisions: what the bundle holds, what is measured, and when int8 may be the default."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_export import trained
from tiny import make_place_set

from training import export
from vgssl_core.errors import ConfigError
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.models.precisions import check_default


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place_set(tmp_path_factory.mktemp("places"), count=10, queries=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, places: Path) -> Path:
    return trained(places, tmp_path_factory.mktemp("runs") / "run", "--descriptor_dim", "8")


def exported(run: Path, out: Path, *more: str) -> int:
    return export.main([str(run), "--out", str(out), *more])


def test_every_precision_is_measured_beside_fp32_and_runs(
    run: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--precision", "fp32", "fp16", "int8", "--data", str(places), "--calibration_images", "6"]
    assert exported(run, tmp_path / "bundle", *asked) == 0
    said = capsys.readouterr().out
    bundle = load_bundle(tmp_path / "bundle")
    assert set(bundle.precisions) == {"fp32", "fp16", "int8"} == set(bundle.recall)
    assert bundle.default_precision == "fp32"
    for name, recall in bundle.recall.items():
        assert set(recall) == {"1", "5", "10"} and f"{name}: R@1 {recall['1']:.1f}" in said
    images, expected = bundle.samples()
    assert "int8" in open_embedder(bundle, "onnxruntime", 1, precision="int8").name
    int8 = open_embedder(bundle, "onnxruntime", 1, precision="int8").embed(images)
    assert 0.9 < (int8 * expected).sum(axis=1).min() < 0.999999


def test_a_precision_that_was_not_asked_for_is_not_there(run: Path, tmp_path: Path) -> None:
    assert exported(run, tmp_path / "bundle", "--precision", "fp16") == 0
    assert set(load_bundle(tmp_path / "bundle").precisions) == {"fp32", "fp16"}
    assert not list((tmp_path / "bundle").glob("*int8*"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--default_precision", "fp16"], "needs it among --precision"),
        (["--precision", "int8", "--default_precision", "int8"], "give --data"),
        (["--precision", "int8", "--calibration", "nowhere"], "--calibration nowhere is no folder"),
        (["--precision", "int8", "--calibration_images", "0"], "give at least 1"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, asked: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(run, tmp_path / "bundle", *asked) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "bundle").exists()


def test_int8_is_the_default_only_where_it_costs_a_point_at_most() -> None:
    check_default("int8", {"fp32": {1: 60.0}, "int8": {1: 59.0}})
    check_default("fp16", {})
    with pytest.raises(ConfigError, match=r"costs 1\.1 points of Recall@1 \(60\.0 to 58\.9\)"):
        check_default("int8", {"fp32": {1: 60.0}, "int8": {1: 58.9}})
    with pytest.raises(ConfigError, match="give --data"):
        check_default("int8", {"fp32": {1: 60.0}})
