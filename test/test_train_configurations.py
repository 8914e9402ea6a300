"""Settings come in layers, and the shipped ones are those of the papers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from train_support import configuration, make_data

from training import train
from vgssl_core.resources import config_file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


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
