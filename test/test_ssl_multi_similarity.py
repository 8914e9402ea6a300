"""Multi-similarity: closed form of miner and loss, gradient, places that are one."""

from __future__ import annotations

import math

import pytest
import torch
from small_methods import build_method, make_batch
from ssl_support import dot, normal

from vgssl_core.errors import ConfigError
from vgssl_core.ssl.method import PairBatch
from vgssl_core.ssl.multi_similarity import Config, Pairs, all_pairs, hard_pairs, multi_similarity_terms


def by_hand(embeddings: torch.Tensor, pairs: Pairs, config: Config) -> dict[str, float]:
    """Miner and loss anchor by anchor."""
    z = [(row / row.norm()).tolist() for row in embeddings]
    count = len(z)
    terms = {"positive": 0.0, "negative": 0.0}
    for i in range(count):
        similar = [dot(z[i], z[j]) for j in range(count)]
        positives = [similar[j] for j in range(count) if pairs.positive[i, j]]
        negatives = [similar[j] for j in range(count) if pairs.negative[i, j]]
        hard_positives = [s for s in positives if negatives and s < max(negatives) + config.mining_margin]
        hard_negatives = [s for s in negatives if positives and s > min(positives) - config.mining_margin]
        a, b = config.positive_scale, config.negative_scale
        terms["positive"] += math.log1p(sum(math.exp(-a * (s - config.base)) for s in hard_positives)) / a / count
        terms["negative"] += math.log1p(sum(math.exp(b * (s - config.base)) for s in hard_negatives)) / b / count
    return terms


def near(*places: tuple[int, int], count: int) -> torch.Tensor:
    mask = torch.eye(count, dtype=torch.bool)
    for a, b in places:
        mask[a, b] = mask[b, a] = True
    return mask


@pytest.mark.parametrize(("places", "images", "dim"), [(2, 2, 3), (5, 4, 6), (3, 3, 20), (1, 4, 3)])
@pytest.mark.parametrize(
    "config", [Config(), Config(positive_scale=1.0, negative_scale=10.0, base=0.0), Config(mining_margin=0.0)]
)
def test_terms_equal_their_closed_form(places: int, images: int, dim: int, config: Config) -> None:
    embeddings, pairs = 2 * normal(places * images, dim, seed=places), all_pairs(places, images)
    terms = {name: float(value) for name, value in multi_similarity_terms(embeddings, pairs, config).items()}
    assert terms == pytest.approx(by_hand(embeddings, pairs, config), abs=1e-10)


def test_closed_form_with_places_that_are_one() -> None:
    embeddings, pairs = normal(12, 5, seed=1), all_pairs(4, 3, near((0, 2), (2, 3), count=4))
    terms = {name: float(value) for name, value in multi_similarity_terms(embeddings, pairs, Config()).items()}
    assert terms == pytest.approx(by_hand(embeddings, pairs, Config()), abs=1e-10)


def test_pairs_stand_place_by_place() -> None:
    pairs = all_pairs(2, 3)
    same = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool()
    assert torch.equal(pairs.positive, same & ~torch.eye(6, dtype=torch.bool)) and torch.equal(pairs.negative, ~same)


def test_images_of_places_that_are_one_are_neither_positive_nor_negative() -> None:
    plain, pairs = all_pairs(3, 2), all_pairs(3, 2, near((0, 1), count=3))
    assert torch.equal(pairs.positive, plain.positive)
    assert not pairs.negative[:4, :4].any()
    assert torch.equal(pairs.negative[4:], plain.negative[4:])


def test_miner_leaves_what_is_already_told_apart_by_the_margin() -> None:
    # Anchor 0: positives at 0.9 and 0.5, negatives at 0.3 and 0.45.
    similarity = torch.eye(5)
    similarity[0] = torch.tensor([1.0, 0.9, 0.5, 0.3, 0.45])
    pairs = Pairs(torch.tensor([[0, 1, 1, 0, 0]]).bool(), torch.tensor([[0, 0, 0, 1, 1]]).bool())
    hard = hard_pairs(similarity[:1], pairs, margin=0.1)
    assert hard.positive.tolist() == [[False, False, True, False, False]]
    assert hard.negative.tolist() == [[False, False, False, False, True]]


