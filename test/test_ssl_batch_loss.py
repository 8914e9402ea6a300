"""SimCLR, Barlow Twins and VICReg as methods: the concatenated form, projector, positions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_methods import build_method, make_batch

from vgssl_core.ssl.barlow_twins import barlow_twins_terms
from vgssl_core.ssl.method import LossTerms, PairBatch, SslMethod
from vgssl_core.ssl.simclr import nt_xent
from vgssl_core.ssl.vicreg import vicreg_terms

#: A method's terms of embeddings, by its name.
TERMS = {
    "simclr": lambda x, y, config: {"nt_xent": nt_xent(x, y, config.temperature)},
    "barlow_twins": lambda x, y, config: barlow_twins_terms(x, y, config.redundancy_weight),
    "vicreg": vicreg_terms,
}


@pytest.fixture(params=TERMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def small(name: str, **options: object) -> SslMethod:
    return build_method(name, **options).double()


def values(output: LossTerms) -> dict[str, float]:
    return {name: float(term.detach()) for name, term in output.terms.items()}


def test_hard_negatives_are_a_pair_of_two_views_for_each_query(name: str) -> None:
    method = small(name)
    assert (method.negatives_per_query, method.negative_views) == (1, 2)
    assert method.queries_per_step(64) == 32
    assert small(name, hard_negatives=False).queries_per_step(64) == 64


def test_loss_is_that_of_queries_and_negatives_concatenated_by_hand(name: str) -> None:
    method = small(name)
    batch = make_batch(method, dtype=torch.float64)
    by_hand = (torch.cat([batch.x, batch.negatives[:, 0]]), torch.cat([batch.y, batch.negatives_y[:, 0]]))
    x, y = (method.projector(method.network(images)).detach() for images in by_hand)
    assert x.shape == (8, 12)
    expected = {term: float(value) for term, value in TERMS[name](x, y, method.config).items()}
    assert values(method(batch)) == pytest.approx(expected, abs=1e-10)


def test_without_hard_negatives_the_views_are_queries_and_positives(name: str) -> None:
    method = small(name, hard_negatives=False)
    batch = make_batch(method, dtype=torch.float64)
    x, y = (method.projector(method.network(images)).detach() for images in (batch.x, batch.y))
    expected = {term: float(value) for term, value in TERMS[name](x, y, method.config).items()}
    assert values(method(batch)) == pytest.approx(expected, abs=1e-10)


def test_descriptors_are_those_of_queries_and_their_positives_alone(name: str) -> None:
    method = small(name).eval()
    batch = make_batch(method, dtype=torch.float64)
    output = method(batch)
    assert torch.allclose(output.descriptors, method.network(batch.x), atol=1e-10)
    assert torch.allclose(output.positive_descriptors, method.network(batch.y), atol=1e-10)
    assert not output.descriptors.requires_grad and not output.positive_descriptors.requires_grad


def test_gradient_reaches_network_and_projector(name: str) -> None:
    method = small(name)
    method(make_batch(method, dtype=torch.float64)).total.backward()
    # The mean over the batch is taken away, so a bias before it has no say; all others have.
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert all(method.projector[i].weight.grad.any() for i in (0, len(method.projector) - 1))
    assert any(parameter.grad.any() for parameter in method.network.backbone.parameters())


def test_no_projector_leaves_the_descriptors_as_embeddings(name: str) -> None:
    method = small(name, projector_layers=0)
    batch = make_batch(method, dtype=torch.float64)
    x = method.network(torch.cat([batch.x, batch.negatives[:, 0]])).detach()
    y = method.network(torch.cat([batch.y, batch.negatives_y[:, 0]])).detach()
    expected = {term: float(value) for term, value in TERMS[name](x, y, method.config).items()}
    assert values(method(batch)) == pytest.approx(expected, abs=1e-10)


def placed(batch: PairBatch, query_x_m: list[float], negative_x_m: list[float]) -> PairBatch:
    queries, negatives = (
        torch.tensor([[x, 0.0] for x in places], dtype=torch.float64) for places in (query_x_m, negative_x_m)
    )
    return dataclasses.replace(batch, positions_m=queries, negative_positions_m=negatives[:, None], same_place_m=25)


def test_simclr_leaves_out_queries_and_negatives_of_one_place() -> None:
    method = small("simclr")
    batch = make_batch(method, dtype=torch.float64)
    x, y = (
        method.projector(method.network(torch.cat([first, second[:, 0]]))).detach()
        for first, second in ((batch.x, batch.negatives), (batch.y, batch.negatives_y))
    )
    one_place = torch.eye(8, dtype=torch.bool)
    for a, b in ((0, 1), (2, 5)):  # two queries; a query and another's negative
        one_place[a, b] = one_place[b, a] = True
    output = method(placed(batch, [0, 25, 100, 200], [300, 120, 400, 500]))
    expected = nt_xent(x, y, 0.07, one_place)
    assert float(output.total.detach()) == pytest.approx(float(expected), abs=1e-10)
    assert float(expected) < float(nt_xent(x, y, 0.07))


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_positions_change_nothing_where_there_are_no_negatives(name: str) -> None:
    batch = make_batch(small(name), dtype=torch.float64)
    plain, with_positions = small(name)(batch), small(name)(placed(batch, [0, 1, 2, 3], [4, 5, 6, 7]))
    assert values(with_positions) == values(plain)
