"""What a child process may be made to do; `test_guarded.py` runs these in one."""

from __future__ import annotations

import os
import time

from vgssl_core.guarded import limit_memory


def add(first: int, second: int) -> int:
    print("what native code prints is no answer")
    return first + second


def crash() -> None:
    os.abort()


def vanish() -> None:
    os._exit(0)


def hang() -> None:
    time.sleep(600)


def spin() -> None:
    while True:
        pass


def swell() -> int:
    limit_memory(100_000_000)
    return len(bytes(1_000_000_000))


def write(path: str) -> None:
    with open(path, "wb") as file:
        file.write(bytes(100_000))


def flood() -> str:
    return "x" * 1_000_000
