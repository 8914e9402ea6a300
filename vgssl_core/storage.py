"""Writing that survives a kill: everything is written aside, synced, and renamed into place."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from vgssl_core.errors import ConfigError, VgsslError
from vgssl_core.plain_yaml import load_plain

#: Names of unfinished writes begin with this, then come the writer's process and a random part; a later writer to
#: the same place sweeps what dead processes left.
ASIDE_PREFIX = ".unfinished-"
#: Where folders cannot be exchanged in one step, the one that is being replaced has this name for a moment.
_REPLACED_PREFIX = ".replaced-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_SYNCED_AT_ONCE = 8
_YAML_LIMIT_BYTES = 16_000_000


def sha256(source: Path | int) -> str:
    """Hex SHA-256 of a file's bytes: of a path, or of an open descriptor from where it stands, which stays open."""
    digest = hashlib.sha256()
    with open(source, "rb", closefd=not isinstance(source, int)) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_folder(folder: Path, sync: bool = True) -> None:
    """Make a folder where there is none, and those above it.

    Args:
        folder: The folder.
        sync: Wait until their names are on the disk: else a power cut may take all that is written in it.
    """
    new = [item for item in (folder, *folder.absolute().parents) if not item.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for item in new if sync else ():
        _sync(item.parent)


@contextlib.contextmanager
def atomic_file(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, it is synced and renamed to ``path``.

    When the block raises, nothing is left behind and an older file at ``path`` stays as it was.

    Args:
        path: File to create or replace.
        sync: Wait until it is on the disk; without it a power cut may leave it damaged.
    """
    path = Path(path)
    make_folder(path.parent, sync)
    sweep_unfinished(path.parent, path.name)
    aside = _aside(path, ASIDE_PREFIX)
    try:
        yield aside
        if sync:
            _sync(aside)
        os.replace(aside, path)
        if sync:
            _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False, sync: bool = True) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well, it becomes ``path``.

    Args:
        path: Folder to create.
        replace: Replace an existing folder; without it an existing non-empty one is an error.
        sync: Wait until it is on the disk; without it a power cut may leave it damaged until `sync_folders`.

    Raises:
        VgsslError: ``path`` exists, is not empty, and ``replace`` is false.
    """
    # A link to a folder stays a link; "." and ".." have no name of their own.
    path = Path(os.path.realpath(path))
    make_folder(path.parent, sync)
    sweep_unfinished(path.parent, path.name)
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and not (replace and path.is_dir()):
        raise VgsslError(f"{path} exists already: give another output folder or remove it first.")
    aside = _aside(path, ASIDE_PREFIX)
    aside.mkdir()
    try:
        yield aside
        if sync:
            for item in sorted(aside.rglob("*")):
                _sync(item)
            _sync(aside)
        _move_into_place(aside, path)
        if sync:
            _sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_folders(folders: Sequence[Path]) -> None:
    """Wait until folders that `atomic_folder` made without ``sync`` are on the disk; many at once take less time.

    Raises:
        OSError: The disk reports that it could not write.
    """
    items = [item for folder in folders for item in (*sorted(folder.rglob("*")), folder)]
    with ThreadPoolExecutor(_SYNCED_AT_ONCE) as pool:
        list(pool.map(_sync, [*items, *{folder.parent for folder in folders}]))


def _aside(path: Path, prefix: str) -> Path:
    # The suffix stays, because numpy, OpenCV and others choose a format by it.
    return path.with_name(f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")


def _move_into_place(aside: Path, path: Path) -> None:
    """Rename a folder to ``path``, which may be there already; the old one is gone afterwards or is ``aside``."""
    if not path.exists() or not any(path.iterdir()):
        os.replace(aside, path)
    elif not _exchange(aside, path):
        # Two renames: a kill between them is mended by the next `sweep_unfinished`.
        replaced = _aside(path, _REPLACED_PREFIX)
        os.replace(path, replaced)
        os.replace(aside, path)
        shutil.rmtree(replaced, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; false where the system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def sweep_unfinished(folder: str | Path, name: str | None = None, alone: bool = False) -> None:
    """Remove what killed writers left in ``folder``, and put back what one was about to replace.

    Args:
        folder: Where they wrote.
        name: Only writes to this name; None takes all.
        alone: Nobody else writes there now, because the caller holds its lock. Without it what seems to be a living
            process's is left; in a container every program is process 1, and a dead one's seems so for ever.
    """
    pattern = re.compile(
        rf"({re.escape(ASIDE_PREFIX)}|{re.escape(_REPLACED_PREFIX)})(\d+)-[0-9a-f]{{8}}-(.+)", re.DOTALL
    )
    with os.scandir(folder) as entries:
        hidden = sorted(entry.name for entry in entries if entry.name.startswith("."))
    for item in (Path(folder) / entry for entry in hidden):
        found = pattern.fullmatch(item.name)
        if found is None or name not in (None, found[3]) or (not alone and _is_alive(int(found[2]))):
            continue
        if found[1] == _REPLACED_PREFIX and not item.with_name(found[3]).exists():
            os.replace(item, item.with_name(found[3]))
        elif item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def check_output_folder(folder: Path, option: str) -> None:
    """Refuse an output folder that cannot be made or written to; nothing is created.

    Args:
        folder: Where a program is about to write files.
        option: The option that named it.

    Raises:
        ConfigError: It or what lies over it is a file, or may not be written to.
    """
    existing = next(item for item in (folder, *folder.absolute().parents) if os.path.lexists(item))
    if not existing.is_dir():
        raise ConfigError(f"{option} {folder}: {existing} is not a folder. Give another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder}: no permission to write in {existing}. Give another folder.")


class _PlainDumper(yaml.SafeDumper):
    """Writes out a value that stands in two places twice, because `read_yaml` refuses aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_yaml(
    path: str | Path, content: Any, as_json: bool = False, check: Callable[[Path], object] | None = None
) -> None:
    """Write ``content`` as YAML in one atomic step, keys in the given order.

    Args:
        path: The file.
        content: Plain values.
        as_json: Use the form of YAML that is JSON too: long lists are read in milliseconds instead of seconds.
        check: Is given the finished file before it takes its place, and raises where it must not.
    """
    with atomic_file(path) as aside:
        # Without allow_unicode, because PyYAML then writes some line separators so that it reads them as spaces.
        text = json.dumps(content, indent=1) if as_json else yaml.dump(content, Dumper=_PlainDumper, sort_keys=False)
        aside.write_text(text, encoding="utf-8")
        if check is not None:
            check(aside)


def read_yaml(path: str | Path, error: type[VgsslError], what: str) -> dict[str, Any]:
    """Read a YAML mapping that came from a user.

    Args:
        path: The file.
        error: Exception type to raise.
        what: What the file should be, for the message ("a map's manifest").

    Raises:
        error: The file is missing, unreadable, too large, not YAML, not plain (see `load_plain`), or not a mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _YAML_LIMIT_BYTES:
                raise ValueError(f"it is longer than {_YAML_LIMIT_BYTES} bytes")
            text = file.read(size)
        content = load_plain(text)
    except OSError as problem:
        raise error(f"Cannot read {path}, {what}: {problem.strerror or problem}.") from problem
    except (yaml.YAMLError, UnicodeDecodeError, OverflowError, ValueError) as problem:
        reason = " ".join(str(problem).split())
        raise error(
            f"{path} is damaged: it is not {what} in YAML ({reason}). Restore it from a copy, or make it again."
        ) from problem
    if not isinstance(content, dict):
        raise error(f"{path} is damaged: it holds no mapping, so it is not {what}.")
    return content


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
