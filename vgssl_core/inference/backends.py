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
from vgssl_core.inference.choice import Choice, Task, choose_backend
from vgssl_core.inference.threads import set_threads

#: An engine is refused when a sample's descriptor has a lower cosine with the original network's. In fewer bits this
#: finds an engine that is broken; what they cost in recall is measured by the export.
MINIMUM_COSINE = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.99, "int8": 0.8}
#: Engine → precisions that it computes by converting, slower than fp32: only who asks for them by name gets them.
EMULATED = {"onnxruntime": ("fp16",)}
#: Engine → precisions in which it needs no `self_test`: the export compared ONNX Runtime's fp32, and TensorRT compares
#: each of its engines with the samples itself, more strictly (`tensorrt_check`).
_CHECKED = {"onnxruntime": ("fp32",), "tensorrt": ("fp32", "fp16", "int8")}
_log = logging.getLogger(__name__)


def open_embedder(
    bundle: str | Path | Bundle,
    backend: str = "auto",
    threads: int | None = None,
    check: bool | None = None,
    precision: str = "auto",
) -> interface.Engine:
    """Open a bundle with an engine, and log which and why.

    What is asked for by name is what is given, or an error: nothing takes another's place silently.

    Args:
        bundle: The bundle or its folder.
        backend: ``auto`` or the name of an engine.
        threads: Threads of OpenCV, FAISS and the engine; None takes all cores.
        check: Run `self_test` first; None does so for every engine and precision but ONNX Runtime's fp32, where the
            export made the check, and TensorRT, which makes its own.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; ``auto`` is the bundle's ``default_precision``, where its
            manifest names one and the engine has it here and does not emulate it, else fp32.

    Raises:
        BundleError: The bundle cannot be used, has no network of that precision, or the engine computes other
            descriptors than the bundle's samples.
        ConfigError: No such engine or precision, or it cannot run here; tells why, and lists those that can.
    """
    bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    chosen, precision = _chosen(bundle, backend, precision)
    embedder = _engines()[chosen.backend](bundle, set_threads(threads), precision)
    _log.info("Engine %s: %s.", embedder.name, chosen.reason)
    if check if check is not None else precision not in _CHECKED.get(chosen.backend, ()):
        lowest = self_test(embedder, bundle, MINIMUM_COSINE[precision])
        _log.info("Engine %s gives the samples' descriptors: cosine ≥ %.6f.", embedder.name, lowest)
    return embedder


def _chosen(bundle: Bundle, backend: str, precision: str) -> tuple[Choice, str]:
    """Engine and precision, both by their rules of ``auto``."""
    if precision not in ("auto", *MINIMUM_COSINE):
        raise ConfigError(f"There is no precision {precision!r}: choose auto or one of {', '.join(MINIMUM_COSINE)}.")
    if precision != "auto":
        return _backend_for(bundle, backend, precision), precision
    wanted = bundle.default_precision
    try:
        chosen = _backend_for(bundle, backend, wanted)
        if wanted not in EMULATED.get(chosen.backend, ()):
            return chosen, wanted
        problem = f"{chosen.backend} only emulates it"
    except ConfigError as refusal:
        if wanted == "fp32":
            raise
        problem = str(refusal).rstrip(".")
    chosen = _backend_for(bundle, backend, "fp32")
    reason = f"{chosen.reason}; precision auto takes fp32 and not the bundle's {wanted}: {problem}"
    return Choice(chosen.backend, reason), "fp32"


def _backend_for(bundle: Bundle, backend: str, precision: str) -> Choice:
    engines = _engines()

    def problem_of(name: str) -> str | None:
        return _obstacle(name, engines[name], precision)

    if backend == "auto":
        return choose_backend(engines, problem_of, Task.of(bundle, precision))
    if backend not in engines:
        raise ConfigError(f"There is no backend {backend!r}: choose auto or one of {_listing(precision)}.")
    if problem := problem_of(backend):
        raise ConfigError(
            f"The backend {backend} cannot run here: {problem}. Or choose of {_listing(precision, backend)}."
        )
    return Choice(backend, "as asked")


def self_test(embedder: interface.Embedder, bundle: Bundle, minimum_cosine: float = MINIMUM_COSINE["fp32"]) -> float:
    """Embed the bundle's own sample images, one at a time as the robot does, and compare with their descriptors.

    Returns:
        The lowest cosine.

    Raises:
        BundleError: It is below ``minimum_cosine``: the engine is not to be used with this bundle.
    """
    images, expected = bundle.samples()
    given = np.concatenate([embedder.embed([image]) for image in images])
    # Written so that NaN fails too.
    lowest = float(np.min(np.sum(given * expected, axis=1))) if given.shape == expected.shape else float("nan")
    if not lowest >= minimum_cosine:
        raise BundleError(
            f"The engine {getattr(embedder, 'name', type(embedder).__name__)} gives other descriptors than bundle "
            f"{bundle.path} expects (cosine {lowest:.4f} < {minimum_cosine}): use another backend or export again."
        )
    return lowest


def available_backends(precision: str = "fp32") -> dict[str, bool]:
    """Every engine's name, and whether it can run here in a precision."""
    return {name: obstacle is None for name, obstacle in obstacles(precision).items()}


def obstacles(precision: str = "fp32") -> dict[str, str | None]:
    """Every engine's name, and why it cannot compute in a precision here and what to do; None where it can."""
    return {name: _obstacle(name, engine, precision) for name, engine in _engines().items()}


def _obstacle(name: str, engine: type[interface.Engine], precision: str) -> str | None:
    if not _is_installed(engine):
        return f"its package {engine.package} is not installed: pip install 'vgssl_ros[{name}]'"
    if precision not in engine.precisions:
        return f"it has no {precision}, only {', '.join(engine.precisions)}"
    problem = engine.obstacle(precision)
    return None if problem is None else problem.rstrip(".")


def _engines() -> dict[str, type[interface.Engine]]:
    """Name → class of every engine of this package, whether or not it can run here."""
    root = importlib.import_module("vgssl_core.inference")
    names = sorted(item.name for item in pkgutil.iter_modules(root.__path__))
    modules = {name: importlib.import_module(f"{root.__name__}.{name}") for name in names}
    return {name: module.Embedder for name, module in modules.items() if _is_engine(module)}


def _is_engine(module: ModuleType) -> bool:
    return getattr(getattr(module, "Embedder", None), "__module__", "") == module.__name__ and module is not interface


def _is_installed(engine: type[interface.Engine]) -> bool:
    return importlib.util.find_spec(engine.package) is not None


def _listing(precision: str, without: str = "") -> str:
    """The engines, and in a word why one cannot be chosen."""

    def told(name: str, engine: type[interface.Engine]) -> str:
        if _obstacle(name, engine, precision) is None:
            return name
        lacking = f"not in {precision}" if precision not in engine.precisions else "not here"
        return f"{name} ({lacking if _is_installed(engine) else 'not installed'})"

    return ", ".join(told(name, engine) for name, engine in _engines().items() if name != without)