def test_gradient_equals_the_numerical_one() -> None:
    embeddings = normal(6, 4, seed=3).requires_grad_()
    pairs = all_pairs(3, 2, near((0, 1), count=3))
    config = Config(negative_scale=5.0, mining_margin=2.0)
    assert torch.autograd.gradcheck(lambda z: tuple(multi_similarity_terms(z, pairs, config).values()), embeddings)


def test_order_of_places_and_of_their_images_does_not_matter() -> None:
    embeddings = normal(12, 5, seed=1).unflatten(0, (4, 3))
    shuffled = embeddings[torch.randperm(4)][:, torch.randperm(3)]
    loss, again = (
        sum(multi_similarity_terms(z.flatten(0, 1), all_pairs(4, 3), Config()).values()) for z in (embeddings, shuffled)
    )
    assert float(again) == pytest.approx(float(loss), abs=1e-10)


def test_pairs_left_out_carry_no_gradient() -> None:
    # Images 0, 1 of one place; 2, 3 of a place that is one with it: nothing is left to repel.
    embeddings = torch.eye(4, dtype=torch.float64).requires_grad_()
    terms = multi_similarity_terms(embeddings, all_pairs(2, 2, near((0, 1), count=2)), Config())
    sum(terms.values()).backward()
    assert not embeddings.grad[:2, 2:].any() and not embeddings.grad[2:, :2].any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_or_zero_rows_have_a_finite_gradient(value: float) -> None:
    embeddings = torch.full((6, 3), value, requires_grad=True)
    sum(multi_similarity_terms(embeddings, all_pairs(3, 2), Config()).values()).backward()
    assert torch.isfinite(embeddings.grad).all()


@pytest.mark.parametrize("positives", [1, 3])
def test_a_batch_is_taken_place_by_place(positives: int) -> None:
    method = build_method("multi_similarity", positives_per_query=positives).double()
    assert method.positives_per_query == positives and method.negatives_per_query == 0
    batch = make_batch(method, dtype=torch.float64)
    output = method(batch)
    further = [] if batch.positives is None else batch.positives.unbind(1)
    images = torch.stack([batch.x, batch.y, *further], dim=1).flatten(0, 1)
    embeddings = method.network(images)
    expected = multi_similarity_terms(embeddings, all_pairs(4, 1 + positives), method.config)
    assert float(output.total.detach()) == pytest.approx(float(sum(expected.values()).detach()), abs=1e-10)
    by_place = embeddings.detach().unflatten(0, (4, 1 + positives))
    assert torch.allclose(output.descriptors, by_place[:, 0], atol=1e-10)
    assert torch.allclose(output.positive_descriptors, by_place[:, 1], atol=1e-10)


def test_positions_leave_out_queries_of_one_place() -> None:
    method = build_method("multi_similarity").double()
    plain = make_batch(method, dtype=torch.float64)
    positions_m = torch.tensor([[0, 0], [20, 0], [500, 0], [900, 0]], dtype=torch.float64)
    placed = PairBatch(plain.x, plain.y, positives=plain.positives, positions_m=positions_m, same_place_m=25)
    embeddings = method.network(torch.cat([plain.x[:, None], plain.y[:, None], plain.positives], 1).flatten(0, 1))
    expected = multi_similarity_terms(embeddings, all_pairs(4, 4, near((0, 1), count=4)), method.config)
    loss = float(method(placed).total.detach())
    assert loss == pytest.approx(float(sum(expected.values()).detach()), abs=1e-10)
    assert loss < float(method(plain).total.detach())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positives_per_query", 0),
        ("positive_scale", 0.0),
        ("negative_scale", math.inf),
        ("base", 1.5),
        ("mining_margin", -0.1),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{name} is {value}: give "):
        Config(**{name: value})
