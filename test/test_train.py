"""The training program: runs, resumes exactly after a kill, and says what is wrong."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import SOAK
from tiny import make_place_set, picture

from training import train
from vgssl_core.errors import ConfigError, DataError
from vgssl_core.geopair import TrainConfig, build_trainer, load_run
from vgssl_core.geopair.run_folder import load_checkpoint
from vgssl_core.geopair.trainer import Trainer
from vgssl_core.resources import config_file

TINY = [
    *("--pretrained", "false", "--backbone", "test_resnet", "--descriptor_dim", "8", "--width", "32", "--height", "32"),
    *("--batch_size", "4", "--lr", "1e-3", "--epochs", "3", "--val_every", "1", "--workers", "1"),
    *("--pairs.refresh_queries", "8"),
]
MOCO = ["--method", "mocov2", "--options.queue_size", "8"]
TRIPLET = ["--method", "triplet", "--options.negatives", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places")
    make_place_set(root, count=14, queries=12, split="train")
    return make_place_set(root, count=6, queries=5, split="val")


def configuration(given: list[str]) -> TrainConfig:
    return train._configuration(given)[0]


def state(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "last.pt")


def same(a: object, b: object) -> bool:
    """Equal to the last bit, through all containers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("method", [MOCO, TRIPLET], ids=["mocov2", "triplet"])
