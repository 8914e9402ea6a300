"""SimSiam: the stop-gradient on both sides, the terms of the paper."""

from __future__ import annotations

import pytest
import torch
from small_methods import build_method, make_batch

from vgssl_core.ssl.prediction import prediction_loss


def test_terms_are_those_of_the_paper_in_both_directions() -> None:
    method, twin = build_method("simsiam"), build_method("simsiam")
    batch = make_batch(method)
    terms = method(batch).terms
    with torch.no_grad():
        x, y = (twin.embed(images)[1] for images in (batch.x, batch.y))
        there, back = prediction_loss(twin.predictor(x), y), prediction_loss(twin.predictor(y), x)
    assert float(terms["prediction"].detach()) == pytest.approx(float(there), abs=1e-5)
    assert float(terms["prediction_reverse"].detach()) == pytest.approx(float(back), abs=1e-5)
    one_way = build_method("simsiam", symmetric=False)(batch)
    assert one_way.terms.keys() == {"prediction"}
    assert float(one_way.total.detach()) == pytest.approx(float(there), abs=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_flows_through_the_predicting_side_alone(symmetric: bool) -> None:
    method = build_method("simsiam", symmetric=symmetric).double()
    batch = make_batch(method, dtype=torch.float64)
    method(batch).total.backward()
    seen = [p.grad.clone() for p in method.network.parameters()]
    twin = build_method("simsiam", symmetric=symmetric).double()
    with torch.no_grad():
        fixed_x, fixed_y = (twin.embed(images)[1] for images in (batch.x, batch.y))
    loss = prediction_loss(twin.predictor(twin.embed(batch.x)[1]), fixed_y)
    if symmetric:
        loss = loss + prediction_loss(twin.predictor(twin.embed(batch.y)[1]), fixed_x)
    loss.backward()
    for own, wanted in zip(seen, (p.grad for p in twin.network.parameters()), strict=True):
        assert torch.allclose(own, wanted, atol=1e-10)


def test_there_is_one_network_and_the_state_says_so() -> None:
    parts = {key.split(".")[0] for key in build_method("simsiam").state_dict()}
    assert parts == {"network", "projector", "predictor"}
