"""The parts of the fake TensorRT that hold values and do nothing."""

from __future__ import annotations

import enum
from typing import Any

import onnx


class Dims:
    """As the binding's: a sequence, and no tuple."""

    def __init__(self, lengths: Any) -> None:
        self._lengths = [int(length) for length in lengths]

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> int:
        return self._lengths[index]


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._initialised = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._initialised = True

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32 = range(4)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 7


class IHostMemory(bytearray):
    """A bytearray for its buffer, which is all that the binding's class has."""

    @property
    def nbytes(self) -> int:
        return len(self)


class ITensor:
    __slots__ = ("dtype", "name", "shape")

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kinds = {onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.FLOAT16: DataType.HALF}
        tensor = value.type.tensor_type
        self.name, self.dtype = value.name, kinds[tensor.elem_type]
        self.shape = Dims(-1 if length.dim_param else length.dim_value for length in tensor.shape.dim)


class ParserError:
    __slots__ = ("_texts",)

    def __init__(self, texts: tuple[str, str, str]) -> None:
        self._texts = texts

    def desc(self) -> str:
        return self._texts[0]

    def node_name(self) -> str:
        return self._texts[1]

    def node_operator(self) -> str:
        return self._texts[2]


class IOptimizationProfile:
    __slots__ = ("_shapes",)

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(low <= middle <= high for low, middle, high in zip(min, opt, max, strict=True))
        self._shapes = input, tuple(min), tuple(max)


class INetworkDefinition:
    __slots__ = ("_model",)

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self._model.graph.output)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._model.graph.input[index])

    def get_output(self, index: int) -> ITensor:
        return ITensor(self._model.graph.output[index])


class IBuilderConfig:
    __slots__ = ("_flags", "_limit", "_profiles", "progress_monitor")

    def __init__(self) -> None:
        self._flags, self._limit, self._profiles = {BuilderFlag.TF32}, 0, []
        self.progress_monitor: IProgressMonitor | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        self._limit = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1
