"""MoCo v2: closed form, gradients, the order of EMA and queue."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vgssl_core.errors import ConfigError
from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.ssl.method import PairBatch, TrainingScale
from vgssl_core.ssl.mocov2 import Config, Method, _Keys, moco_loss, queue_length

SCALE = TrainingScale(pairs=100, batch_size=4)


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def tiny_method(**options: object) -> Method:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(backbone="test_resnet", descriptor_dim=8, pretrained=False))
    return Method(network, Config(**{"queue_size": 10, "momentum": 0.9, **options}), SCALE)  # type: ignore[arg-type]


def batch(seed: int = 0, count: int = 4) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    return PairBatch(*(torch.randn(count, 3, 32, 32, generator=generator) for _ in range(2)))


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize("some_left_out", [False, True])
def test_loss_equals_its_closed_form(temperature: float, some_left_out: bool) -> None:
    q, k, queue = units(5, 7, seed=1), units(5, 7, seed=2), units(11, 7, seed=3)
    left_out = torch.rand(5, 11, generator=torch.Generator().manual_seed(4)) < (0.5 if some_left_out else 0.0)
    expected = 0.0
    for i in range(5):
        negatives = [float(q[i] @ queue[j]) for j in range(11) if not left_out[i, j]]
        positive = float(q[i] @ k[i])
        total = sum(math.exp(value / temperature) for value in [positive, *negatives])
        expected -= math.log(math.exp(positive / temperature) / total) / 5
    seen = moco_loss(q, k, queue, temperature, left_out if some_left_out else None)
    assert float(seen) == pytest.approx(expected, abs=1e-10)


def test_gradient_equals_the_numerical_one() -> None:
    q = units(3, 4, seed=1).requires_grad_()
    keys, queue = units(3, 4, seed=2), units(6, 4, seed=3)
    for left_out in (None, torch.eye(3, 6, dtype=torch.bool), torch.ones(3, 6, dtype=torch.bool)):
        assert torch.autograd.gradcheck(lambda x, m=left_out: moco_loss(x, keys, queue, 0.2, m), q)


def test_a_query_without_negatives_costs_nothing() -> None:
    all_left_out = torch.ones(3, 6, dtype=torch.bool)
    assert float(moco_loss(units(3, 4, seed=1), units(3, 4, seed=2), units(6, 4, seed=3), 0.2, all_left_out)) == 0


def test_two_steps_move_key_encoder_and_queue_in_the_papers_order() -> None:
    method = tiny_method()
    optimiser = torch.optim.SGD(method.network.parameters(), lr=0.1)
    queue = method.queue.clone()
    key_weights = [p.clone() for p in method.key_encoder.parameters()]
    pointer = 0
    for step in range(2):
        data = batch(step)
        with torch.no_grad():
            twin = tiny_method()
            twin.load_state_dict(method.state_dict())
            keys, queries = twin.key_encoder(data.y), twin.network(data.x)
            expected_loss = moco_loss(queries, keys, queue, 0.07)
        output = method(data)
        # The logits saw the queue as it was before this batch's keys entered.
        assert float(output.total.detach()) == pytest.approx(float(expected_loss), abs=1e-5)
        optimiser.zero_grad()
        output.total.backward()
        optimiser.step()
        # Neither key encoder nor queue moves before the optimiser has.
        for own, wanted in zip(method.key_encoder.parameters(), key_weights, strict=True):
            assert torch.allclose(own, wanted, atol=1e-6)
        assert torch.allclose(method.queue, queue, atol=1e-6)
        method.after_step()
        trained = list(method.network.parameters())
        key_weights = [0.9 * old + 0.1 * new.detach() for old, new in zip(key_weights, trained, strict=True)]
        for own, wanted in zip(method.key_encoder.parameters(), key_weights, strict=True):
            assert torch.allclose(own, wanted, atol=1e-6)
        queue[pointer : pointer + 4] = keys
        pointer += 4
        assert torch.allclose(method.queue, queue, atol=1e-6)
        assert int(method.queue_pointer) == pointer


def test_key_encoder_keeps_its_own_batch_norm_statistics_and_follows_every_parameter() -> None:
    method = tiny_method()
    buffers = {name: value.clone() for name, value in method.key_encoder.network.named_buffers()}
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(1.0)
        for buffer in method.network.buffers():
            buffer.add_(1)
    before = {name: value.clone() for name, value in method.key_encoder.network.named_parameters()}
    method.after_step()
    after, trained = dict(method.key_encoder.network.named_parameters()), dict(method.network.named_parameters())
    assert buffers and after.keys() == trained.keys()
    assert all(torch.equal(value, buffers[name]) for name, value in method.key_encoder.network.named_buffers())
    for name, value in after.items():
        assert torch.allclose(value, 0.9 * before[name] + 0.1 * trained[name], atol=1e-6), name
        assert not torch.equal(value, before[name]), name
    method(batch())  # the statistics of its own batches, the positives
    assert any(not torch.equal(value, buffers[name]) for name, value in method.key_encoder.network.named_buffers())


def test_queue_wraps_when_the_batch_does_not_divide_it() -> None:
    method = tiny_method()
    for i in range(3):
        rows = torch.arange(i * 4, i * 4 + 4)
        keys, positions_m = rows.repeat(8, 1).T.float(), rows.repeat(2, 1).T.double()
        method._enqueue(_Keys(keys, keys, positions_m))
    assert method.queue[:, 0].tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert method.queue_positions_m[[0, 1, 2, 9], 1].tolist() == [10, 11, 2, 9]
    assert int(method.queue_pointer) == 2


def test_queue_starts_with_normalised_rows_and_lives_in_the_state() -> None:
    method = tiny_method()
    assert torch.allclose(method.queue.norm(dim=1), torch.ones(10))
    assert {"queue", "queue_pointer", "queue_positions_m", "key_encoder.network.head.weight"} <= set(
        method.state_dict()
    )


def test_symmetric_form_never_shows_a_query_its_positive_as_a_negative() -> None:
    method = tiny_method(symmetric=True)
    data, queue = batch(), method.queue.clone()
    twin = tiny_method(symmetric=True)
    with torch.no_grad():
        forward = moco_loss(twin.network(data.x), twin.key_encoder(data.y), queue, 0.07)
        backward = moco_loss(twin.network(data.y), twin.key_encoder(data.x), queue, 0.07)
    assert float(method(data).total.detach()) == pytest.approx(float((forward + backward) / 2), abs=1e-5)
    method.after_step()
    assert int(method.queue_pointer) == 8


def test_shuffled_key_groups_keep_each_key_at_its_row() -> None:
    method = tiny_method(key_batch_norm_groups=2).eval()
    data = batch(count=6)
    with torch.no_grad():
        # In evaluation mode batch norm does not look at the batch, so grouping must change nothing.
        assert torch.allclose(method._keys(data.y, None).embeddings, method.key_encoder(data.y), atol=1e-6)


def test_keys_of_the_batch_are_negatives_of_other_queries_alone() -> None:
    data, twin = batch(), tiny_method()
    with torch.no_grad():
        keys, queries = twin.key_encoder(data.y), twin.network(data.x)
    expected = 0.0
    for i in range(4):
        others = torch.cat([keys[[j for j in range(4) if j != i]], twin.queue])
        expected += float(moco_loss(queries[i : i + 1], keys[i : i + 1], others, 0.07)) / 4
    assert float(tiny_method(batch_negatives=True)(data).total.detach()) == pytest.approx(expected, abs=1e-5)


def test_keys_of_one_place_are_left_out_of_the_denominator_but_for_the_positive() -> None:
    # 0 and 1 are one place in either batch; the places of 2 and 3 change rows from the first batch to the second.
    places_m = torch.tensor([[0.0, 0], [6, 0], [100, 0], [200, 0]]).double()
    first = replace(batch(seed=0), positions_m=places_m, same_place_m=10.0)
    second = replace(batch(seed=1), positions_m=places_m[[0, 1, 3, 2]] + 1, same_place_m=10.0)
    method, twin = (tiny_method(batch_negatives=True) for _ in range(2))
    with torch.no_grad():
        old_keys, old_queue = twin.key_encoder(first.y), twin.queue[4:]
        method(first)
        method.after_step()
        keys, queries = twin.key_encoder(second.y), twin.network(second.x)
        seen = float(method(second).total)
    in_batch = {0: [2, 3], 1: [2, 3], 2: [0, 1, 3], 3: [0, 1, 2]}
    in_queue = {0: [2, 3], 1: [2, 3], 2: [0, 1, 2], 3: [0, 1, 3]}
    expected = 0.0
    for i in range(4):
        others = torch.cat([keys[in_batch[i]], old_keys[in_queue[i]], old_queue])
        expected += float(moco_loss(queries[i : i + 1], keys[i : i + 1], others, 0.07)) / 4
    assert seen == pytest.approx(expected, abs=1e-5)


def test_keys_whose_position_is_not_known_stay_negatives() -> None:
    data = batch()
    everywhere = replace(data, positions_m=torch.zeros(4, 2).double(), same_place_m=1e6)
    method, twin = tiny_method(), tiny_method()
    assert method.queue_positions_m.isnan().all()
    assert float(method(everywhere).total.detach()) == pytest.approx(float(twin(data).total.detach()), abs=1e-6)
    method.after_step()
    twin.after_step()
    assert method.queue_positions_m[:4].eq(0).all() and twin.queue_positions_m.isnan().all()


def test_keys_of_every_forward_pass_of_a_step_enter_the_queue_once() -> None:
    method = tiny_method()
    method(batch(0))
    method(batch(1))
    method.after_step()
    assert int(method.queue_pointer) == 8
    method.after_step()
    assert int(method.queue_pointer) == 8


def test_projector_makes_the_embeddings_and_leaves_the_descriptors() -> None:
    method = tiny_method(projector_layers=2, projector_dim=5)
    output = method(batch())
    assert method.queue.shape == (10, 5) and output.descriptors.shape == (4, 8)
    output.total.backward()
    assert all(p.grad is not None for p in method.projector.parameters())
    averages = list(method.key_encoder.projector.parameters())
    before = [p.clone() for p in averages]
    with torch.no_grad():
        for p in method.projector.parameters():
            p.add_(1)
    method.after_step()
    assert all(torch.allclose(p, old + 0.1, atol=1e-6) for p, old in zip(averages, before, strict=True))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("queue_size", 0),
        ("queue_fraction", 1.5),
        ("momentum", 1.0),
        ("key_batch_norm_groups", 0),
        ("projector_layers", -1),
        ("projector_dim", 0),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"options.{option} is {value}: give"):
        Config(**{option: value})


def test_queue_is_limited_by_the_number_of_pairs() -> None:
    assert queue_length(Config(queue_size=65536, queue_fraction=0.25), TrainingScale(1825, 32)) == 456
    assert queue_length(Config(queue_size=65536), TrainingScale(1825, 32)) == 65536
    assert queue_length(Config(queue_size=12), TrainingScale(pairs=12, batch_size=32)) == 12  # no batch has more


def test_batch_larger_than_the_queue_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"12 keys but the queue holds 10"):
        queue_length(Config(queue_size=10), TrainingScale(100, 12))


def test_queue_too_short_by_its_fraction_names_it_and_what_it_would_take() -> None:
    config = Config(queue_size=512, queue_fraction=0.25)
    with pytest.raises(ConfigError, match=r"queue_fraction is 0.25 .* 100 pairs; it would take 128 .* --batch_size"):
        queue_length(config, TrainingScale(pairs=100, batch_size=32))
    assert queue_length(config, TrainingScale(pairs=128, batch_size=32)) == 32


def test_key_encoder_takes_no_gradient() -> None:
    method = tiny_method()
    method(batch()).total.backward()
    assert all(p.grad is None for p in method.key_encoder.parameters())
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in method.network.parameters())
