"""Batch norm over the batches of all processes that train together, on any device."""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm


def synchronised(module: nn.Module) -> nn.Module:
    """Let every batch norm of a module see the rows of all processes, as if they were one batch.

    torch's own on CUDA; elsewhere, where torch has none, a plain one. Parameters and buffers stay the same objects
    under the same names, so that optimisers and checkpoints fit both ways.

    Args:
        module: Changed in place.

    Returns:
        The module, another one only where it is a batch norm itself.
    """
    if any(parameter.is_cuda for parameter in module.parameters()):
        return convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm):
        return _SynchronisedBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronised(child))
    return module


class _SynchronisedBatchNorm(_BatchNorm):
    """Takes the place of a batch norm, timm's with dropout and activation too."""

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        self.weight, self.bias = plain.weight, plain.bias
        self.running_mean, self.running_var = plain.running_mean, plain.running_var
        self.num_batches_tracked = plain.num_batches_tracked
        self.drop, self.act = getattr(plain, "drop", nn.Identity()), getattr(plain, "act", nn.Identity())
        self.training = plain.training

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm takes (B, C, …), not {input.dim()} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to the same shape, each channel with mean 0 and variance 1 over all processes."""
        together = self.training and distributed.is_available() and distributed.is_initialized()
        return self.act(self.drop(self._normalised(x) if together else super().forward(x)))

    def _normalised(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        count = _Sum.apply(wide.new_tensor(float(x.numel() // x.shape[1])))
        mean = _Sum.apply(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Sum(Function):
    """Sum over processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total
