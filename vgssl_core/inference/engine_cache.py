"""Engines that took minutes to build, kept on disk.

An engine file is native code: to deserialise one from an untrusted source "is equivalent to running untrusted native
code on the GPU and host" (Security Considerations in the documentation of TensorRT 11), and TensorRT cannot tell that a
file was tampered with. So an engine never travels, in a bundle or otherwise, and only what this cache wrote is loaded:
from a folder that nobody but this user (and root) may write to, under the name of what it was built from, with the
checksum that was taken when it was built. A checksum alone would prove nothing, because who writes the file can write
the checksum.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from vgssl_core.errors import BundleError, ConfigError
from vgssl_core.remembered import FOLDER_VARIABLE, cache_folder
from vgssl_core.storage import atomic_folder, read_yaml, sweep_unfinished, write_yaml

#: Version of the folder's layout and of how engines are built; another makes them anew.
FORMAT = 1
_PLAN, _RECORD, _LOCK = "engine.plan", "engine.yaml", ".lock"
_log = logging.getLogger(__name__)
_Engine = TypeVar("_Engine")


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built from and for; another value of any field needs another engine.

    Attributes:
        model: SHA-256 of the ONNX file.
        tensorrt: Version of TensorRT.
        gpu: Name, compute capability and multiprocessors.
        max_batch: Images in the largest batch.
        workspace_mib: GPU memory in MiB that a layer may use for its work.
    """

    model: str
    tensorrt: str
    gpu: str
    max_batch: int
    workspace_mib: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the format's version."""
        return {"format": FORMAT, **asdict(self)}

    def name(self) -> str:
        """Name of the engine's folder."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


class EngineCache:
    """A folder of engines, one subfolder each; it may be removed at any time."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Make the folder.

        Args:
            folder: Where engines are kept; None is ``tensorrt`` in the user's `cache_folder`.

        Raises:
            ConfigError: It cannot be made, or others may write to it.
        """
        self.folder = cache_folder() / "tensorrt" if folder is None else Path(folder)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            state = self.folder.stat()
        except OSError as problem:
            raise ConfigError(
                f"Cannot make the cache of engines {self.folder} ({problem.strerror}): set {FOLDER_VARIABLE} to a "
                "folder that this user may write to."
            ) from problem
        if state.st_uid not in (os.geteuid(), 0) or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"Others may write to the cache of engines {self.folder}, and what is in it is run: give it to this "
                f"user alone (chown, chmod go-w), or set {FOLDER_VARIABLE} to another folder."
            )

    def obtain(
        self, key: EngineKey, load: Callable[[bytes], _Engine], build: Callable[[], tuple[bytes, _Engine]]
    ) -> _Engine:
        """The engine of a key: loaded where there is one that works, or built, by one process at a time.

        Args:
            key: What is wanted.
            load: Opens a serialised engine; raises BundleError for one that does not work, which is then built anew.
            build: Builds, checks and opens it; what it raises leaves the cache as it was.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        with contextlib.suppress(_Unusable):
            return self._load(key, load)
        with self._lock():
            try:
                # Another process may have built it while this one waited.
                return self._load(key, load)
            except _Unusable as problem:
                if problem.reason:
                    _log.warning("The cached engine %s is built anew: %s", self.folder / key.name(), problem.reason)
            plan, engine = build()
            self._store(key, plan)
            return engine

    def _load(self, key: EngineKey, load: Callable[[bytes], _Engine]) -> _Engine:
        folder = self.folder / key.name()
        if not os.path.lexists(folder):
            raise _Unusable("")
        try:
            record = read_yaml(folder / _RECORD, BundleError, "the record of an engine")
            # The bytes that are checked are those that are loaded.
            plan = (folder / _PLAN).read_bytes()
            if any(record.get(name) != value for name, value in key.to_dict().items()):
                raise BundleError("it is of another model, TensorRT or GPU than its name says.")
            if record.get("sha256") != hashlib.sha256(plan).hexdigest():
                raise BundleError("it does not match its checksum: it is damaged, or no engine that was built here.")
            engine = load(plan)
        except (BundleError, OSError) as problem:
            raise _Unusable(str(problem)) from problem
        _log.info("Engine from the cache %s.", folder)
        return engine

    def _store(self, key: EngineKey, plan: bytes) -> None:
        folder = self.folder / key.name()
        record = {**key.to_dict(), "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
        try:
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
            with atomic_folder(folder, replace=True) as aside:
                (aside / _PLAN).write_bytes(plan)
                write_yaml(aside / _RECORD, record)
        except OSError as problem:
            # It is built and works; only the next start will have to build it again.
            _log.warning("Cannot keep the engine in %s (%s): the next start builds again.", folder, problem.strerror)
        else:
            _log.info("The engine is kept in %s.", folder)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the right to build: two builds at once would spoil each other's timing of the GPU's kernels.

        The system gives the lock back when its holder ends, however it ends.
        """
        try:
            file = open(self.folder / _LOCK, "w")  # noqa: SIM115
        except OSError as problem:
            raise ConfigError(
                f"Cannot write to the cache of engines {self.folder} ({problem.strerror}): set {FOLDER_VARIABLE} to a "
                "folder that this user may write to."
            ) from problem
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("Waiting for another process that builds an engine in %s.", self.folder)
                fcntl.flock(file, fcntl.LOCK_EX)
            sweep_unfinished(self.folder, alone=True)
            yield


class _Unusable(Exception):
    """There is no engine (no reason), or one that must be built anew."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
