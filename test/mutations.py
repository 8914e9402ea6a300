"""Seeded damage to files: blind to bytes, and sighted to the values of a manifest."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

_EXTREMES = (0, 1, -1, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63))
#: What no manifest should hold anywhere.
_HOSTILE: tuple[Any, ...] = (
    *(None, True, "", "\x00", "../../../../etc/passwd", "/dev/zero", "x" * 5000, "1e999", "é" * 50),
    *(-1, 0, 1, 2**31, 2**63, 10**40, 0.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *([], {}, [[]], [1, 2], {"a": 1}, [None] * 1000),
)


def damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to three changes; the beginning and the end are hit more often, where headers are."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        _DAMAGES[int(rng.integers(len(_DAMAGES)))](data, rng)
    return bytes(data)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    size = max(len(data), 1)
    low, high = ((0, min(256, size)), (max(size - 512, 0), size), (0, size))[int(rng.integers(3))]
    return int(rng.integers(low, high))


def _flip(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 5))):
        if data:
            data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _byte(data: bytearray, rng: np.random.Generator) -> None:
    if data:
        data[_place(data, rng)] = (0, 1, 0x7F, 0x80, 0xFF)[int(rng.integers(5))]


def _number(data: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.choice((2, 4, 8)))
    begin = _place(data, rng) // size * size
    value = _EXTREMES[int(rng.integers(len(_EXTREMES)))] % 2 ** (8 * size)
    data[begin : begin + size] = value.to_bytes(size, "little")


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: np.random.Generator) -> None:
    begin = _place(data, rng)
    del data[begin : begin + int(rng.integers(1, 64))]


def _repeat(data: bytearray, rng: np.random.Generator) -> None:
    begin = _place(data, rng)
    block = data[begin : begin + int(rng.integers(1, 256))]
    data[begin:begin] = block * int(rng.integers(1, 20))


def _blank(data: bytearray, rng: np.random.Generator) -> None:
    begin = _place(data, rng)
    length = min(int(rng.integers(1, 512)), len(data) - begin)
    data[begin : begin + length] = bytes(length)


_DAMAGES = (_flip, _flip, _byte, _number, _number, _cut, _remove, _repeat, _blank)


def hostile_values(content: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A manifest in which one to three values are others, are gone, or stand twice."""
    content = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(content))
        owner, key = places[int(rng.integers(len(places)))]
        turn = int(rng.integers(8))
        if turn == 0:
            del owner[key]
        elif turn == 1 and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[key]))
        elif turn == 2 and isinstance(owner[key], int):
            owner[key] += int(rng.choice((-1, 1)))
        else:
            owner[key] = copy.deepcopy(_HOSTILE[int(rng.integers(len(_HOSTILE)))])
        if not content:
            break
    return content


def _places(value: Any) -> Any:
    """Owner and key of every value within."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)
