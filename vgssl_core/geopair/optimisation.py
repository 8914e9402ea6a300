"""One step of the optimiser: mixed precision, accumulated gradients, a step size that follows a schedule."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vgssl_core.errors import ConfigError
from vgssl_core.geopair.config import OptimiserConfig
from vgssl_core.geopair.distributed import Processes
from vgssl_core.models import DescriptorNet, computes_bfloat16
from vgssl_core.models.sync_batch_norm import synchronised
from vgssl_core.ssl.method import LossTerms, PairBatch, SslMethod

#: Whether to send buffers around before each step: they are equal where batch norm is synchronised, and a queue of keys
#: would be much to send. Newer versions of torch have another name for it.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
#: float16 is given up below this factor: by then even gradients of 1 would vanish.
_LEAST_SCALE = 2.0**-14


class Optimisation:
    """Adam on a method's trained parameters.

    Args:
        method: On its device. With several processes its batch norm becomes that of all, where the settings want it.
        config: How a step is made.
        processes: That train together; their gradients are averaged.
    """

    def __init__(self, method: SslMethod, config: OptimiserConfig, processes: Processes) -> None:
        self._method, self._config, self._processes = method, config, processes
        dtype = backbone_dtype(config.precision, processes.device)
        for module in method.modules():  # momentum encoders have networks of their own
            if isinstance(module, DescriptorNet):
                module.autocast_dtype = dtype
        self._model: nn.Module = method
        if processes.count > 1:
            if config.sync_batch_norm:
                synchronised(method)
            self._model = DistributedDataParallel(method, **{_SYNC_BUFFERS: False})
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self._adam = torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay)
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=dtype == torch.float16)

    @property
    def lr(self) -> float:
        """Step size of the last step."""
        return self._adam.param_groups[0]["lr"]

    def step(self, batches: Iterable[PairBatch], number: int, done: float) -> list[LossTerms]:
        """Make one step on the mean loss of some batches.

        Args:
            batches: `OptimiserConfig.accumulate` of them; each is taken when the one before is done with.
            number: Of the step, from 0.
            done: Share of the training that is done, for the schedule.

        Returns:
            What the method made of each batch.
        """
        for group in self._adam.param_groups:
            group["lr"] = self._config.lr * lr_factor(self._config, number, done)
        self._adam.zero_grad(set_to_none=True)
        outputs, count = [], self._config.accumulate
        for number_of_batch, batch in enumerate(batches, start=1):
            with self._without_exchange(number_of_batch < count):
                output = self._model(batch)
                self._scaler.scale(output.total / count).backward()
            outputs.append(output)
        self._scaler.step(self._adam)  # left out where a gradient overflows; the scale goes down until none does
        self._scaler.update()
        self._method.after_step()
        return outputs

    def check_scale(self) -> None:
        """Raise a `ConfigError` where gradients overflow float16 however they are scaled; waits for the device."""
        if self._scaler.is_enabled() and self._scaler.get_scale() < _LEAST_SCALE:
            raise ConfigError("The gradients stay too large for float16: take --precision bf16 or fp32.")

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"adam": self._adam.state_dict(), "scaler": self._scaler.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._adam.load_state_dict(state["adam"])
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])

    def _without_exchange(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients of all but a step's last batch stay in their process."""
        if wanted and isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return contextlib.nullcontext()


def lr_factor(config: OptimiserConfig, step: int, done: float) -> float:
    """What the step size is multiplied with.

    Args:
        config: The schedule.
        step: Steps so far.
        done: Share of the training that is done.
    """
    factor = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * done))
    return factor


def backbone_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What the backbone computes in while training and mining; None is float32 throughout."""
    if precision == "auto":
        precision = "bf16" if computes_bfloat16(device) else "fp32"
    return _DTYPES[precision]
