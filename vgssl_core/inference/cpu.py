"""What this machine's CPU can compute in."""

from __future__ import annotations

import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
#: Linux's names for instructions that multiply bfloat16: AVX-512, AMX, Arm.
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def has_bf16(info: Path = _CPU_INFO) -> bool:
    """Whether the CPU multiplies bfloat16 itself; engines emulate it elsewhere, slower than float32.

    Args:
        info: Linux's list of the CPU's features; False where there is none.
    """
    # x86 names its features "flags", Arm "Features".
    return any(_BF16 & set(words.split()) for name, words in _lines(info) if name in ("flags", "Features"))


def cpu_name() -> str:
    """What the CPU calls itself, for reports."""
    named = [value for name, value in _lines(_CPU_INFO) if name == "model name"]
    return named[0] if named else platform.processor() or platform.machine()


def is_x86_64() -> bool:
    """Whether this is a 64-bit PC processor."""
    return platform.machine().lower() in ("x86_64", "amd64")


def _lines(info: Path) -> list[tuple[str, str]]:
    """Names and values of Linux's list of CPUs; empty where there is none."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
