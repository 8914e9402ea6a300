"""A TensorRT without a GPU: the real names and signatures, descriptors by ONNX Runtime.

`test_tensorrt_api.py` compares the names here with those that were read off the real bindings of 10.3 and 11.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
import json
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_cuda import FakeDriver
from fake_tensorrt_types import (
    BuilderFlag,
    DataType,
    Dims,
    IBuilderConfig,
    IHostMemory,
    ILogger,
    INetworkDefinition,
    IOptimizationProfile,
    IProgressMonitor,
    ITensor,
    MemoryPoolType,
    ParserError,
    TensorIOMode,
)

_MAGIC = b"FAKEPLAN"
_FLOAT32 = 4


@dataclass
class Behaviour:
    """What goes wrong; by default nothing."""

    parse_errors: list[tuple[str, str, str]] = field(default_factory=list)
    builder_refused: bool = False
    build_error: str = ""
    during_build: Callable[[], None] = lambda: None
    plan_error: str = ""
    context_error: str = ""
    address_fails: bool = False
    run_fails: bool = False
    largest_batch: int | None = None
    output: Callable[[np.ndarray], np.ndarray] = lambda values: values
    builds: int = 0
    loaded: list[bytes] = field(default_factory=list)


def make_tensorrt(version: str, driver: FakeDriver, behaviour: Behaviour) -> types.ModuleType:
    """The module ``tensorrt`` of a version."""
    # The value differs between versions; who writes the number instead of the name is found out.
    typed = enum.Enum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 0 if version.startswith("11") else 1})

    class OnnxParser:
        __slots__ = ("_logger", "_network")

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self._network, self._logger = network, logger

        @property
        def num_errors(self) -> int:
            return len(behaviour.parse_errors)

        def get_error(self, index: int) -> ParserError:
            return ParserError(behaviour.parse_errors[index])

        def parse(self, model: bytes, path: str | None = None) -> bool:
            try:
                self._network._model = onnx.load_model_from_string(bytes(memoryview(model)))
            except Exception:  # whatever protobuf raises
                behaviour.parse_errors.append(("Failed to parse the ONNX model", "", ""))
            return not behaviour.parse_errors

    class Builder:
        __slots__ = ("_logger",)

        def __init__(self, logger: ILogger) -> None:
            driver.require_current()
            assert logger._initialised
            self._logger = logger
            if behaviour.builder_refused:
                logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            assert flags == 1 << typed.STRONGLY_TYPED.value
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            driver.require_current()
            behaviour.builds += 1
            assert not config._flags and config._limit and len(config._profiles) == 1
            for severity in ILogger.Severity:
                if severity not in (ILogger.INTERNAL_ERROR, ILogger.ERROR):
                    self._logger.log(severity, f"fake {severity.name.lower()}")
            monitor = config.progress_monitor
            assert monitor._initialised
            monitor.phase_start("Building Engine", None, 2)
            behaviour.during_build()
            goes_on = all([monitor.step_complete("Building Engine", step) for step in range(2)])
            monitor.phase_finish("Building Engine")
            if behaviour.build_error or not goes_on:
                self._logger.log(ILogger.ERROR, behaviour.build_error or "the build was cancelled")
                return None
            name, smallest, largest = config._profiles[0]._shapes
            largest = (behaviour.largest_batch or largest[0], *largest[1:])
            head = {"version": version, "gpu": driver.name, "input": name, "min": smallest, "max": largest}
            return IHostMemory(_MAGIC + json.dumps(head).encode() + b"\n" + network._model.SerializeToString())

    class IExecutionContext:
        __slots__ = ("_addresses", "_engine", "_memory", "_shape")

        def __init__(self, engine: ICudaEngine) -> None:
            self._engine, self._addresses, self._shape = engine, {}, None
            self._memory = driver.allocate(driver.gpu, 1000)

        def __del__(self) -> None:
            driver.release(driver.gpu, self._memory)

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert name in self._engine._tensors and isinstance(memory, int)
            self._addresses[name] = memory
            return not behaviour.address_fails

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            head = self._engine._head
            fits = all(a <= b <= c for a, b, c in zip(head["min"], shape, head["max"], strict=True))
            if fits and name == head["input"]:
                self._shape = tuple(shape)
            return fits

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert self._shape is not None and set(self._addresses) == set(self._engine._tensors)
            driver.enqueue(stream_handle, self._run)
            return not behaviour.run_fails

        def _run(self) -> None:
            (source,), (to,) = (
                [name for name, (mode, _) in self._engine._tensors.items() if mode is wanted]
                for wanted in (TensorIOMode.INPUT, TensorIOMode.OUTPUT)
            )
            size = int(np.prod(self._shape)) * _FLOAT32
            driver.check_range(driver.gpu, self._addresses[source], size)
            block = (ctypes.c_byte * size).from_address(self._addresses[source])
            values = np.frombuffer(block, np.float32).reshape(self._shape)
            result = behaviour.output(self._engine._session.run(None, {source: values})[0]).astype(np.float32)
            driver.check_range(driver.gpu, self._addresses[to], result.nbytes)
            ctypes.memmove(self._addresses[to], result.tobytes(), result.nbytes)

    class ICudaEngine:
        __slots__ = ("_head", "_session", "_tensors")

        def __init__(self, head: dict[str, Any], model: bytes) -> None:
            graph = onnx.load_model_from_string(model).graph
            self._head = head
            self._tensors = {value.name: (TensorIOMode.INPUT, ITensor(value)) for value in graph.input}
            self._tensors |= {value.name: (TensorIOMode.OUTPUT, ITensor(value)) for value in graph.output}
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return self._tensors[name][0]

        def get_tensor_shape(self, name: str) -> Dims:
            return self._tensors[name][1].shape

        def get_tensor_dtype(self, name: str) -> DataType:
            return self._tensors[name][1].dtype

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
            assert name == self._head["input"] and profile_index == 0
            return [Dims(self._head["min"]), Dims(self._head["min"]), Dims(self._head["max"])]

        def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
            if behaviour.context_error:
                make_logger_say(behaviour.context_error)
                return None
            return IExecutionContext(self)

    loggers: list[ILogger] = []

    def make_logger_say(text: str) -> None:
        loggers[-1].log(ILogger.ERROR, text)

    class Runtime:
        __slots__ = ("_logger",)

        def __init__(self, logger: ILogger) -> None:
            driver.require_current()
            self._logger = logger
            loggers.append(logger)

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            behaviour.loaded.append(bytes(serialized_engine))
            head, _, model = bytes(serialized_engine).removeprefix(_MAGIC).partition(b"\n")
            assert bytes(serialized_engine).startswith(_MAGIC), "a real TensorRT may crash on this"
            if behaviour.plan_error:
                self._logger.log(ILogger.ERROR, behaviour.plan_error)
                return None
            described = json.loads(head)
            assert (described["version"], described["gpu"]) == (version, driver.name)
            return ICudaEngine(described, model)

    module = types.ModuleType("tensorrt")
    module.__version__ = version
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    module.NetworkDefinitionCreationFlag = typed
    shared = (ILogger, IProgressMonitor, DataType, TensorIOMode, MemoryPoolType, BuilderFlag, IHostMemory, ITensor)
    shared += (ParserError, IOptimizationProfile, INetworkDefinition, IBuilderConfig)
    for kind in (*shared, OnnxParser, Builder, IExecutionContext, ICudaEngine, Runtime):
        setattr(module, kind.__name__, kind)
    return module
