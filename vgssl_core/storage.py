"""Writing that survives a kill: everything is written aside, synced, and renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vgssl_core.errors import VgsslError

#: Names of unfinished writes begin with this; a later writer to the same place sweeps them.
ASIDE_PREFIX = ".unfinished-"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, it is synced and renamed to ``path``.

    When the block raises, nothing is left behind and an older file at ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, because numpy, OpenCV and others choose a format by it.
    aside = path.with_name(f"{ASIDE_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well, it becomes ``path``.

    Args:
        path: Folder to create.
        replace: Replace an existing folder; without it an existing non-empty one is an error.

    Raises:
        VgsslError: ``path`` exists, is not empty, and ``replace`` is false.
    """
    path = Path(path)
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and not (replace and path.is_dir()):
        raise VgsslError(f"{path} exists already: give another output folder or remove it first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{ASIDE_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    old = path.with_name(f"{ASIDE_PREFIX}{uuid.uuid4().hex[:8]}-old-{path.name}")
    aside.mkdir()
    try:
        yield aside
        for item in sorted(aside.rglob("*")):
            _sync(item)
        _sync(aside)
        if path.exists():
            # A folder cannot be renamed over a filled one; the gap is two renames long.
            os.replace(path, old)
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)


def sweep_unfinished(folder: str | Path) -> None:
    """Remove what killed writers left in ``folder``."""
    for item in Path(folder).glob(f"{ASIDE_PREFIX}*"):
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def write_yaml(path: str | Path, content: Any) -> None:
    """Write ``content`` as YAML in one atomic step, keys in the given order."""
    with atomic_file(path) as aside:
        aside.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_yaml(path: str | Path, error: type[VgsslError], what: str) -> dict[str, Any]:
    """Read a YAML mapping that came from a user.

    Args:
        path: The file.
        error: Exception type to raise.
        what: What the file should be, for the message ("a map's manifest").

    Raises:
        error: The file is missing, unreadable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"Cannot read {path}, {what}: {problem.strerror or problem}.") from problem
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        reason = " ".join(str(problem).split())
        raise error(f"{path} is damaged: it is not {what} in YAML ({reason}).") from problem
    if not isinstance(content, dict):
        raise error(f"{path} is damaged: it holds no mapping, so it is not {what}.")
    return content


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
