"""The rows of all processes of a training, so that a loss over several GPUs is the loss of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.autograd import Function
from torch.autograd.function import FunctionCtx


def gathered(x: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, with gradient; the same tensor where there is one process.

    The gradient of a row is the sum of its gradients in all processes. Each process may so compute the loss of the
    whole batch, or only that of its own queries against the rows of all: the mean that DistributedDataParallel takes
    over processes is the gradient of the mean of their losses, exactly.

    Args:
        x: (N, …) of any dtype, N the same in every process.

    Returns:
        (W N, …), W the number of processes.
    """
    return x if process_count() == 1 else _Gather.apply(x)


def first_row(x: Tensor) -> int:
    """At which row of ``gathered(x)`` the rows of this process begin."""
    return 0 if process_count() == 1 else distributed.get_rank() * len(x)


def process_count() -> int:
    """Processes that train together; 1 where no process group was started."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _Gather(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(process_count())]
        distributed.all_gather(rows, x.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        # A sum and a slice, rather than a reduce-scatter, which not every backend has; embeddings are small.
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(process_count())[distributed.get_rank()]
