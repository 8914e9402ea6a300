"""Files that came from elsewhere: that they are the ones which their manifest lists, and lie where they seem to lie."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from vgssl_core.errors import VgsslError
from vgssl_core.open_files import cannot_read
from vgssl_core.remembered import remember, remembers
from vgssl_core.storage import sha256 as sha256_of

#: A change within the same tick of a file system's clock leaves the same times. Most tick at least a hundred times per
#: second; where only whole seconds are stored, as on memory cards, a tick is up to two seconds.
_FINE_TICK_NS, _COARSE_TICK_NS = 10_000_000, 2_000_000_000


def require_unaltered(
    path: Path, size: int, sha256: str, error: type[VgsslError], remedy: str, always: bool = False
) -> bool:
    """Require that a file has the size and the bytes that its manifest states.

    The size is compared each time. The bytes are read on the first load of a new file on this machine; then the file is
    remembered by path, device, inode, size, times of modification and change, and checksum.

    Args:
        path: The file.
        size: Its bytes.
        sha256: Hex checksum of its bytes.
        error: Exception type to raise.
        remedy: What to do, for the message.
        always: Read the bytes whatever is remembered.

    Returns:
        Whether the bytes were read now.

    Raises:
        error: Missing, no regular file, not readable, truncated or altered.
    """
    try:
        # Without O_NONBLOCK opening a named pipe would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as problem:
        raise error(f"{path} is missing. {remedy}") from problem
    except OSError as problem:
        raise error(cannot_read(path, problem, remedy)) from problem
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path} is no regular file. {remedy}")
        if status.st_size != size:
            raise error(f"{path} has {status.st_size} bytes instead of {size}: it is truncated or altered. {remedy}")
        subject, state = f"file {os.path.realpath(path)}", _state(status, sha256)
        if not always and remembers(subject, state):
            return False
        began_ns = time.time_ns()
        if sha256_of(descriptor) != sha256 or _state(os.fstat(descriptor), sha256) != state:
            raise error(f"{path} does not match its checksum: it is damaged or altered. {remedy}")
        if _is_settled(status, began_ns):
            # What was read may be in memory only: after a power cut the same times could stand over other bytes.
            os.fsync(descriptor)
            remember(subject, state)
        return True
    except OSError as problem:
        raise error(cannot_read(path, problem, remedy)) from problem
    finally:
        os.close(descriptor)


def require_inside(folder: Path, path: Path, error: type[VgsslError], remedy: str) -> None:
    """Require that no symbolic link leads from ``path``, below ``folder``, out of it.

    Raises:
        error: The link leads elsewhere: it could show the reader any file of this machine.
    """
    root, real = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath([root, real]) != root:
        raise error(f"{path} leads out of {folder} to {real}: links to elsewhere are not followed. {remedy}")


def _state(status: os.stat_result, sha256: str) -> str:
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_dev} {status.st_ino} {status.st_size} {times} {sha256}"


def _is_settled(status: os.stat_result, now_ns: int) -> bool:
    """Whether every later change will show in the file's times."""
    coarse = status.st_ctime_ns % 1_000_000_000 == 0
    return now_ns - status.st_ctime_ns > (_COARSE_TICK_NS if coarse else _FINE_TICK_NS)
