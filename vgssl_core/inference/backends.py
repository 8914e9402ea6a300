"""Choice of the engine: backend NAME is the module ``vgssl_core.inference.NAME`` with its class ``Embedder``."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
from pathlib import Path
from types import ModuleType

import numpy as np

from vgssl_core.errors import BundleError, ConfigError
from vgssl_core.inference import embedder as interface
from vgssl_core.inference.bundle import Bundle, load_bundle
from vgssl_core.inference.threads import set_threads

#: An engine is refused when a sample's descriptor has a lower cosine with the original network's.
MINIMUM_COSINE = 0.999
_DEFAULT = "onnxruntime"
_log = logging.getLogger(__name__)


def open_embedder(
    bundle: str | Path | Bundle, backend: str = "auto", threads: int | None = None, check: bool | None = None
) -> interface.Embedder:
    """Open a bundle with an engine, and log which and why.

    Args:
        bundle: The bundle or its folder.
        backend: ``auto`` or the name of an engine.
        threads: Threads of OpenCV, FAISS and the engine; None takes all cores.
        check: Run `self_test` first; None does so for every engine but the default, which made the check at export.

    Raises:
        BundleError: The bundle cannot be used, or the engine computes other descriptors than the bundle's samples.
        ConfigError: No such engine, or its package is not installed; lists those that are.
    """
    bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    name = _DEFAULT if backend == "auto" else backend
    embedder = _engine(name).Embedder(bundle, set_threads(threads))
    reason = f"backend auto takes {_DEFAULT}, which runs on every CPU" if backend == "auto" else "as asked"
    _log.info("Engine %s: %s.", embedder.name, reason)
    if check if check is not None else name != _DEFAULT:
        _log.info("Engine %s gives the samples' descriptors: cosine ≥ %.6f.", name, self_test(embedder, bundle))
    return embedder


def self_test(embedder: interface.Embedder, bundle: Bundle, minimum_cosine: float = MINIMUM_COSINE) -> float:
    """Embed the bundle's own sample images and compare with their stored descriptors.

    Returns:
        The lowest cosine.

    Raises:
        BundleError: It is below ``minimum_cosine``: the engine is not to be used with this bundle.
    """
    images, expected = bundle.samples()
    given = embedder.embed(images)
    # Written so that NaN fails too.
    lowest = float(np.min(np.sum(given * expected, axis=1))) if given.shape == expected.shape else float("nan")
    if not lowest >= minimum_cosine:
        raise BundleError(
            f"The engine {getattr(embedder, 'name', type(embedder).__name__)} gives other descriptors than bundle "
            f"{bundle.path} expects (cosine {lowest:.4f} < {minimum_cosine}): use another backend or export again."
        )
    return lowest


def available_backends() -> dict[str, bool]:
    """Every engine's name, and whether its package is installed."""
    root = importlib.import_module("vgssl_core.inference")
    modules = {
        item.name: importlib.import_module(f"{root.__name__}.{item.name}")
        for item in pkgutil.iter_modules(root.__path__)
    }
    return {name: _is_installed(module) for name, module in sorted(modules.items()) if _is_engine(module)}


def _is_engine(module: ModuleType) -> bool:
    return getattr(getattr(module, "Embedder", None), "__module__", "") == module.__name__ and module is not interface


def _is_installed(module: ModuleType) -> bool:
    return importlib.util.find_spec(module.Embedder.package) is not None


def _engine(name: str) -> ModuleType:
    path = f"vgssl_core.inference.{name}"
    module = importlib.import_module(path) if name.isidentifier() and importlib.util.find_spec(path) else None
    if module is None or not _is_engine(module):
        raise ConfigError(f"There is no backend {name!r}: choose auto or one of {_listing()}.")
    if not _is_installed(module):
        raise ConfigError(
            f"The backend {name} needs the package {module.Embedder.package}, which is not installed: "
            f"pip install 'vgssl_ros[{name}]', or choose one of {_listing()}."
        )
    return module


def _listing() -> str:
    return ", ".join(name if there else f"{name} (not installed)" for name, there in available_backends().items())
