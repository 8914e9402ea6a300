"""Checkpoints of the reference implementation: names and shapes as its code writes them, for every method."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tiny import make_place_set
from torch import Tensor
from torch.nn.functional import normalize

from training import export
from vgssl_core.errors import ConfigError
from vgssl_core.inference import load_bundle
from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.models.initial import initialise
from vgssl_core.models.reference import translate

Shapes = dict[str, tuple[int, ...]]
HERE = Path("reference.pth")


def _batch_norm(name: str, channels: int) -> Shapes:
    parts = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
    return {f"{name}.{part}": shape for part, shape in parts.items()}


def _block(name: str, before: int, planes: int, bottleneck: bool, strided: bool) -> Shapes:
    after = planes * (4 if bottleneck else 1)
    kernels = [(planes, before, 1), (planes, planes, 3), (after, planes, 1)]
    if not bottleneck:
        kernels = [(planes, before, 3), (planes, planes, 3)]
    shapes: Shapes = {}
    for number, (out, into, side) in enumerate(kernels, start=1):
        shapes[f"{name}.conv{number}.weight"] = (out, into, side, side)
        shapes |= _batch_norm(f"{name}.bn{number}", out)
    if strided or before != after:
        shapes[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
        shapes |= _batch_norm(f"{name}.downsample.1", after)
    return shapes


def resnet(blocks: tuple[int, ...], bottleneck: bool) -> Shapes:
    """A ResNet of torchvision without pooling and classifier, as a sequence of its children."""
    shapes: Shapes = {"0.weight": (64, 3, 7, 7), **_batch_norm("1", 64)}
    before = 64
    for part, count in enumerate(blocks):
        planes = 64 * 2**part
        for number in range(count):
            strided = part > 0 and number == 0
            shapes |= _block(f"{part + 4}.{number}", before, planes, bottleneck, strided)
            before = planes * (4 if bottleneck else 1)
    return shapes


def deit(width: int, tokens: int, dim: int, depth: int = 12) -> Shapes:
    """The reference's distilled vision transformer."""
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    shapes: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width), "dist_token": (1, 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}
    for block in range(depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        for name, shape in linear.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    for head in ("head", "head_dist"):
        shapes |= {f"{head}.weight": (dim, width), f"{head}.bias": (dim,)}
    return shapes


#: n_layers 0 and L2 before GeM: Sequential(Sequential(L2Norm, GeM, Flatten), Linear, L2Norm).
GEM = {"0.1.p": (1,), "1.weight": (8, 512), "1.bias": (8,)}
#: The same inside Sequential(aggregation, projector).
GEM_PROJECTED = {f"0.{key}": shape for key, shape in GEM.items()} | {"1.0.weight": (16, 8), "1.0.bias": (16,)}


def filled(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
    return {key: value.abs() + 0.5 if key.endswith(("running_var", ".p")) else value for key, value in made.items()}


def prefixed(prefix: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in values.items()}


def lightning(backbone: dict[str, Tensor], aggregation: dict[str, Tensor], method: str) -> dict[str, Tensor]:
    """What the training of an SSL method saves: the encoder, copies of it, and what the method trains beside it."""
    state = {**prefixed("backbone.", backbone), **prefixed("aggregation.", aggregation)}
    state |= {**prefixed("ssl_model.net.", backbone), **prefixed("ssl_model.aggregation.", aggregation)}
    if method in ("vicreg", "bt"):
        return state
    for name, change in (("online_encoder", 0.0), ("target_encoder", 7.0)):
        changed = {key: value + change for key, value in backbone.items()}
        state |= prefixed(f"ssl_model.{name}.net.", changed)
        state |= prefixed(f"ssl_model.{name}.aggregation.", {key: v + change for key, v in aggregation.items()})
    if method == "mocov2":
        state |= {"ssl_model.queue": torch.zeros(8, 4), "ssl_model.queue_ptr": torch.zeros(1, dtype=torch.long)}
    if method in ("byol", "simsiam"):
        state |= prefixed("ssl_model.online_predictor.", filled({"0.weight": (4, 16), "3.weight": (16, 4)}))
    return state


def pairs(found: dict[str, Tensor], backbone: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Both timm and torchvision define their modules in the same order: pair by order, not by name."""
    model = timm.create_model("resnet18").state_dict()
    names = [key for key in model if not key.startswith("fc.") and not key.endswith("num_batches_tracked")]
    assert len(names) == len(backbone)
    for name, value in zip(names, backbone.values(), strict=True):
        yield found[f"backbone.{name}"], value


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    return filled(resnet((2, 2, 2, 2), False))


@pytest.mark.parametrize("method", ["simclr", "mocov2", "byol", "simsiam", "bt", "vicreg"])
def test_query_encoder_of_every_method_is_taken(method: str, resnet18: dict[str, Tensor]) -> None:
    shapes = GEM if method == "mocov2" else GEM_PROJECTED
    aggregation = filled(shapes, seed=1)
    found = translate(lightning(resnet18, aggregation, method), HERE)
    linear = "1" if method == "mocov2" else "0.1"
    assert torch.equal(found.tensors["head.weight"], aggregation[f"{linear}.weight"])
    assert torch.equal(found.tensors["pooling.p"], aggregation["0.1.p" if method == "mocov2" else "0.0.1.p"])
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs(found.tensors, resnet18))
    assert not found.unknown and len(found.tensors) == len(resnet18) + 3


def test_encoder_of_a_method_saved_without_the_training_around_it_is_taken(resnet18: dict[str, Tensor]) -> None:
    state = lightning(resnet18, filled(GEM_PROJECTED, seed=1), "byol")
    inner = {key.removeprefix("ssl_model."): value for key, value in state.items() if key.startswith("ssl_model.")}
    found = translate(inner, HERE)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs(found.tensors, resnet18))


def test_resnet_descriptor_is_the_references_formula(tmp_path: Path, resnet18: dict[str, Tensor]) -> None:
    aggregation = filled(GEM, seed=1)
    path = tmp_path / "best_model.pth"
    state = {**prefixed("backbone.", resnet18), **prefixed("aggregation.", aggregation)}
    # The triplet training saves figures as numpy values beside the weights.
    content = {"model_state_dict": OrderedDict(prefixed("module.", state)), "recalls": np.array([1.0, 2.0])}
    torch.save({**content, "best_r5": np.float64(2.0), "epoch_num": 3}, path)
    network = build_network(NetworkConfig("resnet18", descriptor_dim=8, pretrained=False)).eval()
    report = initialise(network, path)
    assert not report.filled.kept and not report.filled.unused and "reference checkpoint" in str(report)
    model = timm.create_model("resnet18", num_classes=0).eval()
    names = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, resnet18.values(), strict=True)), strict=False)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = normalize(model.forward_features(images), dim=1).clamp_min(1e-6)
        power = aggregation["0.1.p"]
        pooled = features.pow(power).mean((2, 3)).pow(1 / power)
        expected = normalize(pooled @ aggregation["1.weight"].T + aggregation["1.bias"], dim=1)
        assert torch.allclose(network(images), expected, atol=1e-5)


@pytest.mark.parametrize("bare", [False, True])
def test_deit_descriptor_is_the_mean_of_its_two_heads(tmp_path: Path, bare: bool) -> None:
    state = filled(deit(192, 4 * 4 + 2, 8))
    path = tmp_path / "best_model.pth"
    torch.save({"model_state_dict": prefixed("module." if bare else "module.backbone.", state)}, path)
    config = NetworkConfig(
        "deit_tiny_distilled_patch16_224", width=64, height=64, pooling="cls", descriptor_dim=8, pretrained=False
    )
    network = build_network(config).eval()
    assert not initialise(network, path).filled.kept
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, num_classes=8).eval()
    model.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # timm averages the two heads itself
        assert torch.allclose(network(images), normalize(model(images), dim=1), atol=1e-5)


def test_papers_networks_are_recognised() -> None:
    resnet50 = {key: torch.zeros(1).expand(shape) for key, shape in resnet((3, 4, 6, 3), True).items()}
    gem = filled({"0.0.1.p": (1,), "0.1.weight": (1024, 2048), "0.1.bias": (1024,), "1.0.weight": (4, 1024)})
    found = translate(lightning(resnet50, gem, "bt"), HERE)
    wanted = NetworkConfig("resnet50", pooling="gem", descriptor_dim=1024)
    assert NetworkConfig.from_architecture(found.architecture).architecture() == wanted.architecture()
    assert "aggregation.1.0.weight" in found.dropped
    small = {key: torch.zeros(1).expand(shape) for key, shape in deit(384, 30 * 40 + 2, 256).items()}
    found = translate(lightning(small, filled({"1.0.weight": (4, 256)}), "simclr"), HERE)
    wanted = NetworkConfig("deit_small_distilled_patch16_224", width=640, height=480, pooling="cls", descriptor_dim=256)
    assert NetworkConfig.from_architecture(found.architecture).architecture() == wanted.architecture()


@pytest.mark.parametrize("projected", [False, True])
def test_netvlad_of_the_first_paper_keeps_the_projection_that_is_its_descriptor(projected: bool) -> None:
    backbone = filled(resnet((2, 2, 2), False))
    shapes = {"conv.weight": (4, 256, 1, 1), "centroids": (4, 256)}
    if projected:
        projector = {"1.0.weight": (6, 1024), **_batch_norm("1.1", 6), "1.3.weight": (6, 6), "1.3.bias": (6,)}
        shapes = {f"0.{key}": shape for key, shape in shapes.items()} | projector
    aggregation = filled(shapes, seed=1)
    found = translate(lightning(backbone, aggregation, "byol"), HERE)
    config = NetworkConfig.from_architecture(found.architecture)
    assert (config.stage, config.pooling, config.pooling_options, config.head) == (
        -2,
        "netvlad",
        {"clusters": 4},
        "none",
    )
    network = build_network(config).eval()
    report = network.load_state_dict(found.tensors, strict=False)
    assert not report.unexpected_keys and all(key.endswith("num_batches_tracked") for key in report.missing_keys)
    assert network.dimension == (6 if projected else 1024)
    vlad = _netvlad(normalize(network.backbone(torch.ones(1, 3, 64, 64))[-1], dim=1), aggregation, "0." * projected)
    assert torch.allclose(network.encode(torch.ones(1, 3, 64, 64)), vlad, atol=1e-5)


def _netvlad(features: Tensor, aggregation: dict[str, Tensor], prefix: str) -> Tensor:
    """One image by the definition, descriptor by descriptor."""
    weights, centroids = aggregation[f"{prefix}conv.weight"][:, :, 0, 0], aggregation[f"{prefix}centroids"]
    sums = torch.zeros_like(centroids)
    for local in features[0].flatten(1).T:
        sums = sums + (weights @ local).softmax(0)[:, None] * (local - centroids)
    return normalize(normalize(sums, dim=1).flatten()[None], dim=1)


def test_weights_that_are_not_known_are_reported(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    state = {**prefixed("backbone.", resnet18), **prefixed("aggregation.", filled(GEM))}
    state |= {"non_local.0.g.weight": torch.zeros(1), "local_head.weight": torch.zeros(1)}
    found = translate(state, HERE)
    assert found.unknown == ("non_local.0.g.weight",) and found.dropped == ("local_head.weight",)
    torch.save(state, tmp_path / "model.pth")
    network = build_network(NetworkConfig("resnet18", descriptor_dim=8, pretrained=False))
    assert "not used: non_local.0.g.weight" in str(initialise(network, tmp_path / "model.pth"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.7.1.bn2.weight": None}, r"lacks 1 of .* first backbone\.layer4\.1\.bn2\.weight"),
        ({"aggregation.0.1.p": None}, r"no aggregation that is known .*only 1\.bias, 1\.weight"),
        ({"backbone.9.weight": torch.zeros(1)}, r"backbone\.9\.weight, which is no ResNet's"),
        ({"backbone.6.2.conv1.weight": torch.zeros(1)}, r"3 blocks in conv4"),
        ({"aggregation.1.weight": torch.zeros(4, 512)}, r"has descriptor_dim 4; the network to train has .* 8"),
    ],
)
def test_checkpoint_that_is_not_whole_or_another_network_is_refused(
    change: dict[str, Tensor | None], message: str, resnet18: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {**prefixed("backbone.", resnet18), **prefixed("aggregation.", filled(GEM)), **change}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "model.pth")
    network = build_network(NetworkConfig("resnet18", descriptor_dim=8, pretrained=False))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        initialise(network, tmp_path / "model.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_reference_checkpoint_is_exported_directly(
    resnet18: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = lightning(resnet18, filled(GEM_PROJECTED, seed=1), "simclr")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "best_model.pth")
    places, out = make_place_set(tmp_path / "places"), tmp_path / "bundle"
    given = ["--reference", str(tmp_path / "best_model.pth"), "--images", str(places), "--out", str(out)]
    assert export.main([*given, "--width", "96", "--height", "64"]) == 0
    assert "agrees with torch on 8 real images" in capsys.readouterr().out
    bundle = load_bundle(out)
    assert (bundle.dimension, bundle.preprocessing.width, bundle.preprocessing.height) == (8, 96, 64)
    assert bundle.architecture["backbone"] == "resnet18" and bundle.training == {"reference": "best_model.pth"}


def test_what_is_no_reference_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "model.pth")
    given = ["--reference", str(tmp_path / "model.pth"), "--images", str(make_place_set(tmp_path / "places"))]
    assert export.main([*given, "--out", str(tmp_path / "bundle")]) == 1
    assert "no checkpoint of the reference implementation" in capsys.readouterr().err
