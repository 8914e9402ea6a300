"""MoCo v2: closed form, gradients, the order of EMA and queue."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vgssl_core.errors import ConfigError
from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.ssl.method import PairBatch, TrainingScale
from vgssl_core.ssl.mocov2 import Config, Method, moco_loss, queue_length

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
@pytest.mark.parametrize("batch_negatives", [False, True])
def test_loss_equals_its_closed_form(temperature: float, batch_negatives: bool) -> None:
    q, k, queue = units(5, 7, seed=1), units(5, 7, seed=2), units(11, 7, seed=3)
    expected = 0.0
    for i in range(5):
        negatives = [float(q[i] @ row) for row in queue]
        negatives += [float(q[i] @ k[j]) for j in range(5) if j != i and batch_negatives]
        positive = float(q[i] @ k[i])
        total = sum(math.exp(value / temperature) for value in [positive, *negatives])
        expected -= math.log(math.exp(positive / temperature) / total) / 5
    assert float(moco_loss(q, k, queue, temperature, batch_negatives)) == pytest.approx(expected, abs=1e-10)


def test_gradient_equals_the_numerical_one() -> None:
    q = units(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: moco_loss(x, units(3, 4, seed=2), units(6, 4, seed=3), 0.2), q)


def test_two_steps_move_key_encoder_and_queue_in_the_papers_order() -> None:
    method = tiny_method()
    optimiser = torch.optim.SGD(method.network.parameters(), lr=0.1)
    queue = method.queue.clone()
    key_weights = [p.clone() for p in method.key_network.parameters()]
    pointer = 0
    for step in range(2):
        data = batch(step)
        with torch.no_grad():
            twin = tiny_method()
            twin.load_state_dict(method.state_dict())
            keys, queries = twin.key_network(data.y), twin.network(data.x)
            expected_loss = moco_loss(queries, keys, queue, 0.07)
        output = method(data)
        # The logits saw the queue as it was before this batch's keys entered.
        assert float(output.total.detach()) == pytest.approx(float(expected_loss), abs=1e-5)
        optimiser.zero_grad()
        output.total.backward()
        optimiser.step()
        # Neither key encoder nor queue moves before the optimiser has.
        for own, wanted in zip(method.key_network.parameters(), key_weights, strict=True):
            assert torch.allclose(own, wanted, atol=1e-6)
        assert torch.allclose(method.queue, queue, atol=1e-6)
        method.after_step()
        trained = list(method.network.parameters())
        key_weights = [0.9 * old + 0.1 * new.detach() for old, new in zip(key_weights, trained, strict=True)]
        for own, wanted in zip(method.key_network.parameters(), key_weights, strict=True):
            assert torch.allclose(own, wanted, atol=1e-6)
        queue[pointer : pointer + 4] = keys
        pointer += 4
        assert torch.allclose(method.queue, queue, atol=1e-6)
        assert int(method.queue_pointer) == pointer


def test_key_encoder_keeps_its_own_batch_norm_statistics_and_follows_every_parameter() -> None:
    method = tiny_method()
    buffers = {name: value.clone() for name, value in method.key_network.named_buffers()}
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(1.0)
        for buffer in method.network.buffers():
            buffer.add_(1)
    before = {name: value.clone() for name, value in method.key_network.named_parameters()}
    method.after_step()
    after, trained = dict(method.key_network.named_parameters()), dict(method.network.named_parameters())
    assert buffers and after.keys() == trained.keys()
    assert all(torch.equal(value, buffers[name]) for name, value in method.key_network.named_buffers())
    for name, value in after.items():
        assert torch.allclose(value, 0.9 * before[name] + 0.1 * trained[name], atol=1e-6), name
        assert not torch.equal(value, before[name]), name
    method(batch())  # the statistics of its own batches, the positives
    assert any(not torch.equal(value, buffers[name]) for name, value in method.key_network.named_buffers())


def test_queue_wraps_when_the_batch_does_not_divide_it() -> None:
    method = tiny_method()
    filled = [torch.arange(i * 4, i * 4 + 4).repeat(8, 1).T.float() for i in range(3)]
    for keys in filled:
        method._enqueue(keys)
    assert method.queue[:, 0].tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert int(method.queue_pointer) == 2


def test_queue_starts_with_normalised_rows_and_lives_in_the_state() -> None:
    method = tiny_method()
    assert torch.allclose(method.queue.norm(dim=1), torch.ones(10))
    assert {"queue", "queue_pointer", "key_network.head.weight"} <= set(method.state_dict())


def test_symmetric_form_never_shows_a_query_its_positive_as_a_negative() -> None:
    method = tiny_method(symmetric=True)
    data, queue = batch(), method.queue.clone()
    twin = tiny_method(symmetric=True)
    with torch.no_grad():
        forward = moco_loss(twin.network(data.x), twin.key_network(data.y), queue, 0.07)
        backward = moco_loss(twin.network(data.y), twin.key_network(data.x), queue, 0.07)
    assert float(method(data).total.detach()) == pytest.approx(float((forward + backward) / 2), abs=1e-5)
    method.after_step()
    assert int(method.queue_pointer) == 8


def test_shuffled_key_groups_keep_each_key_at_its_row() -> None:
    method = tiny_method(key_batch_norm_groups=2).eval()
    data = batch(count=6)
    with torch.no_grad():
        # In evaluation mode batch norm does not look at the batch, so grouping must change nothing.
        assert torch.allclose(method._keys(data.y), method.key_network(data.y), atol=1e-6)


def test_queue_is_limited_by_the_number_of_pairs() -> None:
    assert queue_length(Config(queue_size=65536, queue_fraction=0.25), TrainingScale(1825, 32)) == 456
    assert queue_length(Config(queue_size=65536), TrainingScale(1825, 32)) == 65536


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
    assert all(p.grad is None for p in method.key_network.parameters())
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in method.network.parameters())
