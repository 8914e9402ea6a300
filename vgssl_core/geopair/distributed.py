"""The processes of one training, as torchrun starts them; one that was started alone is the only one."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from vgssl_core.models import best_device

#: Rank 0 may render a town or write a large checkpoint while the others wait.
_PATIENCE = datetime.timedelta(hours=2)
#: For the message of a process that fails.
_LAST_WORDS = datetime.timedelta(seconds=20)


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        device: Of this process.
        rank: Number of this process, from 0.
        count: How many there are.
        here: How many of them share this machine.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Which of so many rows are this process's."""
        each = -(-rows // self.count)
        return slice(min(rows, self.rank * each), min(rows, (self.rank + 1) * each))

    def joined(self, rows: Tensor, total: int) -> Tensor:
        """The rows of all processes, in order, from each one's `share` of ``total`` rows; without gradient."""
        if self.count == 1:
            return rows
        each = -(-total // self.count)
        padded = torch.cat([rows, rows.new_zeros((each - len(rows), *rows.shape[1:]))])
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        distributed.all_gather(parts, padded.contiguous())
        return torch.cat(parts)[:total]

    def agreed(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)  # on the CPU, so that no device is waited for
        distributed.broadcast(shared, 0)
        return shared.item()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes, element by element."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values / self.count

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers, where each had its own batch-norm statistics."""
        if self.count > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """The first process does what is in here before the others, who find it done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


@contextlib.contextmanager
def all_processes(device: str) -> Iterator[Processes]:
    """Meet the other processes that torchrun started; leave them at the end.

    When processes fail, the error of the first to fail is raised, and the others end silently: what they tell is only
    that one is missing.

    Args:
        device: ``auto``, ``cuda`` (each process takes its own GPU) or any other of torch.

    Raises:
        ConfigError: A device that this machine has not.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(best_device(device))
        return
    store, rank, count = next(rendezvous("env://", timeout=_PATIENCE))
    try:
        chosen = best_device(device)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(chosen)
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
        yield Processes(chosen, rank, count, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        distributed.barrier()
        distributed.destroy_process_group()
    except Exception:
        if not _is_first_to_fail(store):
            raise SystemExit(1) from None
        raise


def _is_first_to_fail(store: distributed.Store) -> bool:
    """Whether no other process failed before; if one did, after giving it time to tell why.

    torchrun ends all processes as soon as the first one is gone.
    """
    with contextlib.suppress(RuntimeError):  # the process that held the store has gone, or the time is over
        if store.add("failures", 1) == 1:
            return True
        store.wait(["nothing"], _LAST_WORDS)
    return False
