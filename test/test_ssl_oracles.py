"""Our losses against two other libraries, value and gradient, in float64.

Where a definition there differs from the papers' that we follow, the test says how and takes the difference away.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from ssl_support import normal
from torch import Tensor
from torch.nn.functional import normalize

from vgssl_core.ssl.barlow_twins import barlow_twins_terms
from vgssl_core.ssl.mocov2 import moco_loss
from vgssl_core.ssl.multi_similarity import Config as MultiSimilarityConfig
from vgssl_core.ssl.multi_similarity import all_pairs, hard_pairs, multi_similarity_terms
from vgssl_core.ssl.prediction import prediction_loss
from vgssl_core.ssl.simclr import nt_xent
from vgssl_core.ssl.triplet import triplet_loss
from vgssl_core.ssl.vicreg import Config as VicregConfig
from vgssl_core.ssl.vicreg import vicreg_terms

SHAPES = [(4, 3), (16, 8), (9, 40)]


@pytest.fixture(scope="module")
def lightly() -> ModuleType:
    """Losses of lightly, whose import takes seconds."""
    import lightly.loss

    return lightly.loss


@pytest.fixture(scope="module")
def metric_learning() -> ModuleType:
    """pytorch-metric-learning, whose import takes seconds."""
    import pytorch_metric_learning.distances
    import pytorch_metric_learning.losses
    import pytorch_metric_learning.miners
    import pytorch_metric_learning.reducers

    return pytorch_metric_learning


def value_and_gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves, materialize_grads=True)]


def assert_equal(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    pairs = zip(value_and_gradients(ours, *inputs), value_and_gradients(theirs, *inputs), strict=True)
    for own, other in pairs:
        assert own.dtype == torch.float64
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-10)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.fixture(params=SHAPES, ids=str)
def views(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    return 1.3 * normal(*request.param, seed=1) + 0.5, normal(*request.param, seed=2)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_is_that_of_lightly(lightly: ModuleType, views: tuple[Tensor, Tensor], temperature: float) -> None:
    assert_equal(lambda x, y: nt_xent(x, y, temperature), lightly.NTXentLoss(temperature), *views)


def test_nt_xent_is_that_of_pytorch_metric_learning(metric_learning: ModuleType, views: tuple[Tensor, Tensor]) -> None:
    loss = metric_learning.losses.NTXentLoss(0.07)
    labels = torch.arange(len(views[0])).repeat(2)
    assert_equal(lambda x, y: nt_xent(x, y, 0.07), lambda x, y: loss(torch.cat([x, y]), labels), *views)


def test_vicreg_is_that_of_lightly(lightly: ModuleType, views: tuple[Tensor, Tensor]) -> None:
    for form in ("rows", "features"):
        assert_equal(
            lambda x, y, form=form: total(vicreg_terms(x, y, VicregConfig(), form)), lightly.VICRegLoss(), *views
        )


def test_barlow_twins_is_that_of_lightly_with_another_variance(
    lightly: ModuleType, views: tuple[Tensor, Tensor]
) -> None:
    # lightly divides the variance by N, VG-SSL's code by N − 1: each entry of C is (N − 1) / N of lightly's. Large
    # embeddings make the constants beside the variance, 1e-5 there and 1e-4 here, vanish.
    shrunk = 1 - 1 / len(views[0])

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        x, y = 1e5 * x, 1e5 * y
        apart = lightly.BarlowTwinsLoss(1.0)(x, y) - lightly.BarlowTwinsLoss(0.0)(x, y)
        # Of a single feature the loss is (c − 1)², and c is at most 1.
        diagonal = torch.stack(
            [1 - lightly.BarlowTwinsLoss()(*pair).sqrt() for pair in zip(x.split(1, 1), y.split(1, 1), strict=True)]
        )
        return (shrunk * diagonal - 1).square().sum() + 0.0051 * shrunk**2 * apart

    for form in ("rows", "features"):
        assert_equal(lambda x, y, form=form: total(barlow_twins_terms(1e5 * x, 1e5 * y, 0.0051, form)), theirs, *views)


def test_prediction_loss_of_byol_and_simsiam_is_twice_that_of_lightly_and_two(
    lightly: ModuleType, views: tuple[Tensor, Tensor]
) -> None:
    # 2 − 2 cos against −cos; the stop-gradient of the target is the caller's there.
    negative_cosine = lightly.NegativeCosineSimilarity()
    assert_equal(prediction_loss, lambda p, t: 2 + 2 * negative_cosine(p, t.detach()), *views)


def test_moco_loss_is_that_of_lightly_with_its_memory_bank(lightly: ModuleType, views: tuple[Tensor, Tensor]) -> None:
    queries, keys = (normalize(view, dim=1) for view in views)
    queue = normalize(normal(50, queries.shape[1], seed=3), dim=1)
    loss = lightly.NTXentLoss(0.07, memory_bank_size=tuple(queue.shape))
    loss.memory_bank.bank = queue.clone()
    # lightly normalises its input, ours expects unit vectors.
    assert_equal(
        lambda q: moco_loss(normalize(q, dim=1), keys, queue, 0.07),
        lambda q: loss(q, keys),
        queries,
    )


@pytest.mark.parametrize("margin", [0.1, 5.0])
def test_triplet_loss_is_that_of_pytorch_metric_learning(metric_learning: ModuleType, margin: float) -> None:
    # There the mean is by default over triplets that still cost something, and embeddings are normalised.
    count, each = 5, 3
    loss = metric_learning.losses.TripletMarginLoss(
        margin,
        distance=metric_learning.distances.LpDistance(normalize_embeddings=False),
        reducer=metric_learning.reducers.MeanReducer(),
    )
    anchors = torch.arange(count).repeat_interleave(each)
    triplets = anchors, anchors + count, 2 * count + torch.arange(count * each)
    labels = torch.zeros(count * (2 + each), dtype=torch.long)

    def theirs(q: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return loss(torch.cat([q, p, n.flatten(0, 1)]), labels, triplets)

    inputs = normal(count, 4, seed=1), normal(count, 4, seed=2), normal(count, each, 4, seed=3)
    assert_equal(lambda q, p, n: triplet_loss(q, p, n, margin), theirs, *inputs)


@pytest.mark.parametrize(("places", "images"), [(2, 2), (5, 4), (8, 3)])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_multi_similarity_with_its_miner_is_that_of_pytorch_metric_learning(
    metric_learning: ModuleType, places: int, images: int, margin: float
) -> None:
    config = MultiSimilarityConfig(mining_margin=margin)
    loss = metric_learning.losses.MultiSimilarityLoss(config.positive_scale, config.negative_scale, config.base)
    miner = metric_learning.miners.MultiSimilarityMiner(margin)
    labels, pairs = torch.arange(places).repeat_interleave(images), all_pairs(places, images)
    embeddings = normal(places * images, 6, seed=1)
    z = normalize(embeddings, dim=1)
    hard = hard_pairs(z @ z.T, pairs, margin)
    anchors, positives, others, negatives = miner(embeddings, labels)
    assert set(zip(anchors.tolist(), positives.tolist(), strict=True)) == set(
        map(tuple, hard.positive.nonzero().tolist())
    )
    assert set(zip(others.tolist(), negatives.tolist(), strict=True)) == set(
        map(tuple, hard.negative.nonzero().tolist())
    )
    assert_equal(
        lambda z: total(multi_similarity_terms(z, pairs, config)),
        lambda z: loss(z, labels, miner(z, labels)),
        embeddings,
    )
