"""The optional FAISS package: either of its two distributions, never both."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
from types import ModuleType

from vgssl_core.errors import MapError


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
    return importlib.import_module("faiss")


def faiss_distributions() -> list[str]:
    """Names of the installed distributions that provide ``faiss``, sorted."""
    names = (str(item.metadata["Name"]).lower().replace("_", "-") for item in importlib.metadata.distributions())
    return sorted({name for name in names if name == "faiss-cpu" or name.startswith("faiss-gpu")})
