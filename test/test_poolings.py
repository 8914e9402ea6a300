"""Poolings against loops that follow the papers, their options, and the start of NetVLAD."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.models import NetworkConfig, build_network, poolings
from vgssl_core.models.from_data import initialise_pooling
from vgssl_core.models.pooling import build_pooling, takes_tokens
from vgssl_core.models.poolings.gem import Pooling as Gem
from vgssl_core.models.poolings.grid_gem import Pooling as GridGem
from vgssl_core.models.poolings.netvlad import Pooling as NetVlad
from vgssl_core.models.poolings.rmac import Pooling as Rmac
from vgssl_core.models.poolings.rmac import regions
from vgssl_core.models.poolings.salad import Pooling as Salad
from vgssl_core.models.poolings.salad import transport_plan

NAMES = sorted(module.name for module in pkgutil.iter_modules(poolings.__path__))


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def unit_map(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape), dim=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 4), (3, 7), (12, 9)])
def test_every_pooling_takes_any_map_and_learns(name: str, size: tuple[int, int]) -> None:
    pooling = build_pooling(name, {}, channels=5, tokens=1)
    inputs = [unit_map(2, 5, *size).requires_grad_()]
    inputs += [torch.randn(2, 1, 5, requires_grad=True)] if takes_tokens(pooling) else []
    pooled = pooling(*inputs)
    assert pooled.shape == (2, pooling.dimension) and torch.isfinite(pooled).all()
    pooled.square().sum().backward()
    grads = [part.grad for part in [*inputs, *pooling.parameters()] if part.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads)
    assert all(parameter.grad is not None for parameter in pooling.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_pooling_gives_float32_whatever_comes_in(name: str) -> None:
    pooling = build_pooling(name, {}, channels=4, tokens=2)
    inputs = [unit_map(1, 4, 3, 3).half(), torch.randn(1, 2, 4).half()][: 1 + takes_tokens(pooling)]
    assert pooling(*inputs).dtype == torch.float32


def test_gem_equals_its_formula_and_learns_p() -> None:
    x = torch.rand(2, 3, 4, 5)
    pooling = Gem(3)
    expected = (x.double() ** 3).mean((2, 3)) ** (1 / 3)
    assert torch.allclose(pooling(x).double(), expected, atol=1e-6)
    pooling(x).sum().backward()
    assert pooling.p.grad is not None and pooling.p.grad.abs() > 0


def test_gem_of_half_precision_does_not_overflow() -> None:
    assert torch.isfinite(Gem(1)(torch.full((1, 1, 2, 2), 100.0, dtype=torch.float16))).all()


def test_grid_gem_is_gem_of_each_cell() -> None:
    x = torch.rand(2, 3, 4, 8)
    cells = [Gem(3)(x[:, :, i : i + 2, j : j + 2]) for i in (0, 2) for j in (0, 2, 4, 6)]
    assert torch.allclose(GridGem(3)(x), torch.stack(cells, dim=2).flatten(1), atol=1e-6)


def test_mac_and_spoc_are_maximum_and_mean_of_each_channel() -> None:
    x = torch.randn(2, 3, 4, 5)
    for name, reduce in (("mac", np.max), ("spoc", np.mean)):
        expected = [[reduce(channel.numpy()) for channel in image] for image in x]
        assert np.allclose(build_pooling(name, {}, 3, 0)(x), expected, atol=1e-6)


def test_regions_of_a_square_map_are_those_of_the_paper() -> None:
    found = regions(12, 12, 3)
    assert [side for _, _, side in found] == [12] + [8] * 4 + [6] * 9
    assert found[1:5] == [(0, 0, 8), (0, 4, 8), (4, 0, 8), (4, 4, 8)]
    assert found[5:] == [(top, left, 6) for top in (0, 3, 6) for left in (0, 3, 6)]


@pytest.mark.parametrize(("height", "width", "along"), [(30, 40, 2), (40, 30, 2), (10, 22, 3), (10, 16, 2)])
def test_regions_of_a_long_map_overlap_by_about_two_fifths(height: int, width: int, along: int) -> None:
    largest = [region for region in regions(height, width, 3) if region[2] == min(height, width)]
    assert len(largest) == along
    starts = sorted(top + left for top, left, _ in largest)
    assert starts[0] == 0 and starts[-1] == abs(height - width)
    assert len(regions(height, width, 3)) == along + 2 * (along + 1) + 3 * (along + 2)


def test_rmac_is_the_sum_of_normalised_maxima_of_regions() -> None:
    x = torch.randn(2, 3, 6, 9)
    expected = np.zeros((2, 3))
    for image in range(2):
        for top, left, side in regions(6, 9, 2):
            maxima = x[image, :, top : top + side, left : left + side].numpy().max((1, 2))
            expected[image] += maxima / np.linalg.norm(maxima)
    assert np.allclose(Rmac(3, levels=2)(x), expected, atol=1e-5)


def test_netvlad_equals_its_sums() -> None:
    x, pooling = unit_map(2, 5, 2, 3), NetVlad(5, clusters=4)
    weight = pooling.assignment.weight.detach().view(4, 5).numpy()
    centres = pooling.centres.detach().numpy()
    expected = np.zeros((2, 4, 5))
    for image, row, column in np.ndindex(2, 2, 3):
        local = x[image, :, row, column].numpy()
        scores = np.exp(weight @ local)
        for cluster in range(4):
            expected[image, cluster] += scores[cluster] / scores.sum() * (local - centres[cluster])
    expected /= np.linalg.norm(expected, axis=2, keepdims=True)
    expected = expected.reshape(2, 20)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(pooling(x).detach(), expected, atol=1e-5)


def test_netvlad_starts_at_the_centres_of_clusters_with_nearly_hard_assignment() -> None:
    generator = np.random.default_rng(0)
    truth = generator.standard_normal((6, 16))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    labels = generator.integers(6, size=3000)
    local = truth[labels] + 0.02 * generator.standard_normal((3000, 16))
    local = (local / np.linalg.norm(local, axis=1, keepdims=True)).astype(np.float32)
    pooling = NetVlad(16, clusters=6)
    pooling.initialise(local, generator)
    distances = np.linalg.norm(truth[:, None] - pooling.centres.detach().numpy()[None], axis=2)
    assert sorted(distances.argmin(axis=1)) == list(range(6)) and distances.min(axis=1).max() < 0.02
    with torch.no_grad():
        shares = pooling.assignment(torch.from_numpy(local).T[None, :, :, None]).softmax(dim=1)[0, :, :, 0]
    assert (shares.argmax(dim=0).numpy() == distances.argmin(axis=1)[labels]).all()
    first, second = shares.topk(2, dim=0).values.log()
    assert (first - second).mean() == pytest.approx(np.log(100), rel=1e-3)


def test_netvlad_refuses_fewer_descriptors_than_clusters() -> None:
    with pytest.raises(DataError, match=r"3 local descriptors do not make 64 clusters"):
        NetVlad(2).initialise(np.ones((3, 2), np.float32), np.random.default_rng(0))


def test_clusters_of_a_network_come_from_its_own_maps_and_the_seed() -> None:
    config = NetworkConfig("test_resnet", pooling="netvlad", pooling_options={"clusters": 3}, pretrained=False)
    images = torch.randn(6, 3, 64, 64)
    centres = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        network = build_network(config)
        assert initialise_pooling(network, images.split(4), seed) and network.training
        centres.append(network.pooling.centres.detach())
    assert torch.equal(centres[0], centres[1]) and not torch.equal(centres[0], centres[2])
    local = network.eval().local_descriptors(images).flatten(2).transpose(1, 2).flatten(0, 1)
    means = [local[torch.cdist(local, centres[0]).argmin(1) == k].mean(0) for k in range(3)]
    assert torch.allclose(torch.stack(means), centres[0], atol=1e-4)


def test_poolings_without_clusters_read_no_image() -> None:
    def batches() -> Iterator[Tensor]:
        raise AssertionError("read")
        yield

    assert not initialise_pooling(build_network(NetworkConfig("test_resnet", pretrained=False)), batches(), 0)


def test_transport_plan_equals_sinkhorn_on_probabilities() -> None:
    scores, dustbin = torch.randn(2, 3, 8), torch.tensor(0.5)
    kernel = torch.cat([scores, dustbin.expand(2, 1, 8)], dim=1).double().exp().numpy()
    masses = np.array([1, 1, 1, 5])
    rows, columns = np.ones((2, 4)), np.ones((2, 8))
    for _ in range(3):
        rows = masses / np.einsum("bmn,bn->bm", kernel, columns)
        columns = 1 / np.einsum("bmn,bm->bn", kernel, rows)
    expected = (rows[:, :, None] * kernel * columns[:, None])[:, :3]
    assert np.allclose(transport_plan(scores, dustbin, 3), expected, atol=1e-5)


def test_transport_plan_fills_every_cluster_alike_when_it_converges() -> None:
    plan = transport_plan(torch.randn(1, 4, 20), torch.ones(()), 200)
    assert torch.allclose(plan.sum(dim=2), torch.ones(1, 4), atol=1e-4)
    assert (plan.sum(dim=1) < 1).all()  # the rest of each position is in the dustbin


def test_transport_plan_of_few_positions_leaves_half_to_the_dustbin() -> None:
    assert transport_plan(torch.randn(1, 16, 4), torch.ones(()), 100).sum() == pytest.approx(2, abs=1e-3)


def test_salad_forgets_where_things_are_and_heeds_the_class_token() -> None:
    pooling = Salad(6, 1, clusters=4, cluster_dim=3, token_dim=2).eval()
    x, token = unit_map(2, 6, 3, 5), torch.randn(2, 1, 6)
    turned = x.flip(2, 3)
    assert pooling.dimension == 2 + 4 * 3
    assert torch.allclose(pooling(x, token), pooling(turned, token), atol=1e-5)
    assert not torch.allclose(pooling(x, token)[:, :2], pooling(x, -token)[:, :2], atol=1e-3)
    assert torch.equal(pooling(x, token)[:, 2:], pooling(x, -token)[:, 2:])


def test_class_tokens_are_put_side_by_side() -> None:
    tokens = torch.randn(3, 2, 4)
    pooled = build_pooling("cls", {}, 4, 2)(torch.randn(3, 4, 2, 2), tokens)
    assert torch.equal(pooled, torch.cat([tokens[:, 0], tokens[:, 1]], dim=1))


def test_options_reach_the_pooling() -> None:
    assert build_pooling("netvlad", {"clusters": 3}, 5, 0).dimension == 15
    assert build_pooling("gem", {"p": 4}, 5, 0).p.item() == 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("netvlad", {"cluster": 3}, "cluster: netvlad has no such option, it takes clusters"),
        ("mac", {"p": 3}, "mac has no such option, it takes none"),
        ("gem", {"channels": 3}, "gem has no such option, it takes p, eps"),
        ("netvlad", {"clusters": 2.5}, "clusters is 2.5: give a whole number above 0"),
        ("netvlad", {"clusters": 0}, "clusters is 0: give a whole number above 0"),
        ("gem", {"p": float("nan")}, "p is nan: give a number above 0"),
        ("salad", {"iterations": True}, "iterations is True: give a whole number"),
        ("cls", {}, "cls needs a transformer with a class token"),
    ],
)
def test_options_that_cannot_work_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_pooling(name, options, channels=5, tokens=0)
