"""How many files a process may have open: the files of a map's segments stay open, and shells allow few by default."""

from __future__ import annotations

import contextlib
import errno
import resource
from pathlib import Path


def allow_many() -> None:
    """Let this process open as many files at once as its hard limit admits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cannot_read(path: str | Path, problem: OSError, remedy: str) -> str:
    """The message of a file that could not be opened; ``remedy`` is for anything but too many open files."""
    if problem.errno not in (errno.EMFILE, errno.ENFILE):
        return f"Cannot read {path}: {problem.strerror or str(problem)[:300]}. {remedy}"
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"Cannot read {path}: too many files are open, and this process may open {soft}. Allow more (`ulimit -n`), or "
        "join the segments of the map with `vgssl map compact MAP --tile_m 0`."
    )
