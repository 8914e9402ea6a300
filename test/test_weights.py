"""Starting from weights of runs, checkpoints and bundles, at this and other input sizes; what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from tiny import make_bundle, picture
from torch import Tensor, nn

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Preprocessing
from vgssl_core.inference.bundle import compute_model_id, load_bundle, write_bundle
from vgssl_core.models import DescriptorNet, NetworkConfig, ProjectorConfig, TorchEmbedder, build_network, model_id
from vgssl_core.models.initial import initialise, read_initial
from vgssl_core.models.onnx_export import export_onnx

CNN = NetworkConfig("test_resnet", descriptor_dim=8, pretrained=False)
VIT = NetworkConfig("test_vit", width=96, height=64, pooling="cls", descriptor_dim=8, pretrained=False)
SIZE = Preprocessing(96, 64)


def seeded(config: NetworkConfig = CNN, seed: int = 0) -> DescriptorNet:
    """A network with random weights and random batch-norm statistics."""
    torch.manual_seed(seed)
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def same(network: DescriptorNet, state: dict[str, Tensor]) -> bool:
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    return all(torch.equal(value, state[key]) for key, value in own.items())


def save_run(folder: Path, network: DescriptorNet, *names: str) -> Path:
    """What initialisation reads of a run folder: settings, and checkpoints of a method with more than the network."""
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump({"format": 1, "network": network.config.to_dict()}))
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    state |= {f"momentum.{key}": value + 1 for key, value in network.state_dict().items()}
    for name in names:
        key = "network" if name == "best.pt" else "method"
        torch.save({key: network.state_dict() if name == "best.pt" else state, "epoch": 3}, folder / name)
    return folder


def save_bundle(folder: Path, network: DescriptorNet) -> Path:
    images = [picture(0), picture(1)]
    write_bundle(
        folder,
        export_onnx(network, SIZE),
        model_id=model_id(network, SIZE),
        method="test",
        preprocessing=SIZE,
        architecture=network.config.architecture(),
        training={},
        sample_images=images,
        sample_descriptors=TorchEmbedder(network, SIZE).embed(images),
    )
    return folder


@pytest.mark.parametrize("names", [("best.pt",), ("last.pt",), ("best.pt", "last.pt")])
def test_run_gives_its_best_or_else_its_last_network(tmp_path: Path, names: tuple[str, ...]) -> None:
    source, network = seeded(seed=1), seeded(seed=2)
    run = save_run(tmp_path / "run", source, *names)
    if len(names) == 2:
        torch.save({"method": {}}, run / "last.pt")
    report = initialise(network, run)
    assert same(network, source.state_dict()) and "of the run" in str(report)
    assert not report.filled.kept and not report.filled.unused


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_checkpoint_of_a_whole_network_is_taken(tmp_path: Path, suffix: str) -> None:
    source, network, path = seeded(seed=1), seeded(seed=2), tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(source.state_dict(), path) if suffix != ".pt" else torch.save(source.state_dict(), path)
    initialise(network, path)
    assert same(network, source.state_dict())


def test_checkpoint_of_a_run_is_known_by_its_folder(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", seeded(), "last.pt")
    initialise(seeded(seed=1), run / "last.pt")
    with pytest.raises(ConfigError, match="has pooling gem; the network to train has pooling mac"):
        initialise(build_network(replace(CNN, pooling="mac")), run / "last.pt")


def test_backbone_alone_leaves_pooling_and_head(tmp_path: Path) -> None:
    classifier, network = timm.create_model("test_resnet", num_classes=7), seeded()
    head = network.head.weight.clone()
    torch.save(classifier.state_dict(), tmp_path / "timm.pth")
    report = initialise(network, tmp_path / "timm.pth")
    assert torch.equal(network.head.weight, head)
    assert set(report.filled.kept) == {"pooling.p", "head.weight", "head.bias"}
    assert "new: pooling.p, head.weight, head.bias" in str(report) and "not used: fc.weight" in str(report)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_timm_classifier_of_any_family_gives_its_features(tmp_path: Path, name: str) -> None:
    classifier, images = timm.create_model(name).eval(), torch.randn(2, 3, 64, 64)
    safetensors.torch.save_file(classifier.state_dict(), tmp_path / "timm.safetensors")
    # A feature extractor may name stages.0 stages_0.
    network = build_network(replace(CNN, backbone=name, weights=tmp_path / "timm.safetensors")).eval()
    expected = classifier.forward_intermediates(images, indices=1, intermediates_only=True)[-1]
    assert torch.allclose(network.backbone(images)[-1], expected, atol=1e-6)


PROJECTED = replace(
    CNN,
    pooling="netvlad",
    pooling_options={"clusters": 3},
    projector=ProjectorConfig(layers=2, dim=6, batch_norm=True),
)


@pytest.mark.parametrize("config", [VIT, PROJECTED], ids=["vit", "projected netvlad"])
def test_bundle_gives_back_every_weight_bit_by_bit(tmp_path: Path, config: NetworkConfig) -> None:
    source, network = seeded(config, 1), seeded(config, 2)
    bundle = save_bundle(tmp_path / "bundle", source)
    report = initialise(network, bundle)
    assert same(network, source.state_dict()) and not report.filled.kept
    arrays = {key: value.numpy() for key, value in read_initial(bundle).tensors.items()}
    assert compute_model_id(arrays, config.architecture(), SIZE) == load_bundle(bundle).model_id


def test_position_embedding_is_brought_from_one_grid_to_another(tmp_path: Path) -> None:
    source = seeded(VIT, 1)
    rows, columns = 64 // 16, 96 // 16
    with torch.no_grad():  # an embedding that tells its column
        source.backbone.model.pos_embed[:, 1:] = torch.arange(columns).repeat(rows)[None, :, None].float()
    run = save_run(tmp_path / "run", source, "best.pt")
    network = seeded(replace(VIT, width=192, height=64), 2)
    report = initialise(network, run)
    assert report.filled.resampled == ("backbone.model.pos_embed",) and "brought to this input size" in str(report)
    grid = network.backbone.model.pos_embed[0, 1:, 0].view(4, 12)
    assert torch.allclose(grid, grid[:1].expand(4, 12), atol=1e-4)
    assert (grid[0].diff() > 0).all() and torch.allclose(grid.mean(), torch.tensor(2.5), atol=0.05)
    assert torch.equal(network.backbone.model.pos_embed[:, :1], source.backbone.model.pos_embed[:, :1])
    assert np.isfinite(TorchEmbedder(network, Preprocessing(192, 64)).embed([picture(0)])).all()


def test_position_embedding_of_an_unknown_grid_is_refused(tmp_path: Path) -> None:
    torch.save(seeded(VIT).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"another shape for backbone\.model\.pos_embed \(\(1, 25, \d+\) instead of"):
        initialise(seeded(replace(VIT, width=192, height=64)), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"descriptor_dim": 4}, "has descriptor_dim 8; the network to train has descriptor_dim 4"),
        ({"pooling": "grid_gem"}, "has pooling gem; the network to train has pooling grid_gem"),
        (
            {"backbone": "test_vit", "pooling": "cls"},
            "has backbone test_resnet, pooling gem; the network to train has backbone test_vit, pooling cls",
        ),
    ],
)
def test_another_architecture_is_refused_and_both_are_named(
    tmp_path: Path, other: dict[str, object], message: str
) -> None:
    run = save_run(tmp_path / "run", seeded(), "best.pt")
    network = build_network(replace(CNN, **other))  # type: ignore[arg-type]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        initialise(network, run)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no checkpoint")
    run = save_run(tmp_path / "run", seeded())
    foreign = make_bundle(tmp_path / "bundle").path
    (tmp_path / "module.pt").write_bytes(b"")
    torch.save({"network": print}, tmp_path / "code.pt")
    for path, message in (
        (tmp_path / "nothing", "is no run folder, no bundle and no file"),
        (tmp_path / "empty", "is no run folder, no bundle and no file"),
        (tmp_path / "text.pt", "no checkpoint of plain tensors"),
        (tmp_path / "code.pt", "no checkpoint of plain tensors"),
        (run, "holds no checkpoint yet"),
        (foreign, "tiny|lacks"),
    ):
        with pytest.raises(ConfigError, match=message):
            initialise(seeded(), path)
