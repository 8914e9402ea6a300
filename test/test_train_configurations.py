"""Settings come in layers, and the shipped ones are those of the papers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from train_support import configuration, make_data

from training import train
from vgssl_core.models import ProjectorConfig
from vgssl_core.resources import config_file
from vgssl_core.ssl.method import method_names

SHIPPED = sorted(
    str(path.relative_to(config_file("train/mocov2.yaml").parent))
    for path in config_file("train/mocov2.yaml").parent.rglob("*.yaml")
)
SHARED = {
    **{"backbone": "resnet50", "stage": -1, "pooling": "gem", "descriptor_dim": 1024, "pretrained": True, "freeze": 0},
    **{"width": 640, "height": 480, "precision": "fp32", "lr": 1e-5, "weight_decay": 0.0, "schedule": "constant"},
    **{"warmup_steps": 0, "epochs": 200, "val_every": 10, "recall_radius_m": 25.0, "projected": False},
    **{"accumulate": 1, "early_stop": 0, "head": "linear"},
}
PAIRS = {
    **{"positive_radius_m": 10.0, "negative_radius_m": 25.0, "positive": "nearest", "mining_database": 1000},
    **{"negative_ratio": 0.0, "mask_false_negatives": False, "reuse_steps": 0, "refresh_epochs": 1},
}
AUGMENT = {
    **{"crop_area": (0.75, 1.0), "crop_ratio": (3 / 4, 4 / 3), "crop_positive": False, "flip": 0.5, "swap": 0.0},
    **{"jitter": 0.0},
}


@dataclasses.dataclass(frozen=True)
class Optimum:
    """A row of the table of VG-SSL's optimal settings.

    Attributes:
        mining: Of hard negatives.
        projector: L and D_p.
        options: The method's own numbers.
        batch_size, queries_per_epoch: Of the training.
    """

    mining: str
    projector: ProjectorConfig | None
    options: dict[str, Any]
    batch_size: int = 64
    queries_per_epoch: int = 10000


OPTIMA = {
    "simclr": Optimum("partial", ProjectorConfig(1, 1024), {"temperature": 0.07, "hard_negatives": True}),
    "mocov2": Optimum(
        "random",
        ProjectorConfig(0, 1024),
        {
            **{"temperature": 0.07, "queue_size": 65536, "momentum": 0.999, "queue_fraction": 0.0},
            **{"symmetric": False, "batch_negatives": False, "key_batch_norm_groups": 1, "hard_negatives": False},
        },
    ),
    "byol": Optimum(
        "random",
        ProjectorConfig(2, 4096, batch_norm=True),
        {"momentum": 0.99, "predictor_dim": 4096, "symmetric": True, "hard_negatives": False},
    ),
    "simsiam": Optimum(
        "random",
        ProjectorConfig(2, 4096, batch_norm=True),
        {"predictor_dim": 4096, "symmetric": True, "hard_negatives": False},
    ),
    "barlow_twins": Optimum(
        "partial",
        ProjectorConfig(2, 2048, batch_norm=True, last_bias=False),
        {"redundancy_weight": 0.0051, "hard_negatives": True},
    ),
    "vicreg": Optimum(
        "partial",
        ProjectorConfig(3, 4096, batch_norm=True, last_bias=False),
        {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0, "hard_negatives": True},
    ),
    "triplet": Optimum("partial", None, {"margin": 0.1, "negatives": 10}, batch_size=4, queries_per_epoch=5000),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("places"))


def test_settings_come_in_layers(data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lr: 0.5\nbatch_size: 7\noptions:\n  queue_size: 99\n")
    given = ["--method", "mocov2", "--batch-size", "5", "--data", str(data), "--config", str(tmp_path / "own.yaml")]
    config = configuration(given)
    assert (config.lr, config.batch_size, config.options.queue_size) == (0.5, 5, 99)
    assert (config.backbone, config.width, config.options.temperature) == ("resnet50", 640, 0.07)


@pytest.mark.parametrize("method", OPTIMA)
def test_a_method_with_data_and_no_other_setting_takes_the_optimum_of_the_papers(data: Path, method: str) -> None:
    chosen, optimum = configuration(["--method", method, "--data", str(data)]), OPTIMA[method]
    config = dataclasses.asdict(chosen)
    assert {key: config[key] for key in SHARED} == SHARED
    assert {key: config["pairs"][key] for key in PAIRS} == PAIRS
    assert {key: config["augment"][key] for key in AUGMENT} == AUGMENT
    assert (chosen.batch_size, chosen.queries_per_epoch) == (optimum.batch_size, optimum.queries_per_epoch)
    assert chosen.pairs.mining == optimum.mining
    assert chosen.pairs.refresh_queries == (0 if optimum.options.get("hard_negatives") else 1000)
    assert chosen.options.projector() == optimum.projector
    assert {key: config["options"][key] for key in optimum.options} == optimum.options


@pytest.mark.parametrize("method", OPTIMA)
def test_deit_has_its_own_dimension_and_batch(method: str) -> None:
    config = configuration(["--config", f"paper/v2/deit/{method}.yaml", "--data", "somewhere"])
    assert (config.backbone, config.pooling) == ("deit_small_distilled_patch16_224", "cls")
    assert (config.descriptor_dim, config.width, config.height) == (256, 640, 480)
    assert config.batch_size == (4 if method == "triplet" else 32)
    assert config.options == configuration(["--method", method, "--data", "somewhere"]).options


@pytest.mark.parametrize("method", OPTIMA)
def test_the_first_paper_has_netvlad_on_conv4_and_projected_descriptors(method: str) -> None:
    config = configuration(["--config", f"paper/v1/{method}.yaml", "--data", "somewhere"])
    network = config.network_config()
    assert (network.backbone, network.stage, network.freeze) == ("resnet50", -2, 3)
    assert (network.pooling, network.pooling_options, network.head) == ("netvlad", {"clusters": 64}, "none")
    assert (config.weight_decay, config.queries_per_epoch) == (1e-6, 5000)
    assert config.lr == (1e-5 if method in ("simclr", "mocov2", "triplet") else 1e-4)
    if method == "triplet":
        assert network.projector is None
    else:
        assert network.projector == config.options.projector() and network.projector.layers
        assert config.pairs.negative_ratio > 0 and not config.options.hard_negatives


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("paper/v1/")])
def test_what_the_first_papers_text_does_not_give_is_named_as_ours(name: str) -> None:
    text = config_file(f"train/{name}").read_text()
    header = text[: text.index("method: ")]
    ours = header.partition("Our choice, because")[2]
    assert "batch and epochs" in ours and ("negative_ratio" in ours) == ("negative_ratio" in text[len(header) :])


def test_places_of_the_multi_similarity_loss_do_not_repel_themselves() -> None:
    assert configuration(["--method", "multi_similarity", "--data", "somewhere"]).pairs.mask_false_negatives
    assert configuration(["--method", "multi_similarity"]).pairs.mask_false_negatives


def test_an_axis_of_the_ablations_goes_over_a_methods_settings() -> None:
    given = ["--method", "vicreg", "--data", "somewhere", "--config", "paper/ablation/hnm_off.yaml"]
    config = configuration([*given, "--config", "paper/ablation/layers_2.yaml"])
    assert not config.options.hard_negatives and config.options.projector_layers == 2
    assert config.options.projector_dim == 4096
    config = configuration(["--method", "byol", "--data", "somewhere", "--config", "paper/ablation/hnm_on.yaml"])
    assert config.options.hard_negatives and config.pairs.mining == "partial"


def test_without_data_the_settings_are_the_small_ones(tmp_path: Path) -> None:
    for method in method_names():
        config, used = train._configuration(["--method", method])
        assert not config.pretrained and used == f"config/train/small/{method}.yaml"
    (tmp_path / "own.yaml").write_text("lr: 0.5\n")
    config, used = train._configuration(["--config", str(tmp_path / "own.yaml")])
    assert config.pretrained and config.lr == 0.5
    assert used == f"config/train/mocov2.yaml, {tmp_path / 'own.yaml'}"
    _, used = train._configuration(["--method", "simclr", "--config", "small/simclr.yaml"])
    assert used == "config/train/simclr.yaml, config/train/small/simclr.yaml"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_settings_are_all_known_and_can_work(name: str) -> None:
    path = config_file(f"train/{name}")
    own = yaml.safe_load(path.read_text())
    method = own.get("method", "simclr")
    config = configuration(["--method", method, "--config", name, "--data", "somewhere"])
    config.check()
    config.network_config().check()
    assert path.read_text().startswith("# ") and config.method == method
    if name.startswith("small/mocov2"):
        assert config.options.queue_fraction <= 0.25


def test_every_method_has_settings_of_the_papers_and_small_ones() -> None:
    assert {f"{name}.yaml" for name in method_names()} | {f"small/{name}.yaml" for name in method_names()} <= set(
        SHIPPED
    )
