"""What bfloat16 and channels-last memory bring a MoCo v2 step of the small configuration, against float32 and NCHW.

Both run in turn in one process: ``python benchmarks/train_step.py``. Prints milliseconds per step and their ratio.
"""

from __future__ import annotations

import statistics
import time

import torch

from vgssl_core.errors import ConfigError
from vgssl_core.models import NetworkConfig, build_network
from vgssl_core.resources import config_file
from vgssl_core.ssl.method import PairBatch, TrainingScale
from vgssl_core.ssl.mocov2 import Config, Method
from vgssl_core.storage import read_yaml

ROUNDS = 12


def prepared(settings: dict, fast: bool) -> tuple[Method, torch.optim.Optimizer, PairBatch]:
    """A method, its optimiser and one batch, in the one layout and precision or the other."""
    torch.manual_seed(0)
    layout = torch.channels_last if fast else torch.contiguous_format
    names = ("backbone", "stage", "pooling", "descriptor_dim")
    network = build_network(NetworkConfig(**{name: settings[name] for name in names}, pretrained=False))
    network.autocast_dtype = torch.bfloat16 if fast else None
    batch_size = settings["batch_size"]
    method = Method(network.to(memory_format=layout), Config(**settings["options"]), TrainingScale(800, batch_size))
    views = [torch.randn(batch_size, 3, 48, 64).contiguous(memory_format=layout) for _ in range(2)]
    return method.train(), torch.optim.Adam(network.parameters(), lr=1e-4), PairBatch(*views)


def step_ms(method: Method, optimiser: torch.optim.Optimizer, batch: PairBatch) -> float:
    """Milliseconds of one training step."""
    begin = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    method(batch).total.backward()
    optimiser.step()
    method.after_step()
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    """Measure both in turn and print."""
    settings = read_yaml(config_file("train/small/mocov2.yaml"), ConfigError, "a configuration of training")
    plain, fast = prepared(settings, fast=False), prepared(settings, fast=True)
    step_ms(*plain), step_ms(*fast)  # the first step allocates
    times = [(step_ms(*plain), step_ms(*fast)) for _ in range(ROUNDS)]
    slow_ms, fast_ms = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"threads {torch.get_num_threads()}, batch {settings['batch_size']} pairs at 64x48, {settings['backbone']}")
    print(f"float32, NCHW            {slow_ms:7.1f} ms per step")
    print(f"bfloat16, channels last  {fast_ms:7.1f} ms per step")
    print(f"ratio                    {slow_ms / fast_ms:7.2f}")


if __name__ == "__main__":
    main()
