"""A child process with bounded memory and time, for the first reading of a file that native code could stumble over.

The child is a fresh interpreter with the parent's module path: a crash, a hang or an unbounded allocation ends the
child, and the parent gets one error. It runs as the same user: this guards against damage and against files that are
made to crash, not against code that takes over the reader.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from typing import Any

#: A pipe holds this much without a reader, so that the parent may wait first and read afterwards.
_MAX_ANSWER_BYTES = 16_384
_START = (
    "import json, sys; request = json.loads(sys.stdin.read()); sys.path[:] = request['modules']; "
    "from vgssl_core.guarded import answer; answer(request)"
)
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX")


class ChildError(Exception):
    """The child refused, crashed, or reached a limit; says which."""


def run_guarded(function: str, arguments: dict[str, Any], cpu_s: int, wall_s: int) -> Any:
    """Call a function in a child process and return its result.

    Args:
        function: ``package.module:name``; it calls `limit_memory` when it has imported what it needs.
        arguments: Its keyword arguments, JSON values.
        cpu_s: CPU seconds after which the system kills the child.
        wall_s: Seconds after which the parent does.

    Returns:
        Its result, a JSON value.

    Raises:
        ChildError: It raised, crashed, ran too long, or gave no answer.
    """
    request = {
        "modules": [os.path.abspath(path) for path in sys.path],
        "function": function,
        "arguments": arguments,
        "cpu_s": cpu_s,
    }
    command = [sys.executable, "-I", "-c", _START]
    environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            close_fds=True,
        )
    except OSError as problem:
        raise ChildError(f"the process that reads it first cannot be started ({problem})") from problem
    with child:
        assert child.stdin is not None and child.stdout is not None
        try:
            _send(child, json.dumps(request).encode())
            child.wait(wall_s)
        except subprocess.TimeoutExpired:
            raise ChildError(f"reading it takes more than {wall_s} seconds") from None
        finally:
            child.kill()
        return _result(child.returncode, child.stdout.read1(_MAX_ANSWER_BYTES))


def _send(child: subprocess.Popen[bytes], request: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(request)
        child.stdin.close()
    except BrokenPipeError:  # it died at once; its exit status tells
        child.stdin = None


def _result(returncode: int, written: bytes) -> Any:
    if returncode < 0:
        raise ChildError(f"reading it ends in {signal.Signals(-returncode).name}")
    try:
        content = json.loads(written)
        problem, result = content.get("problem"), content.get("result")
    except (ValueError, AttributeError) as error:
        raise ChildError(f"the process that reads it first gave no answer (exit status {returncode})") from error
    if problem is not None:
        raise ChildError(str(problem))
    return result


def limit_memory(more_bytes: int) -> None:
    """In the child: allow this much address space beyond what is in use now, after all imports.

    It is never more than three quarters of the machine's memory.
    """
    page = resource.getpagesize()
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * page
    _lower(resource.RLIMIT_AS, used + min(more_bytes, os.sysconf("SC_PHYS_PAGES") * page * 3 // 4))


def answer(request: dict[str, Any]) -> None:
    """In the child: do what the parent asks, and write the answer to the pipe that was standard output."""
    pipe = os.dup(1)
    os.dup2(2, 1)  # native code may print
    # At the first limit the signal tells why it ended, at the second nothing can withstand it.
    resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_s"], request["cpu_s"] + 1))
    _lower(resource.RLIMIT_CORE, 0)
    # Nothing that is read here has a reason to write files.
    _lower(resource.RLIMIT_FSIZE, 0)
    module, name = request["function"].split(":")
    try:
        content = {"result": getattr(importlib.import_module(module), name)(**request["arguments"])}
    except Exception as problem:
        content = {"problem": " ".join((str(problem) or type(problem).__name__).split())[:1000]}
    os.write(pipe, json.dumps(content).encode()[:_MAX_ANSWER_BYTES])
    # Native destructors of what a damaged file made need not run.
    os._exit(0)


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
