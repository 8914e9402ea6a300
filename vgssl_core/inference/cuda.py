"""The little of CUDA that an engine needs: one GPU, its memory with pinned twins, one stream, asynchronous copies.

Over the driver's own library by ctypes, because that is the one piece of CUDA that is there wherever a GPU works, with
an ABI that has not changed since CUDA 4. The other ways fail on one of our machines: the wheels of ``cuda-bindings``
must fit the driver's CUDA release (a wheel for CUDA 13 refuses JetPack 6, which has 12.6) and are made for ARM servers
and not for Jetson, ``libcudart`` has another name in each release, and torch is not on the robot.

TensorRT allocates in the GPU's primary context, which is the one that is used here; so torch or FAISS in the same
process share it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from ctypes import POINTER, c_char, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import ConfigError

LIBRARY = "libcuda.so.1"
#: Function of the driver → its parameters, as cuda.h has them for 64 bits; each returns an int, 0 for success.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (POINTER(c_char), c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
}
OUT_OF_MEMORY, DEINITIALIZED = 2, 4
_MULTIPROCESSORS, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 16, 75, 76
_STREAM_NON_BLOCKING, _EVENT_BLOCKING_SYNC, _EVENT_NO_TIMING = 1, 1, 2
_NAME_BYTES = 256


class CudaError(ConfigError):
    """The GPU or its driver is missing, or refused something."""


@dataclass(frozen=True)
class Buffer:
    """Memory on the GPU and its pinned twin on the host, from which copies need no detour.

    Attributes:
        host: The twin; its memory is gone when the `Device` is closed.
        address: Of the memory on the GPU.
    """

    host: NDArray[np.float32]
    address: int


class Device:
    """The first GPU that ``CUDA_VISIBLE_DEVICES`` shows, a stream, and what was allocated.

    Attributes:
        name: For example ``Orin``.
        description: Name, compute capability and number of multiprocessors: GPUs that differ in it need other engines.
        stream: Handle of the stream; it does not wait for other streams.
    """

    def __init__(self) -> None:
        """Open the GPU.

        Raises:
            CudaError: There is no driver, no GPU, or it refuses.
        """
        self._driver = load_driver()
        self._call("cuInit", 0)
        if self._get("cuDeviceGetCount", c_int) < 1:
            raise CudaError("The NVIDIA driver shows no GPU: set CUDA_VISIBLE_DEVICES, or use the backend onnxruntime.")
        device = self._get("cuDeviceGet", c_int, 0)
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", name, _NAME_BYTES, device)
        multiprocessors, major, minor = (
            self._get("cuDeviceGetAttribute", c_int, attribute, device)
            for attribute in (_MULTIPROCESSORS, _CAPABILITY_MAJOR, _CAPABILITY_MINOR)
        )
        self.name = name.value.decode(errors="replace")
        self.description = f"{self.name}, compute capability {major}.{minor}, {multiprocessors} multiprocessors"
        self._context = self._get("cuDevicePrimaryCtxRetain", c_void_p, device)
        self._freeing = contextlib.ExitStack()
        self._freeing.callback(self._free, "cuDevicePrimaryCtxRelease_v2", device)
        try:
            with self.current():
                self.stream: int = self._get("cuStreamCreate", c_void_p, _STREAM_NON_BLOCKING)
                self._freeing.callback(self._free_current, "cuStreamDestroy_v2", self.stream)
                self._done = self._get("cuEventCreate", c_void_p, _EVENT_BLOCKING_SYNC | _EVENT_NO_TIMING)
                self._freeing.callback(self._free_current, "cuEventDestroy_v2", self._done)
        except CudaError:
            self._freeing.close()
            raise

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the calling thread's; everything but this method and `close` needs that."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._get("cuCtxPopCurrent_v2", c_void_p)

    def allocate(self, shape: tuple[int, ...]) -> Buffer:
        """A float32 buffer, not filled; freed by `close`.

        Raises:
            CudaError: There is not enough memory.
        """
        count = 4 * math.prod(shape)
        address = self._get("cuMemAlloc_v2", c_uint64, count)
        self._freeing.callback(self._free_current, "cuMemFree_v2", address)
        pinned = self._get("cuMemHostAlloc", c_void_p, count, 0)
        self._freeing.callback(self._free_current, "cuMemFreeHost", pinned)
        host = np.frombuffer((ctypes.c_byte * count).from_address(pinned), np.float32).reshape(shape)
        return Buffer(host, address)

    def copy(self, to: Literal["gpu", "host"], buffer: Buffer, rows: int) -> None:
        """Queue a copy of a buffer's first rows in the stream; they must stay as they are until `synchronize`."""
        host, count = buffer.host.ctypes.data, rows * buffer.host[:1].nbytes
        if to == "gpu":
            self._call("cuMemcpyHtoDAsync_v2", buffer.address, host, count, self.stream)
        else:
            self._call("cuMemcpyDtoHAsync_v2", host, buffer.address, count, self.stream)

    def synchronize(self) -> None:
        """Wait until the stream has nothing left to do.

        The thread sleeps; waiting for the stream itself would burn a core that the robot needs for other work.

        Raises:
            CudaError: Something in the stream failed.
        """
        self._call("cuEventRecord", self._done, self.stream)
        self._call("cuEventSynchronize", self._done)

    def close(self) -> None:
        """Free everything, in reverse order; again is nothing."""
        self._freeing.close()

    def _free_current(self, function: str, *arguments: Any) -> None:
        self._call("cuCtxPushCurrent_v2", self._context, ignored=DEINITIALIZED)
        self._free(function, *arguments)
        self._call("cuCtxPopCurrent_v2", c_void_p(), ignored=DEINITIALIZED)

    def _free(self, function: str, *arguments: Any) -> None:
        # At the interpreter's end the driver may be gone already, and the memory with it.
        self._call(function, *arguments, ignored=DEINITIALIZED)

    def _get(self, function: str, kind: type[Any], *arguments: Any) -> Any:
        """What a function writes to the address in its first parameter."""
        result = kind()
        self._call(function, result, *arguments)
        return result.value

    def _call(self, function: str, *arguments: Any, ignored: int = 0) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code in (0, ignored):
            return
        text = c_char_p()
        self._driver.cuGetErrorString(code, text)
        reason = (text.value or b"unknown error").decode(errors="replace")
        remedy = "use the backend onnxruntime, or look at the driver with nvidia-smi (on a Jetson: tegrastats)"
        if code == OUT_OF_MEMORY:
            remedy = "give a smaller max_batch, or end other programs that hold GPU memory"
        raise CudaError(f"{function} of the NVIDIA driver failed: {reason} (error {code}). Remedy: {remedy}.")


def load_driver() -> Any:
    """The driver's library with the signatures of what is used here.

    Raises:
        CudaError: It is not there.
    """
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as problem:
        raise CudaError(
            f"There is no NVIDIA driver here ({problem}): install it, in a container run with --gpus all or "
            "--runtime nvidia, or use the backend onnxruntime."
        ) from problem
    for name, parameters in SIGNATURES.items():
        function = getattr(driver, name)
        function.argtypes, function.restype = parameters, c_int
    return driver
