"""What was checked on this machine before: a small per-user cache that may be lost at any time.

Without it, or where it cannot be written, a check is only made again. An entry is one file, written aside and renamed,
so that any number of processes may read and write; an entry that is not whole is no entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path

from vgssl_core.storage import atomic_file

#: Where all of the project's caches lie, if it is set.
FOLDER_VARIABLE = "VGSSL_CACHE_DIR"
#: Entries are spread over 256 folders; a full one forgets its older half. A map of 10,000 tiles has 40,000 entries, and
#: one that found no room would be read whole at each load.
_MAX_PER_FOLDER = 512
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The user's folder for what can be made again; it need not exist.

    The first of ``$VGSSL_CACHE_DIR``, ``$XDG_CACHE_HOME/vgssl`` and ``~/.cache/vgssl``. By the XDG Base Directory
    Specification a relative ``XDG_CACHE_HOME`` is ignored.
    """
    own, xdg = os.environ.get(FOLDER_VARIABLE), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own)
    return (Path(xdg) if os.path.isabs(xdg) else Path(os.path.expanduser("~/.cache"))) / "vgssl"


def remembers(subject: str, state: str) -> bool:
    """Whether `remember` was called with this subject, and last with this state."""
    content = _content(subject, state)
    try:
        with open(_place(subject), "rb") as file:
            return file.read(len(content) + 1) == content
    except OSError:
        return False


def remember(subject: str, state: str) -> None:
    """Note that ``subject`` was found good in ``state``; a cache that cannot be written is left alone."""
    place = _place(subject)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(place.parent)
        # Not synced: after a power cut an entry is whole or none.
        with atomic_file(place, sync=False) as aside:
            aside.write_bytes(_content(subject, state))
    except OSError as problem:
        _log.debug("The check of %s is not remembered: %s", subject, problem)


def _content(subject: str, state: str) -> bytes:
    return f"{subject}\n{state}\n".encode("utf-8", "surrogateescape")


def _place(subject: str) -> Path:
    name = hashlib.sha256(subject.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / "checked" / name[:2] / name[2:34]


def _make_room(folder: Path) -> None:
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries]
    if len(paths) < _MAX_PER_FOLDER:
        return
    ages: list[tuple[int, Path]] = []
    for path in paths:
        with contextlib.suppress(OSError):  # another process made room
            ages.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(ages)[: _MAX_PER_FOLDER // 2]:
        path.unlink(missing_ok=True)
