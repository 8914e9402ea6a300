"""TensorRT on NVIDIA GPUs: Jetson with JetPack 6.1 or newer (TensorRT 10.3), and data-centre GPUs up to TensorRT 11.

The engine is built from the bundle's ONNX file on the machine that runs it, which takes minutes; it is compared with
ONNX Runtime, kept in a cache, and loaded from there the next time. Nothing falls back: what does not work is an error.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vgssl_core.errors import BundleError, ConfigError, DataError
from vgssl_core.imaging import Image
from vgssl_core.inference.bundle import Bundle
from vgssl_core.inference.cuda import Device
from vgssl_core.inference.engine_cache import EngineCache, EngineKey
from vgssl_core.inference.input_buffer import InputBuffer
from vgssl_core.inference.tensorrt_build import build
from vgssl_core.inference.tensorrt_check import check_cached, check_new
from vgssl_core.inference.tensorrt_engine import Engine

#: Versions below have other functions or none that keep the precisions of the network.
_OLDEST = (10, 3)
#: From this major version on, nobody has looked whether the functions are still there.
_UNKNOWN_MAJOR = 12
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How engines are built and where they are kept.

    Attributes:
        max_batch: Images in the largest batch; more are split. GPU memory grows with it.
        workspace_mib: GPU memory in MiB that a layer may use for its work.
        cache: Folder of built engines; None is ``tensorrt`` in the user's cache.
    """

    max_batch: int = 8
    workspace_mib: int = 1024
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is out of range.
        """
        if not 1 <= self.max_batch <= 1024:
            raise ConfigError(f"max_batch is {self.max_batch}: give 1 to 1024 images.")
        if not 16 <= self.workspace_mib <= 2**20:
            raise ConfigError(f"workspace_mib is {self.workspace_mib}: give 16 to {2**20} MiB.")


class Embedder:
    """Embeds images with a bundle's network on a GPU; see `vgssl_core.inference.embedder`.

    It may be called from several threads, and then works for one at a time. `close` frees the GPU's memory, as does
    the end of a ``with`` block.

    Attributes:
        package: What must be installed.
        precisions: Those that it can compute in.
        name: Engine, version, GPU and precision, for logs and reports.
        model_id, dimension, preprocessing: The bundle's.
    """

    package = "tensorrt"
    precisions = ("fp16", "fp32", "int8")

    def __init__(self, bundle: Bundle, threads: int, precision: str = "fp16", settings: Settings | None = None) -> None:
        """Load the engine from the cache, or build it, which takes minutes.

        Args:
            bundle: A checked bundle.
            threads: Threads of the other parts; the engine runs on the GPU.
            precision: One of `precisions`; the bundle must have a network of it, because it is baked into the file.
            settings: How to build, and where engines are kept.

        Raises:
            BundleError: The bundle has no network of that precision, TensorRT cannot build it, or the engine computes
                something else.
            ConfigError: TensorRT is too old, there is no GPU, it has too little memory, or the cache cannot be used.
        """
        if precision not in self.precisions:
            raise ConfigError(f"TensorRT has no precision {precision!r}: give one of {', '.join(self.precisions)}.")
        version = _usable_version()
        path = bundle.model_path(precision)
        self._settings = settings or Settings()
        self.model_id, self.dimension, self.preprocessing = bundle.model_id, bundle.dimension, bundle.preprocessing
        self._buffer, self._lock = InputBuffer(bundle.preprocessing), threading.Lock()
        self._device = Device()
        self._engine: Engine | None = None
        self.name = f"tensorrt {version} ({self._device.name}, {precision})"
        self.precision = precision
        try:
            self._open(bundle, path, precision, version)
        except BaseException:
            self.close()
            raise

    @classmethod
    def obstacle(cls, precision: str) -> str | None:
        """Why it cannot compute on this machine, and what to do; None where it can."""
        try:
            _usable_version()
            Device().close()
        except ConfigError as problem:
            return str(problem).rstrip(".")
        return None

    def _open(self, bundle: Bundle, path: Path, precision: str, version: str) -> None:
        settings = self._settings
        model = path.read_bytes()
        checksum = hashlib.sha256(model).hexdigest()
        # TensorRT's parser is native code: it gets the bytes that the bundle's own checks were made of.
        if checksum != bundle.files[path.name]["sha256"]:
            raise BundleError(f"{path} was changed after the bundle was opened: open the bundle again.")
        key = EngineKey(checksum, version, self._device.description, settings.max_batch, settings.workspace_mib)
        size = self.preprocessing.height, self.preprocessing.width
        with self._device.current():
            buffers = (
                self._device.allocate((settings.max_batch, 3, *size)),
                self._device.allocate((settings.max_batch, self.dimension)),
            )

        def load(plan: bytes) -> Engine:
            self._use(Engine(plan, bundle, path, buffers, self._device))
            _log.info("%s: %s.", self.name, check_cached(self, bundle, precision))
            return self._engine

        def make() -> tuple[bytes, Engine]:
            self._use(None)
            plan = build(bundle, path, model, settings.max_batch, settings.workspace_mib, self._device)
            self._use(Engine(plan, bundle, path, buffers, self._device))
            _log.info("%s, checked against ONNX Runtime: %s.", self.name, check_new(self, bundle, precision))
            return plan, self._engine

        EngineCache(settings.cache).obtain(key, load, make)

    def _use(self, engine: Engine | None) -> None:
        """Take an engine, and free the one before."""
        before, self._engine = self._engine, engine
        if before is not None:
            before.close()

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 descriptors, rows of unit length, of N RGB images of any size.

        Raises:
            DataError: An image's descriptor is no number, as when it overflows fp16.
            CudaError: The GPU failed.
        """
        descriptors = np.empty((len(images), self.dimension), np.float32)
        with self._lock:
            if self._engine is None:
                raise ConfigError(f"{self.name} was closed: open the bundle again.")
            with self._device.current():
                for start in range(0, len(images), self._settings.max_batch):
                    chunk = images[start : start + self._settings.max_batch]
                    for row, image in zip(self._engine.input.host, chunk, strict=False):
                        self._buffer.write(image, row)
                    self._engine.run(len(chunk))
                    descriptors[start : start + len(chunk)] = self._engine.output.host[: len(chunk)]
        if not np.isfinite(descriptors).all():
            raise DataError(f"{self.name} computes no numbers for an image: use precision fp32 or another backend.")
        return descriptors

    def close(self) -> None:
        """Free the GPU's memory; again is nothing."""
        with self._lock:
            self._use(None)
            self._device.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self.close()


def _usable_version() -> str:
    """The installed version, if its functions are those that are used here.

    Raises:
        ConfigError: It cannot be imported, or is too old.
    """
    try:
        import tensorrt
    except ImportError as problem:
        raise ConfigError(
            f"The Python package tensorrt cannot be imported ({problem}). On a Jetson it comes with JetPack: "
            "apt install python3-libnvinfer, and make virtual environments with --system-site-packages. "
            "Elsewhere: pip install 'tensorrt>=10.3'."
        ) from problem
    version = tensorrt.__version__
    found = re.match(r"(\d+)\.(\d+)", version)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    if numbers < _OLDEST:
        raise ConfigError(
            f"TensorRT {version} is too old: 10.3 or newer is needed. On a Jetson install JetPack 6.1 or newer, "
            "elsewhere pip install 'tensorrt>=10.3', or use the backend onnxruntime."
        )
    if numbers[0] >= _UNKNOWN_MAJOR:
        _log.warning(
            "TensorRT %s is newer than the versions that were tried (10.3 to 11); its engine is checked all the same.",
            version,
        )
    return version
