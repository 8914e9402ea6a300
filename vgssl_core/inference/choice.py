"""What ``backend: auto`` and ``precision: auto`` take."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from vgssl_core.errors import ConfigError
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.cpu import is_x86_64

_ADVANTAGES = {
    "tensorrt": "it runs on the GPU",
    "openvino": "it is faster here than onnxruntime",
    "onnxruntime": "it runs on every CPU",
}
_TRANSFORMERS = re.compile(r"(vit|deit|eva|beit)")


@dataclass(frozen=True)
class Choice:
    """An engine and why.

    Attributes:
        backend: Its name.
        reason: For the log.
    """

    backend: str
    reason: str


@dataclass(frozen=True)
class Task:
    """What decides which CPU engine is faster (measured in docs/benchmarks.md).

    Attributes:
        precision: What to compute in.
        is_transformer: The network is a vision transformer.
        is_x86_64: The machine has a 64-bit PC processor; elsewhere nothing is known.
    """

    precision: str
    is_transformer: bool
    is_x86_64: bool

    @classmethod
    def of(cls, bundle: Bundle, precision: str) -> Task:
        """A bundle on this machine."""
        backbone = str(bundle.architecture.get("backbone", ""))
        return cls(precision, _TRANSFORMERS.match(backbone) is not None, is_x86_64())

    @property
    def suits_openvino(self) -> bool:
        """Whether OpenVINO is known to be the faster engine."""
        return self.is_x86_64 and (self.precision != "fp32" or self.is_transformer)


def choose_backend(names: Collection[str], obstacle: Callable[[str], str | None], task: Task) -> Choice:
    """The engine that ``auto`` takes.

    Args:
        names: The engines that there are.
        obstacle: Why an engine cannot run the task here, or None; only asked until one can.
        task: What to run.

    Raises:
        ConfigError: No engine can; tells why for each.
    """
    on_cpu = ["openvino", "onnxruntime"] if task.suits_openvino else ["onnxruntime", "openvino"]
    known = [name for name in ("tensorrt", *on_cpu) if name in names]
    passed: list[str] = []
    for name in [*known, *sorted(set(names) - set(known))]:
        problem = obstacle(name)
        if problem is None:
            suits = name != "openvino" or task.suits_openvino
            advantage = _ADVANTAGES.get(name) if suits else None
            reason = f"backend auto takes {name}, because {advantage or f'no other computes in {task.precision} here'}"
            return Choice(name, f"{reason} ({'; '.join(passed)})" if passed else reason)
        passed.append(f"{name}: {problem}")
    raise ConfigError(f"No backend can compute in {task.precision} here ({'; '.join(passed)}).")
