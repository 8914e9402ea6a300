"""An NVIDIA driver without a GPU: the functions of libcuda.so.1 over ordinary memory.

They are real C callbacks with cuda.h's parameters, so that what ctypes makes of arguments is tried too. A stream's work
is done when it is waited for and not before, as on a GPU.
"""

from __future__ import annotations

import ctypes
import threading
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

from vgssl_core.inference import cuda


class FakeDriver:
    """The functions of libcuda.so.1 that are used, over ordinary memory; `codes` makes a function fail."""

    def __init__(self, name: str = "Fake GPU", capability: tuple[int, int] = (8, 7), memory: int = 1 << 26) -> None:
        self.name, self.capability, self.memory = name, capability, memory
        self.gpus = 1
        self.codes: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.gpu: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.events: dict[int, list[Callable[[], None]]] = {}
        self.contexts = 0
        self.violations: list[str] = []
        self._current = threading.local()
        self._text = b""
        self.library = types.SimpleNamespace(**{name: self._function(name) for name in cuda.SIGNATURES})

    def _function(self, name: str) -> Any:
        body = getattr(self, f"_{name.removesuffix('_v2')}")

        def called(*arguments: Any) -> int:
            self.calls[name] += 1
            if name in self.codes:
                return self.codes[name]
            try:
                return body(*arguments) or 0
            except Exception as problem:  # ctypes would print it and go on.
                self.violations.append(f"{name}{arguments}: {problem!r}")
                return 999

        return ctypes.CFUNCTYPE(ctypes.c_int, *cuda.SIGNATURES[name])(called)

    @property
    def held(self) -> tuple[int, int, int, int]:
        """What was not given back: GPU memory, pinned memory, streams and events, contexts."""
        return len(self.gpu), len(self.pinned), len(self.streams) + len(self.events), self.contexts

    def require_current(self) -> None:
        assert getattr(self._current, "stack", []), "no context is current in this thread"

    def check_range(self, blocks: dict[int, Any], address: int, count: int) -> None:
        inside = any(start <= address and address + count <= start + len(block) for start, block in blocks.items())
        assert inside, f"{count} bytes at {address:x} are not allocated"

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        self.require_current()
        self.streams[stream].append(work)

    def allocate(self, blocks: dict[int, Any], count: int) -> int:
        self.require_current()
        block = ctypes.create_string_buffer(b"\xff" * count, count)  # NaN, where nothing is written
        blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def release(self, blocks: dict[int, Any], address: int) -> None:
        """What TensorRT frees when an object of its goes; an exception there would be lost."""
        if not getattr(self._current, "stack", []) or address not in blocks:
            self.violations.append(f"{address:x} is freed without a current context, or twice")
        blocks.pop(address, None)

    def _cuInit(self, flags: int) -> None:
        assert flags == 0

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        self._text = b"out of memory" if code == cuda.OUT_OF_MEMORY else b"fake failure"
        text[0] = self._text

    def _cuDeviceGetCount(self, count: Any) -> None:
        count[0] = self.gpus

    def _cuDeviceGet(self, device: Any, ordinal: int) -> None:
        assert ordinal < self.gpus
        device[0] = ordinal

    def _cuDeviceGetName(self, text: Any, length: int, device: int) -> None:
        ctypes.memmove(text, (self.name.encode() + b"\0")[:length], min(len(self.name) + 1, length))

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        value[0] = {16: 8, 75: self.capability[0], 76: self.capability[1]}[attribute]

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        self.contexts += 1
        context[0] = 0x7FFF_0000_1234

    def _cuDevicePrimaryCtxRelease(self, device: int) -> None:
        self.contexts -= 1

    def _cuCtxPushCurrent(self, context: int) -> None:
        assert context == 0x7FFF_0000_1234
        self._current.stack = [*getattr(self._current, "stack", []), context]

    def _cuCtxPopCurrent(self, context: Any) -> None:
        context[0] = self._current.stack.pop()

    def _cuMemAlloc(self, address: Any, count: int) -> int:
        if sum(map(len, self.gpu.values())) + count > self.memory:
            return cuda.OUT_OF_MEMORY
        address[0] = self.allocate(self.gpu, count)
        return 0

    def _cuMemFree(self, address: int) -> None:
        self.require_current()
        del self.gpu[address]

    def _cuMemHostAlloc(self, address: Any, count: int, flags: int) -> None:
        address[0] = self.allocate(self.pinned, count)

    def _cuMemFreeHost(self, address: int) -> None:
        self.require_current()
        del self.pinned[address]

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        self.require_current()
        handle = 0x7FFF_0000_8000 + len(self.streams)
        self.streams[handle] = []
        stream[0] = handle

    def _cuStreamDestroy(self, stream: int) -> None:
        del self.streams[stream]

    def _cuEventCreate(self, event: Any, flags: int) -> None:
        self.require_current()
        assert flags & 1, "waiting for this event would spin"
        event[0] = 0x7FFF_0000_9000 + len(self.events)
        self.events[event[0]] = []

    def _cuEventDestroy(self, event: int) -> None:
        del self.events[event]

    def _cuEventRecord(self, event: int, stream: int) -> None:
        self.require_current()
        self.events[event], self.streams[stream] = self.streams[stream], []

    def _cuEventSynchronize(self, event: int) -> None:
        for step in self.events[event]:
            step()

    def _cuMemcpyHtoDAsync(self, to: int, source: int, count: int, stream: int) -> None:
        self.check_range(self.gpu, to, count)
        self.check_range(self.pinned, source, count)
        self.enqueue(stream, lambda: ctypes.memmove(to, source, count) and None)

    def _cuMemcpyDtoHAsync(self, to: int, source: int, count: int, stream: int) -> None:
        self.check_range(self.pinned, to, count)
        self.check_range(self.gpu, source, count)
        self.enqueue(stream, lambda: ctypes.memmove(to, source, count) and None)
