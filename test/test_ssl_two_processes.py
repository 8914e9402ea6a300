"""Two processes with half the batch each train as one with the whole batch: same losses, gradients, queue, averages."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from small_methods import build_method, make_batch, variant_name, variants
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from vgssl_core.models.sync_batch_norm import synchronised
from vgssl_core.ssl.method import PairBatch, SslMethod

PROCESSES, STEPS, QUERIES = 2, 2, 6


def half(batch: PairBatch, rank: int) -> PairBatch:
    """The rows of one process."""
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    rows = {key: part.chunk(PROCESSES)[rank] for key, part in parts.items() if isinstance(part, torch.Tensor)}
    return dataclasses.replace(batch, **rows)


def train(method: SslMethod, rank: int | None) -> dict[str, Any]:
    """Loss and gradients of each step, and the state at the end; ``rank`` None is one process with all rows."""
    model = method if rank is None else DistributedDataParallel(method)
    optimiser = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.05)
    steps = []
    for step in range(STEPS):
        batch = make_batch(method, step, QUERIES, positions=True, dtype=torch.float64)
        output = model(batch if rank is None else half(batch, rank))
        optimiser.zero_grad()
        output.total.backward()
        gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        terms = {name: term.detach() for name, term in output.terms.items()}
        steps.append({"terms": terms, "gradients": gradients, "descriptors": output.descriptors})
        optimiser.step()
        method.after_step()
    return {"steps": steps, "state": method.state_dict()}


def work(rank: int, folder: Path) -> None:
    """One of the processes: every variant in turn."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    seen = [train(synchronised(build_method(name, **options).double()), rank) for name, options in variants()]
    torch.save(seen, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each process saw, by process and variant."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (folder,), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("number", range(len(variants())), ids=["-".join(map(variant_name, v)) for v in variants()])
def test_two_processes_train_as_one_with_the_whole_batch(number: int, processes: list[list[dict[str, Any]]]) -> None:
    name, options = variants()[number]
    one = train(build_method(name, **options).double(), None)
    both = [process[number] for process in processes]
    for step, expected in enumerate(one["steps"]):
        seen = [process["steps"][step] for process in both]
        means = {key: sum(process["terms"][key] for process in seen) / PROCESSES for key in expected["terms"]}
        assert_equal(means, expected["terms"])
        assert_equal({"": torch.cat([process["descriptors"] for process in seen])}, {"": expected["descriptors"]})
        for process in seen:
            assert_equal(process["gradients"], expected["gradients"])
    # Queries and negatives, or two directions, of two processes enter a queue in another order.
    reordered = options.get("hard_negatives") or options.get("symmetric")
    for process in both:
        states = process["state"], one["state"]
        assert_equal(*(map(by_key, states) if reordered else states))


def assert_equal(seen: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To 1e-6 of the largest value; gradients that are zero but for rounding have no digits of their own."""
    assert seen.keys() == expected.keys()
    largest = max(float(value.nan_to_num().abs().max()) for value in expected.values())
    for key, value in expected.items():
        close = torch.isclose(seen[key], value, rtol=1e-6, atol=1e-12 * largest, equal_nan=True)
        assert close.all(), key


def by_key(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same state with the rows of a queue, each with its position, in the order of their first numbers."""
    if "queue" not in state:
        return state
    order = state["queue"][:, 0].argsort()
    return {**state, **{name: state[name][order] for name in ("queue", "queue_positions_m")}}
