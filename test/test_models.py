"""Descriptor networks: formulas, weights that can and cannot be had, batch-norm statistics."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from tiny import make_bundle, make_place_set, picture
from torch.nn.functional import normalize

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import (
    NetworkConfig,
    TorchEmbedder,
    build_network,
    estimate_batch_norm,
    model_id,
    normalise_images,
    untrained_network,
)
from vgssl_core.models.untrained import untrained_embedder

TINY = NetworkConfig(backbone="test_resnet", descriptor_dim=8, pretrained=False)
SIZE = Preprocessing(48, 32)


def seeded(config: NetworkConfig = TINY, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(config)


def test_network_is_backbone_norm_gem_linear_norm() -> None:
    network = seeded().eval()
    images = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        features = normalize(network.backbone(images)[-1], dim=1).clamp_min(1e-6)
        pooled = features.pow(3).mean((2, 3)).pow(1 / 3)
        assert torch.allclose(network(images), normalize(network.head(pooled), dim=1), atol=1e-6)
    assert torch.allclose(network(images).norm(dim=1), torch.ones(3), atol=1e-6)


@pytest.mark.parametrize(("backbone", "stage"), [("test_resnet", -2), ("test_vit", -1), ("test_convnext", -1)])
def test_any_timm_backbone_gives_unit_descriptors(backbone: str, stage: int) -> None:
    network = build_network(NetworkConfig(backbone, stage, descriptor_dim=6, pretrained=False)).eval()
    assert torch.allclose(network(torch.randn(2, 3, 160, 160)).norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbone": "resnet1"}, r"resnet1 is no timm model\. Similar: .*resnet"),
        ({"pooling": "mean"}, r"--pooling mean is unknown: choose one of cls, gem"),
        ({"stage": 9}, r"has no feature stage 9"),
        ({"descriptor_dim": 0}, r"descriptor_dim is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(NetworkConfig(**{**TINY.to_dict(), **wrong}))  # type: ignore[arg-type]


def test_pretrained_weights_out_of_reach_name_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("vgssl_core.models.weights.huggingface_hub.try_to_load_from_cache", lambda *a: None)
    with pytest.raises(ConfigError, match=r"resnet50 cannot be had .*--weights FILE.*--pretrained false"):
        build_network(NetworkConfig("resnet50", pretrained=True))


def test_backbone_without_published_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"timm has no .*--weights FILE or --pretrained false"):
        build_network(NetworkConfig("convnext_atto_rms", pretrained=True))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("backbone", "stage"), [("test_resnet", -1), ("test_resnet", -2), ("test_vit", -1)])
def test_classifier_checkpoint_of_timm_fills_the_backbone(
    tmp_path: Path, suffix: str, backbone: str, stage: int
) -> None:
    classifier = timm.create_model(backbone, num_classes=7)
    path = tmp_path / f"weights{suffix}"
    state = {key: value.contiguous() for key, value in classifier.state_dict().items()}
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    network = build_network(NetworkConfig(backbone, stage, descriptor_dim=8, pretrained=True, weights=path))
    loaded = network.backbone.state_dict()
    assert loaded
    for key, value in loaded.items():
        assert torch.equal(value, state[key.removeprefix("model.")])


def test_checkpoint_of_a_whole_network_fills_it(tmp_path: Path) -> None:
    torch.save({"network": seeded(seed=5).state_dict()}, tmp_path / "best.pt")
    network = seeded(NetworkConfig(**{**TINY.to_dict(), "weights": tmp_path / "best.pt"}))
    for key, value in seeded(seed=5).state_dict().items():
        assert torch.equal(value, network.state_dict()[key])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "no checkpoint of plain tensors"),
        (b"", "no checkpoint of plain tensors"),
        (None, "Cannot read --weights"),
        ({"fc.weight": torch.zeros(2)}, r"does not fit .* lacks"),
        ({}, "holds no weights"),
        ({"callable": print}, "no checkpoint of plain tensors"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=message):
        build_network(NetworkConfig(**{**TINY.to_dict(), "weights": path}))


def test_batch_norm_statistics_become_those_of_the_images() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).eval()
    batches = [torch.randn(8, 3, 4, 4) * 3 + 5 for _ in range(4)]
    estimate_batch_norm(network, batches)
    together = torch.cat(batches)
    assert torch.allclose(network[0].running_mean, together.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(network[0].running_var, together.var((0, 2, 3)), rtol=0.05)
    assert network[0].momentum == 0.1 and not network.training


def test_batch_norm_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match="need images"):
        estimate_batch_norm(torch.nn.BatchNorm2d(3), [])


def test_untrained_network_depends_on_its_seed_alone() -> None:
    images = [picture(i) for i in range(5)]
    ids = [model_id(untrained_network(TINY, images, SIZE, seed), SIZE) for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_batch_normalisation_equals_that_of_one_image() -> None:
    images = np.stack([picture(i, SIZE.width, SIZE.height) for i in range(3)])
    batch = normalise_images(torch.from_numpy(images), SIZE).numpy()
    assert np.allclose(batch, np.stack([SIZE.normalise(image) for image in images]), atol=1e-5)


def test_embedder_gives_unit_rows_whatever_the_batch() -> None:
    images = [picture(i, 60 + i, 50) for i in range(5)]
    embedder = TorchEmbedder(seeded(), SIZE, batch_size=2)
    rows = embedder.embed(images)
    assert rows.shape == (5, 8) and rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(rows, TorchEmbedder(embedder.network, SIZE).embed(images), atol=1e-5)
    assert embedder.embed([]).shape == (0, 8)


def test_model_id_changes_with_weights_and_with_preprocessing() -> None:
    network = seeded()
    ids = {model_id(network, SIZE), model_id(network, Preprocessing(48, 48)), model_id(seeded(seed=1), SIZE)}
    assert len(ids) == 3 and model_id(network, SIZE) in ids


def test_untrained_baseline_works_without_a_bundle(tmp_path: Path) -> None:
    embedder = untrained_embedder(None, make_place_set(tmp_path), "test")
    assert np.allclose(np.linalg.norm(embedder.embed([picture(0)]), axis=1), 1, atol=1e-5)


def test_untrained_baseline_of_a_foreign_bundle_is_refused(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="tiny"):
        untrained_embedder(tmp_path / "bundle", make_place_set(tmp_path / "set"), "test")
