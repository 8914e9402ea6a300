"""Manifests that carry a checksum of themselves: one wrong digit of a datum would move every answer of a map.

It guards against damage, not against an author: whoever changes a manifest on purpose can seal it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vgssl_core.errors import VgsslError
from vgssl_core.storage import write_yaml

#: Key of the checksum, the last one of the file.
SEAL = "checksum"


def write_sealed(
    path: Path, content: dict[str, Any], as_json: bool = False, check: Callable[[Path], object] | None = None
) -> None:
    """Write a mapping of plain values and its checksum; see `write_yaml`."""
    write_yaml(path, {**content, SEAL: _digest(content)}, as_json, check)


def require_seal(path: Path, content: dict[str, Any], error: type[VgsslError], remedy: str) -> None:
    """Require that the mapping which was read from ``path`` is the one that was written.

    Raises:
        error: It has no checksum, or another one.
    """
    values = dict(content)
    seal = values.pop(SEAL, None)
    try:
        digest = _digest(values)
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(f"{path} is damaged: it holds values that no manifest has. {remedy}") from problem
    if seal != digest:
        raise error(f"{path} does not match its own checksum: it is damaged or was edited. {remedy}")


def _digest(content: dict[str, Any]) -> str:
    """Hex SHA-256 of the values, whatever their order and the layout of the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
