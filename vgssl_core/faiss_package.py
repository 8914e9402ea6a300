"""The optional FAISS package: either of its two distributions, never both."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Iterator
from types import ModuleType

from vgssl_core.errors import MapError

_WAIT_POLICY = "OMP_WAIT_POLICY"
#: Below this queries are compared one by one, without BLAS.
FEW_QUERIES = 20


@functools.lru_cache(maxsize=1)
def load_faiss() -> ModuleType | None:
    """The ``faiss`` module, or None where neither faiss-cpu nor faiss-gpu is installed.

    Raises:
        MapError: Both are installed: they overwrite each other's files, with crashes or wrong results.
    """
    installed = faiss_distributions()
    if "faiss-cpu" in installed and len(installed) > 1:
        raise MapError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files: run "
            f"`pip uninstall -y {' '.join(installed)}` and then install the one that you want."
        )
    if importlib.util.find_spec("faiss") is None:
        return None
    # Its loader reports at INFO level every instruction set that it does not find.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    with _sleeping_openmp():
        return importlib.import_module("faiss")


@contextlib.contextmanager
def _sleeping_openmp() -> Iterator[None]:
    """An OpenMP runtime that is loaded in here lets threads without work sleep.

    By default they burn their core for milliseconds after each parallel search. Other packages' runtimes, such as
    torch's, which are loaded before or after, keep their own way; and so does FAISS where the user set the policy.
    """
    if _WAIT_POLICY in os.environ:
        yield
        return
    os.environ[_WAIT_POLICY] = "passive"
    try:
        yield
    finally:
        del os.environ[_WAIT_POLICY]


def faiss_distributions() -> list[str]:
    """Names of the installed distributions that provide ``faiss``, sorted."""
    names = (str(item.metadata["Name"]).lower().replace("_", "-") for item in importlib.metadata.distributions())
    return sorted({name for name in names if name == "faiss-cpu" or name.startswith("faiss-gpu")})


@contextlib.contextmanager
def tuned_for(faiss: ModuleType, queries: int) -> Iterator[None]:
    """Search a number of queries in FAISS's fastest way for it: few on one thread, many by matrix products.

    One query is not divided among threads, and waking them costs tens of milliseconds on a busy machine. When BLAS is
    better FAISS guesses differently from version to version.
    """
    few = queries < FEW_QUERIES
    threshold = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 2**31 - 1 if few else 1
    try:
        with single_thread(faiss) if few else contextlib.nullcontext():
            yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold


@contextlib.contextmanager
def single_thread(faiss: ModuleType) -> Iterator[None]:
    """FAISS computes with one thread in here."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