def test_a_training_leaves_a_run_that_loads(
    data: Path, tmp_path: Path, method: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train.main([*method, "--data", str(data), "--out", str(run), *TINY]) == 0
    printed = capsys.readouterr().out
    assert "12 pairs (0 queries without a positive)" in printed and "best on validation: R@1 " in printed
    network, preprocessing, manifest = load_run(run)
    assert (preprocessing.width, preprocessing.height) == (32, 32)
    assert manifest["method"] == method[1] and manifest["data"]["pairs"] == 12 and manifest["versions"]["torch"]
    assert not network.training and network(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] and all(0 <= float(row["R@5"]) <= 100 for row in rows)
    assert list(run.glob("events.out.tfevents.*")) and len(list((run / "samples").iterdir())) > 1
    best = load_checkpoint(run / "best.pt")
    assert best["recall"][5] == max(row_recall["R@5"] for row_recall in state(run)["progress"]["rows"])


@pytest.mark.parametrize("step", range(1, 10) if SOAK else [2, 5])
@pytest.mark.parametrize("method", [MOCO, TRIPLET], ids=["mocov2", "triplet"])
def test_a_killed_training_resumes_to_the_same_bits(data: Path, tmp_path: Path, method: list[str], step: int) -> None:
    arguments = [*method, "--data", str(data), *TINY, "--augment.jitter", "0.2", "--schedule", "cosine"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert train.main([*arguments, "--out", str(straight)]) == 0
    # The child kills itself with SIGKILL in one of its three epochs of three steps: no time is waited for.
    code = (
        "import os, signal, sys\n"
        "from training import train\n"
        "from vgssl_core.geopair.trainer import Trainer\n"
        "step = Trainer._step\n"
        "def killed(self, batch):\n"
        "    step(self, batch)\n"
        f"    if self.progress.step == {step}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Trainer._step = killed\n"
        "train.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, *arguments, "--out", str(killed)]
    done = subprocess.run(
        command, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Before the end of its first epoch it had nothing to save, and begins anew.
    assert (killed / "last.pt").exists() == (step > 3)
    assert step <= 3 or state(killed)["progress"]["epoch"] == (step - 1) // 3
    assert train.main(["--out", str(killed), "--resume", "--workers", "2"]) == 0
    a, b = state(straight), state(killed)
    assert a["progress"]["step"] == b["progress"]["step"] == 9
    for part in ("method", "optimiser", "rng"):
        assert same(a[part], b[part]), part


@pytest.mark.parametrize("method", [[*MOCO, "--precision", "bf16"], TRIPLET], ids=["mocov2-bf16", "triplet"])
def test_end_of_the_time_saves_validates_and_resumes_to_the_same_bits(
    data: Path, tmp_path: Path, method: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*method, "--data", str(data), *TINY]
    assert train.main([*arguments, "--out", str(tmp_path / "straight")]) == 0
    arguments += ["--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        # In the middle of the second epoch.
        patch.setattr(Trainer, "_time_is_up", lambda self: self.progress.step >= 4)
        assert train.main(arguments) == 0
    saved = state(tmp_path / "run")["progress"]
    assert (saved["step"], saved["epoch"]) == (4, 1) and "R@5" in saved["rows"][-1]
    assert train.main([*arguments, "--resume", "true"]) == 0
    a, b = state(tmp_path / "straight"), state(tmp_path / "run")
    assert b["progress"]["step"] == 9
    for part in ("method", "optimiser", "rng"):
        assert same(a[part], b[part]), part


def test_no_time_at_all_still_leaves_a_whole_run(data: Path, tmp_path: Path) -> None:
    given = [*TRIPLET, "--data", str(data), *TINY, "--out", str(tmp_path / "run"), "--max-minutes", "1e-9"]
    assert train.main(given) == 0
    assert state(tmp_path / "run")["progress"]["step"] == 0
    load_run(tmp_path / "run")


def test_settings_come_in_layers(data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lr: 0.5\nbatch_size: 7\noptions:\n  queue_size: 99\n")
    given = ["--method", "mocov2", "--batch-size", "5", "--data", str(data), "--config", str(tmp_path / "own.yaml")]
    config = configuration(given)
    assert (config.lr, config.batch_size, config.options.queue_size) == (0.5, 5, 99)
    assert (config.backbone, config.width, config.options.temperature) == ("resnet50", 640, 0.07)


def test_defaults_are_the_papers_with_data_and_the_small_ones_without(data: Path, tmp_path: Path) -> None:
    shared = {
        **{"backbone": "resnet50", "stage": -1, "pooling": "gem", "descriptor_dim": 1024, "pretrained": True},
        **{"width": 640, "height": 480, "precision": "fp32", "lr": 1e-5, "weight_decay": 0.0, "schedule": "constant"},
        **{"warmup_steps": 0, "epochs": 200, "val_every": 10, "recall_radius_m": 25.0},
    }
    pairs = {"positive_radius_m": 10.0, "negative_radius_m": 25.0, "positive": "nearest", "refresh_queries": 1000}
    augment = {"crop_area": (0.75, 1.0), "crop_positive": False, "flip": 0.5, "swap": 0.0, "jitter": 0.0}
    own = {
        "mocov2": {"batch_size": 64, "queries_per_epoch": 10000},
        "triplet": {"batch_size": 4, "queries_per_epoch": 5000},
    }
    options = {
        "mocov2": {
            **{"temperature": 0.07, "queue_size": 65536, "momentum": 0.999, "queue_fraction": 0.0},
            **{"symmetric": False, "batch_negatives": False, "key_batch_norm_groups": 1},
        },
        "triplet": {"margin": 0.1, "negatives": 10},
    }
    for method in ("mocov2", "triplet"):
        config = dataclasses.asdict(configuration(["--method", method, "--data", str(data)]))
        assert {key: config[key] for key in shared} == shared
        assert {key: config[key] for key in own[method]} == own[method]
        assert config["pairs"] == {**pairs, "mining_database": 1000}
        assert {key: config["augment"][key] for key in augment} == augment
        assert config["options"] == options[method]
    assert not configuration(["--method", "mocov2"]).pretrained
    (tmp_path / "own.yaml").write_text("lr: 0.5\n")
    config, used = train._configuration(["--config", str(tmp_path / "own.yaml")])
    assert config.pretrained and config.lr == 0.5
    assert used == f"config/train/mocov2.yaml, {tmp_path / 'own.yaml'}"


@pytest.mark.parametrize("name", ["mocov2", "triplet", "small/mocov2", "small/triplet"])
def test_shipped_settings_are_all_known(name: str) -> None:
    path = config_file(f"train/{name}.yaml")
    config = configuration(["--config", str(path), "--data", "somewhere"])
    config.check()
    assert config.method == yaml.safe_load(path.read_text())["method"]
    if name.startswith("small/mocov2"):
        assert config.options.queue_fraction <= 0.25


@pytest.mark.parametrize("given", [["--lernrate", "1"], ["--options.margin", "1"], ["--lr", "fast"]])
def test_unknown_keys_and_wrong_values_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["--method", "mocov2", "--data", "somewhere", *given])
    assert stop.value.code == 2 and "error" in capsys.readouterr().err


def test_unknown_key_in_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("lernrate: 1\n")
    with pytest.raises(SystemExit):
        train.main(["--config", str(tmp_path / "own.yaml")])
    assert "lernrate" in capsys.readouterr().err


def refused(arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a training that must fail with one line, and leave no run behind."""
    assert train.main([*arguments, "--out", str(out)]) == 1
    assert not out.exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


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
        (["--queries_per_epoch", "1"], "--queries_per_epoch 1 make no batch of 4 pairs"),
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
        (["--options.negatives", "0"], "options.negatives is 0: the triplet loss needs at least 1"),
        (["--queries_per_epoch", "3"], "--queries_per_epoch 3 make no batch of 4 pairs"),
    ],
)
def test_settings_of_the_triplet_loss_that_cannot_work_are_refused(
    data: Path, tmp_path: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused([*TRIPLET, "--data", str(data), *TINY, *given], tmp_path / "run", capsys)


def test_a_run_in_use_and_changed_settings_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TRIPLET, "--data", str(data), *TINY, "--out", str(tmp_path / "run"), "--max_minutes", "1e-9"]
    assert train.main(arguments) == 0
    assert train.main(arguments) == 1
    assert "holds a run already: give another --out, or go on with --resume true" in capsys.readouterr().err
    assert train.main([*arguments, "--resume", "true", "--lr", "0.1"]) == 1
    assert "was trained with lr 0.001, not 0.1" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vgssl_core.ssl import triplet

    loss = triplet.triplet_loss
    calls = iter(range(100))
    monkeypatch.setattr(triplet, "triplet_loss", lambda *a: loss(*a) * (float("nan") if next(calls) > 3 else 1))
    run = tmp_path / "run"
    assert train.main([*TRIPLET, "--data", str(data), *TINY, "--out", str(run)]) == 1
    assert "The loss is nan after step" in (message := capsys.readouterr().err) and str(run / "last.pt") in message
    assert all(torch.isfinite(v).all() for v in state(run)["method"].values())


def test_an_error_before_the_first_checkpoint_leaves_the_folder_free(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vgssl_core.ssl import triplet

    arguments = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1"]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("of the user")
    with monkeypatch.context() as patch:
        patch.setattr(triplet, "triplet_loss", lambda q, *others: q.sum() * float("nan"))
        assert "nothing was saved" in refused(arguments, tmp_path / "run", capsys)
        assert train.main([*arguments, "--out", str(tmp_path / "kept")]) == 1
    capsys.readouterr()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    assert "negatives are wanted" in refused([*arguments, "--options.negatives", "14"], tmp_path / "run", capsys)
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 0


def test_resume_takes_the_runs_own_settings_and_checks_flags_against_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "town-3").symlink_to(data)
    monkeypatch.setattr("vgssl_core.town.writer.render_town", lambda *a: pytest.fail("a town was rendered"))
    given = ["--method", "triplet", "--seed", "3", *TINY, *TRIPLET[2:], "--augment.crop_area", "[0.5, 0.9]"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_time_is_up", lambda self: self.progress.step >= 4)
        assert train.main([*given, "--out", "run"]) == 0
    (tmp_path / "runs" / "town-3").rename(tmp_path / "runs" / "town-3b")
    assert train.main(["--resume", "--out", "run"]) == 1  # its data is gone: no other is rendered
    assert "runs/town-3 is not a folder" in capsys.readouterr().err
    (tmp_path / "runs" / "town-3b").rename(tmp_path / "runs" / "town-3")
    for flags, message in (
        (["--lr", "0.1"], "was trained with lr 0.001, not 0.1"),
        (["--method", "mocov2"], "was trained with method triplet, not mocov2"),
    ):
        assert train.main(["--resume", "--out", "run", *flags]) == 1
        assert message in capsys.readouterr().err
    assert train.main(["--out", "run", "--resume"]) == 0
    assert "settings: those of run" in capsys.readouterr().out
    assert state(tmp_path / "run")["progress"]["step"] == 9
    assert train.main(["--resume"]) == 1
    assert "--resume needs the run that goes on" in capsys.readouterr().err


def test_a_resume_with_its_time_used_up_says_what_to_give(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert train.main([*given, "--max_minutes", "1e-9"]) == 0
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "--max_minutes 1e-09 are used up: give more to go on, or 0" in caplog.text
    assert train.main(["--out", str(tmp_path / "run"), "--resume", "--max_minutes", "0"]) == 0
    assert state(tmp_path / "run")["progress"]["step"] == 3


def test_a_run_of_the_cpu_goes_on_on_another_device(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert train.main([*MOCO, "--data", str(data), *TINY, "--epochs", "1", "--out", str(run)]) == 0
    trainer = build_trainer(configuration(["--resume", "--out", str(run)]))
    # No test machine needs CUDA for this: only the random state is looked at.
    monkeypatch.setattr(trainer, "_device", torch.device("cuda"))
    monkeypatch.setattr(trainer._run, "load", lambda name, device: load_checkpoint(run / name))
    trainer.resume()
    assert trainer.progress.step == 3


def test_collapsed_descriptors_are_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vgssl_core.models.network import DescriptorNet

    forward = DescriptorNet.forward
    monkeypatch.setattr(DescriptorNet, "forward", lambda self, x: forward(self, x) * 0 + 0.35)
    assert train.main([*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert "Descriptors have collapsed" in caplog.text


def test_the_val_split_is_found_in_the_images_folder_too(data: Path, tmp_path: Path) -> None:
    given = [*TRIPLET, "--data", str(data / "images"), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert train.main(given) == 0
    assert load_run(tmp_path / "run")[2]["data"]["val_name"] == "images/val"


def test_without_validation_the_last_weights_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_place_set(tmp_path / "set", count=8, queries=6)
    assert train.main([*TRIPLET, "--data", str(root), *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert "No validation set" in caplog.text
    weights, _, _ = load_run(tmp_path / "run")
    last = state(tmp_path / "run")["method"]
    assert all(torch.equal(value, last[f"network.{key}"]) for key, value in weights.state_dict().items())


def test_input_size_follows_the_images(tmp_path: Path) -> None:
    root = tmp_path / "set" / "images"
    for part in ("database", "queries"):
        (root / part).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(root / part / f"@{i * 30}@0@@@@.png"), picture(i, 640, 192))
    given = [*TRIPLET, "--data", str(root.parent), *TINY, "--epochs", "1", "--width", "0", "--height", "0"]
    given += ["--options.negatives", "1", "--pixels", "3000", "--out", str(tmp_path / "run")]
    assert train.main(given) == 0
    _, preprocessing, _ = load_run(tmp_path / "run")
    assert (preprocessing.width, preprocessing.height) == (112, 32)


def test_training_outside_the_memory_gives_the_same_bits(data: Path, tmp_path: Path) -> None:
    for name in ("2048", "0"):
        given = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--memory_mib", name]
        assert train.main([*given, "--out", str(tmp_path / name)]) == 0
    assert same(state(tmp_path / "0")["method"], state(tmp_path / "2048")["method"])


def test_a_damaged_run_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="no run folder"):
        load_run(run)
    assert train.main([*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--out", str(run)]) == 0
    whole = (run / "best.pt").read_bytes()
    for kept in (0, 100, len(whole) // 2):
        (run / "best.pt").write_bytes(whole[:kept])
        with pytest.raises(DataError, match="damaged"):
            load_run(run)
    (run / "best.pt").unlink()
    (run / "last.pt").unlink()
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        load_run(run)


def test_training_without_data_takes_the_town_and_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "town-3").symlink_to(data)
    assert train.main(["--method", "triplet", "--seed", "3", *TINY, *TRIPLET[2:], "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "settings: config/train/small/triplet.yaml" in printed
    assert "No --data was given" in printed and "--data DIR --val DIR" in printed
    assert len(list((tmp_path / "runs").glob("triplet-*"))) == 1


def test_seeds_differ_and_repeat(data: Path, tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        given = [*TRIPLET, "--data", str(data), *TINY, "--epochs", "1", "--seed", str(seed), "--out", str(out)]
        assert train.main(given) == 0
        weights.append(state(out)["method"]["network.head.weight"].numpy())
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
