"""Networks on every family of backbones: their formulas, truncation, freezing, input sizes, heads and export."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import yaml
from timm.layers import resample_abs_pos_embed
from tiny import picture
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Preprocessing
from vgssl_core.models import (
    DescriptorNet,
    NetworkConfig,
    ProjectorConfig,
    build_network,
    estimate_batch_norm,
    poolings,
)
from vgssl_core.models.backbones import input_multiple
from vgssl_core.models.onnx_export import export_onnx
from vgssl_core.models.pooling import build_pooling, takes_tokens

DEIT = "deit_tiny_distilled_patch16_224"
#: At 96x64: small, not square, and a multiple of the patches of 16.
VIT = NetworkConfig("test_vit", width=96, height=64, descriptor_dim=8, pretrained=False)
SIZE = Preprocessing(96, 64)
CNN = NetworkConfig("test_resnet", descriptor_dim=8, pretrained=False)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 96)


class SideBySide(nn.Module):
    """Many networks in one graph, as the exporter takes seconds for each graph: their outputs one after another."""

    def __init__(self, networks: list[nn.Module], backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.networks, self.backbone = nn.ModuleList(networks), backbone

    def outputs(self, x: Tensor) -> list[Tensor]:
        """What each network gives, the poolings for the features of the shared backbone."""
        if self.backbone is None:
            return [network(x) for network in self.networks]
        class_token, feature_map = self.backbone(x)
        feature_map = normalize(feature_map, dim=1)
        return [p(feature_map, class_token) if takes_tokens(p) else p(feature_map) for p in self.networks]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.outputs(x), dim=1)


def cosines_in_onnx(networks: SideBySide) -> list[float]:
    """The lowest cosine between torch and ONNX Runtime of each network, over batches of one and three."""
    session = onnxruntime.InferenceSession(export_onnx(networks, SIZE), providers=["CPUExecutionProvider"])
    x = torch.from_numpy(np.stack([SIZE(picture(i)) for i in range(3)]))
    found = [torch.from_numpy(session.run(None, {"image": part.numpy()})[0]) for part in (x, x[:1])]
    with torch.no_grad():
        expected = networks.outputs(x)
    widths = [part.shape[1] for part in expected]
    return [
        float(min(cosine_similarity(whole, part).min(), cosine_similarity(whole[:1], single).min()))
        for whole, part, single in zip(expected, *(given.split(widths, dim=1) for given in found), strict=True)
    ]


def test_every_pooling_is_the_same_in_onnx() -> None:
    shared = build_network(replace(VIT, blocks=1)).backbone
    names = sorted(module.name for module in pkgutil.iter_modules(poolings.__path__))
    cosines = cosines_in_onnx(SideBySide([build_pooling(name, {}, 64, 1) for name in names], shared))
    assert {name: cosine for name, cosine in zip(names, cosines, strict=True) if not cosine > 0.9999} == {}


def test_every_family_of_backbones_and_every_head_is_the_same_in_onnx() -> None:
    configs = [
        replace(CNN, stage=-2, head="none"),
        replace(CNN, backbone="test_convnext", stage=1, projector=ProjectorConfig(2, 6, batch_norm=True)),
        replace(CNN, backbone="test_efficientnet", stage=1, head="pca"),
        replace(VIT, backbone="swin_s3_tiny_224", stage=0, pooling="salad", pooling_options={"clusters": 4}),
        replace(VIT, backbone=DEIT, blocks=1, pooling="cls"),
        replace(VIT, backbone="vit_small_patch16_dinov3", blocks=1),
    ]
    cosines = cosines_in_onnx(SideBySide([build_network(config) for config in configs]))
    assert [config for config, cosine in zip(configs, cosines, strict=True) if not cosine > 0.9999] == []


def test_distilled_transformer_averages_its_two_heads() -> None:
    network = build_network(replace(VIT, backbone=DEIT, pooling="cls", descriptor_dim=5)).eval()
    model = timm.create_model(DEIT, img_size=(64, 96), num_classes=5).eval()
    model.load_state_dict({**network.backbone.model.state_dict(), **network.head.state_dict()})
    x = images()
    with torch.no_grad():
        tokens = model.forward_features(x)
        expected = normalize((model.head(tokens[:, 0]) + model.head_dist(tokens[:, 1])) / 2, dim=1)
        assert torch.allclose(network(x), expected, atol=1e-5)
        assert torch.allclose(network(x), normalize(model(x), dim=1), atol=1e-5)


def test_class_token_and_map_of_a_transformer_are_its_last_tokens() -> None:
    network = build_network(replace(VIT, pooling="cls")).eval()
    with torch.no_grad():
        tokens = network.backbone.model.forward_features(x := images())
        class_token, feature_map = network.backbone(x)
        assert torch.equal(class_token[:, 0], tokens[:, 0]) and feature_map.shape == (2, 64, 4, 6)
        assert torch.equal(feature_map.flatten(2).transpose(1, 2), tokens[:, 1:])
        assert torch.allclose(network(x), normalize(network.head(tokens[:, 0]), dim=1), atol=1e-6)


def test_register_tokens_are_neither_class_tokens_nor_patches() -> None:
    backbone = build_network(
        replace(VIT, backbone="vit_small_patch14_reg4_dinov2", blocks=1, width=42, height=28)
    ).backbone
    class_token, feature_map = backbone(torch.randn(1, 3, 28, 42))
    assert class_token.shape == (1, 1, 384) and feature_map.shape == (1, 384, 2, 3)


def test_blocks_cut_a_transformer() -> None:
    x, whole = images(), build_network(VIT).eval()
    cut = build_network(replace(VIT, blocks=2)).eval()
    cut.load_state_dict(whole.state_dict(), strict=False)
    model = whole.backbone.model
    with torch.no_grad():
        tokens = model.norm(model.blocks[:2](model._pos_embed(model.patch_embed(x))))
        assert torch.allclose(cut.backbone(x)[-1].flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-5)
    assert len(cut.backbone.model.blocks) == 2 < len(model.blocks)


def test_channels_last_maps_are_turned() -> None:
    network = build_network(replace(CNN, backbone="swin_s3_tiny_224", stage=0, width=96, height=64))
    assert network.local_descriptors(images()).shape == (2, 96, 16, 24)


@pytest.mark.parametrize("source", ["published", "local"])
def test_position_embedding_is_resampled_to_the_grid_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    path = tmp_path / "deit.pth"
    state = timm.create_model(DEIT).state_dict()
    torch.save(state, path)

    def published(name: str, **options: Any) -> nn.Module:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options)

    monkeypatch.setattr("vgssl_core.models.backbones.vit.pretrained_backbone", published)
    start = {"pretrained": True} if source == "published" else {"weights": path}
    model = build_network(replace(VIT, backbone=DEIT, blocks=1, **start)).backbone.model
    expected = resample_abs_pos_embed(state["pos_embed"], [4, 6], num_prefix_tokens=2)
    assert model.pos_embed.shape == (1, 2 + 4 * 6, 192) and torch.equal(model.pos_embed, expected)
    assert torch.equal(model.pos_embed[:, :2], state["pos_embed"][:, :2])
    assert torch.equal(model.blocks[0].norm1.weight, state["blocks.0.norm1.weight"])


def parts(network: DescriptorNet) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of everything that moves in training, and of which of it a parameter may change."""
    state = {key: value.clone() for key, value in network.state_dict().items()}
    return state, {key: value for key, value in network.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(
    ("config", "still"),
    [
        (replace(CNN, freeze=3), ("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.layer2")),
        (replace(CNN, backbone="test_convnext", freeze=1), ("backbone.stem", "backbone.stages_0")),
        (replace(CNN, backbone="test_efficientnet", freeze=2), ("backbone.conv_stem", "backbone.bn1")),
        (
            replace(VIT, freeze=2),
            tuple(
                f"backbone.model.{name}" for name in ("cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1")
            ),
        ),
    ],
    ids=["resnet", "convnext", "efficientnet", "vit"],
)
def test_frozen_parts_do_not_move_in_a_training_step(config: NetworkConfig, still: tuple[str, ...]) -> None:
    network = build_network(config).train()
    before, trained = parts(network)
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    (network(images(4)) * torch.randn(4, 8)).sum().backward()
    optimiser.step()
    after = network.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    frozen = {key for key in before if key.startswith(still)}
    assert frozen and not moved & frozen and not set(trained) & frozen
    assert any(key.startswith("head.") for key in moved)
    assert any(key.startswith("backbone.") for key in moved), "the later stages learn"


def test_first_paper_trains_conv4_on_frozen_earlier_layers() -> None:
    network = build_network(NetworkConfig("resnet50", stage=-2, freeze=3, pooling="mac", pretrained=False))
    trained = {key.split(".")[1] for key, p in network.named_parameters() if p.requires_grad and key[0] == "b"}
    assert trained == {"layer3"} and network.pooling.dimension == 1024


def test_statistics_of_frozen_batch_norms_are_not_estimated() -> None:
    network = build_network(replace(CNN, freeze=1))
    network.backbone.bn1.running_mean.fill_(-3.0)
    estimate_batch_norm(network, [images(4)])
    assert (network.backbone.bn1.running_mean == -3).all()
    assert (network.backbone.layer1[0].bn1.running_mean != 0).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "test_vit", "width": 100, "height": 64}, r"test_vit cuts .* 16x16, .* example 96 and 64"),
        ({"backbone": "test_vit", "stage": -2}, r"--stage -2 cuts CNNs: test_vit is cut by --blocks"),
        ({"backbone": "test_vit", "blocks": 99}, r"--blocks 99: test_vit has 6"),
        ({"backbone": "test_vit", "freeze": 7}, r"--freeze 7: the transformer has 6 blocks"),
        ({"backbone": "test_vit4", "pooling": "cls"}, r"cls needs a transformer with a class token"),
        ({"blocks": 2}, r"--blocks 2 cuts vision transformers: test_resnet is cut by --stage"),
        ({"freeze": 9}, r"--freeze 9: test_resnet has 5 feature stages"),
        ({"freeze": -1}, r"--freeze is -1"),
        ({"width": 64}, r"--width 64 --height 0: give both"),
        ({"head": "mean"}, r"--head mean is unknown: choose one of linear, none, pca"),
        ({"head": "pca", "projector": ProjectorConfig(1, 4)}, r"--head pca .* projector"),
        ({"pooling": "cls"}, r"cls needs a transformer"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(replace(CNN, **changes))


def test_input_sides_follow_the_patches() -> None:
    assert input_multiple("vit_small_patch14_dinov2") == 14
    assert input_multiple(DEIT) == input_multiple("resnet18") == 16


def test_mixed_precision_is_of_the_backbone_alone() -> None:
    network = build_network(replace(CNN, pooling="gem"))
    network.autocast_dtype = torch.bfloat16
    seen = {}
    network.backbone.layer4.register_forward_hook(lambda *call: seen.update(backbone=call[2].dtype))
    network.pooling.register_forward_hook(lambda *call: seen.update(taken=call[1][0].dtype, pooled=call[2].dtype))
    for training in (True, False):
        assert network.train(training)(images()).dtype == torch.float32
        assert seen == {"backbone": torch.bfloat16, "taken": torch.float32, "pooled": torch.float32}
    network.autocast_dtype = None
    network(images())
    assert seen["backbone"] == torch.float32


@pytest.mark.parametrize(
    "config",
    [
        replace(CNN, stage=-2, freeze=2, pooling="netvlad", pooling_options={"clusters": 3}, head="none"),
        replace(VIT, blocks=2, pooling="salad", pooling_options={"clusters": 3, "cluster_dim": 2}),
        replace(VIT, backbone=DEIT, blocks=1, pooling="cls", projector=ProjectorConfig(2, 6, batch_norm=True)),
        replace(CNN, head="pca"),
    ],
    ids=["cnn", "vit", "distilled", "pca"],
)
def test_manifest_rebuilds_the_network(config: NetworkConfig) -> None:
    network = build_network(config).eval()
    for values in (config.architecture(), config.to_dict()):
        rebuilt = NetworkConfig.from_architecture(yaml.safe_load(yaml.safe_dump(values)))
        assert rebuilt == replace(config, freeze=0)
    copy = build_network(rebuilt).eval()
    copy.load_state_dict(network.state_dict())
    assert torch.equal(copy(x := images()), network(x))


def test_manifest_of_an_older_version_takes_defaults_and_of_another_program_is_refused() -> None:
    old = {"backbone": "resnet18", "stage": -2, "pooling": "gem", "descriptor_dim": 64}
    assert NetworkConfig.from_architecture(old) == NetworkConfig("resnet18", -2, descriptor_dim=64, pretrained=False)
    with pytest.raises(ConfigError, match=r"has layers, which this version does not know"):
        NetworkConfig.from_architecture({**old, "layers": 3})
