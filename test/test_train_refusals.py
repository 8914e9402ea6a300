"""The training program says in one line what is wrong, before the work, and leaves no run behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_place_set
from train_support import METHODS, MOCO, TINY, TRIPLET, arguments, configuration, make_data, refused

from training import train
from vgssl_core.geopair import build_trainer
from vgssl_core.geopair.effects import check_effects
from vgssl_core.ssl.method import method_module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


@pytest.mark.parametrize("given", [["--lernrate", "1"], ["--options.margin", "1"], ["--lr", "fast"]])
def test_unknown_keys_and_wrong_values_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["--method", "mocov2", "--data", "somewhere", *given])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and "error: " in message and len(message.splitlines()) <= 4


def test_unknown_key_in_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("lernrate: 1\n")
    with pytest.raises(SystemExit):
        train.main(["--config", str(tmp_path / "own.yaml")])
    assert "lernrate" in capsys.readouterr().err


def test_damaged_images_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_place_set(tmp_path / "set", count=8, queries=6)
    for path in sorted((root / "images" / "queries").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:200])
    message = refused([*MOCO, "--data", str(root), *TINY], tmp_path / "run", capsys)
    assert "2 of 6 images cannot be used" in message and str(path) in message


def test_damaged_images_outside_the_memory_are_counted_and_named_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_place_set(tmp_path / "set", count=8, queries=6)
    for path in sorted((root / "images" / "database").iterdir())[:3]:
        path.write_bytes(b"")
    message = refused([*MOCO, "--data", str(root), "--memory_mib", "0", *TINY], tmp_path / "run", capsys)
    assert "3 of 8 images cannot be used" in message and str(path) in message


@pytest.mark.parametrize(
    ("spoil", "message"),
    [("empty", "holds no image"), ("nan", "UTM east is nan"), ("far", "none of the 3 queries"), ("none", "no queries")],
)
def test_sets_that_cannot_be_used_are_refused(
    tmp_path: Path, spoil: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_place_set(tmp_path / "set", count=4, queries=3, local=True)
    images = root / "images"
    for path in list((images / ("database" if spoil == "empty" else "queries")).iterdir()):
        if spoil in ("empty", "none"):
            path.unlink()
        elif spoil == "far":
            path.rename(path.with_name(path.name.replace("@0000", "@0009", 1)))
        else:
            path.rename(path.with_name("@nan@" + path.name.split("@", 2)[2]))
            break
    assert message in refused([*MOCO, "--data", str(root), *TINY], tmp_path / "run", capsys)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--options.queue_size", "3"], r"4 keys but the queue holds 3"),
        (["--width", "0"], "give both"),
        (["--device", "cuda:77"], "--device cuda:77 is not usable"),
        (["--schedule", "linear"], "--schedule is linear"),
        (["--batch_size", "1"], "batch norm needs at least 2"),
        (["--val", "nowhere"], "nowhere is not a folder"),
        (["--queries_per_epoch", "1"], "--queries_per_epoch 1 make no step of 4 queries"),
        (["--seed", "-1"], "--seed is -1: give 0 or more"),
        (["--warmup_steps", "-1"], "--warmup_steps is -1"),
        (["--max_minutes", "-1"], "--max_minutes is -1"),
        (["--max_minutes", ".nan"], "--max_minutes is nan"),
        (["--queries_per_epoch", "-5"], "--queries_per_epoch is -5"),
        (["--augment.crop_area", "[0.0, 1.0]"], "augment.crop_area is (0.0, 1.0)"),
        (["--augment.crop_ratio", "[2.0, 1.0]"], "augment.crop_ratio is (2.0, 1.0)"),
        (["--augment.crop_ratio", "[0.0, 1.0]"], "augment.crop_ratio is (0.0, 1.0)"),
        (["--augment.flip", "1.5"], "augment.flip is 1.5"),
        (["--augment.swap", "-0.5"], "augment.swap is -0.5"),
        (["--accumulate", "4"], "make no step of 16 queries"),
        (["--overfit", "1"], "--overfit is 1"),
        (["--init", "nowhere"], "nowhere"),
        (["--head", "pca"], "train with --head none, then export with --pca LENGTH"),
        (["--init", "a", "--weights", "b"], "--init a --weights b: give one of them"),
        (["--projected", "true"], "has no projector: give it layers with --options.projector_layers, or"),
        (["--pairs.reuse_steps", "2", "--augment.swap", "0.5"], "pairs.reuse_steps needs --augment.swap 0"),
        (["--max_cpu_minutes", "-1"], "--max_cpu_minutes is -1"),
        (["--options.temperature", "0"], "options.temperature is 0.0: give a number above 0"),
        (["--options.momentum", "1"], "options.momentum is 1.0"),
        (["--options.queue_size", "0"], "options.queue_size is 0: give at least 1"),
        (["--options.queue_fraction", "1.5"], "options.queue_fraction is 1.5"),
        (["--options.queue_fraction", "0.25"], "the queue holds 3, because --options.queue_fraction is 0.25"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    data: Path, tmp_path: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused([*MOCO, "--data", str(data), *TINY, *given], tmp_path / "run", capsys)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--options.margin", "-1"], "options.margin is -1.0: give 0 or more"),
        (["--options.negatives", "0"], "options.negatives is 0: give at least 1"),
        (["--projected", "true"], "method triplet has no projector: set --projected false"),
        (["--queries_per_epoch", "3"], "--queries_per_epoch 3 make no step of 4 queries"),
    ],
)
def test_settings_of_the_triplet_loss_that_cannot_work_are_refused(
    data: Path, tmp_path: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused([*TRIPLET, "--data", str(data), *TINY, *given], tmp_path / "run", capsys)


@pytest.mark.parametrize(
    ("method", "negatives", "message"),
    [
        ("simclr", [], "but one is wanted: lower --pairs.negative_radius_m."),
        ("simclr", ["--pairs.mining_database", "3"], "but one is wanted: raise --pairs.mining_database."),
        ("triplet", [], "but 2 negatives are wanted: lower --options.negatives, or lower --pairs.negative_radius_m."),
    ],
)
def test_too_few_negatives_are_refused_with_settings_that_the_method_has(
    data: Path, tmp_path: Path, method: str, negatives: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(method, data, "--pairs.negative_radius_m", "1e6", *negatives)
    assert message in refused(given, tmp_path / "run", capsys)


def test_patience_without_validation_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_place_set(tmp_path / "set", count=8, queries=6)
    message = refused([*arguments("byol", root), "--early_stop", "2"], tmp_path / "run", capsys)
    assert "--early_stop 2 counts validations" in message and "--val DIR, or --early_stop 0" in message


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_of_false_negatives_is_refused_where_a_batch_has_no_negatives(
    data: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(method, data, "--pairs.mask_false_negatives", "true")
    if method in ("simclr", "mocov2", "multi_similarity"):
        build_trainer(configuration([*given, "--out", str(tmp_path / "run")]))
    else:
        message = refused(given, tmp_path / "run", capsys)
        assert f"has no effect: in method {method}" in message and "Set it to false" in message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["--method", "mocov2", "--config", "paper/ablation/projector_4096.yaml"],
            "--options.projector_dim 4096 has no",
        ),
        (
            ["--config", "paper/v1/simclr.yaml", "--config", "paper/ablation/descriptor_512.yaml"],
            "--descriptor_dim 512",
        ),
        (["--method", "simclr", "--config", "paper/ablation/projector_4096.yaml"], ""),
        (["--method", "triplet", "--config", "paper/ablation/descriptor_512.yaml"], ""),
        (["--config", "paper/v1/mocov2.yaml"], ""),
    ],
)
def test_an_axis_of_the_ablations_without_effect_is_told(
    files: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration([*files, "--data", "somewhere"])
    check_effects(config, method_module(config.method).Method, validated=True, own_streets=False)
    assert message in caplog.text and bool(message) == bool(caplog.records)


def test_own_streets_with_negatives_in_the_batch_are_advised_to_mask(caplog: pytest.LogCaptureFixture) -> None:
    for method, mask, advised in (("mocov2", "false", 1), ("mocov2", "true", 0), ("byol", "false", 0)):
        config = configuration(["--method", method, "--data", "d", "--pairs.mask_false_negatives", mask])
        caplog.clear()
        with caplog.at_level("INFO"):
            check_effects(config, method_module(method).Method, validated=True, own_streets=True)
        assert caplog.text.count("consider --pairs.mask_false_negatives true") == advised


def test_a_run_in_use_and_changed_settings_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TRIPLET, "--data", str(data), *TINY, "--out", str(tmp_path / "run"), "--max_minutes", "1e-9"]
    assert train.main(arguments) == 0
    assert train.main(arguments) == 1
    assert "holds a run already: give another --out, or go on with --resume true" in capsys.readouterr().err
    assert train.main([*arguments, "--resume", "true", "--lr", "0.1"]) == 1
    assert "was trained with lr 0.001, not 0.1" in capsys.readouterr().err
