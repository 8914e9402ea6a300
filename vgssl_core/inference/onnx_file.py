"""A look at an ONNX file from elsewhere before native code reads it, without the package ``onnx``.

Only the outline of the protocol buffer is walked; weights are stepped over. Field numbers: onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vgssl_core.errors import BundleError

#: What a protocol buffer can hold.
_MAX_BYTES = (1 << 31) - 1
_MAX_NODES, _MAX_FIELDS, _MAX_DEPTH = 100_000, 1_000_000, 8
#: Operators that run a part of the network an unknown number of times.
_LOOPS = {b"Loop", b"Scan"}
_DOMAINS = {b"", b"ai.onnx", b"com.microsoft", b"com.microsoft.nchwc"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1
_REMEDY = "Export the bundle again, or get it from where you trust it."


@dataclass
class _Budget:
    """What may still be read."""

    fields: int
    nodes: int


def check_onnx_file(path: Path) -> None:
    """Refuse a network file that reads other files, loops, or is more than a network.

    Raises:
        BundleError: It is too large, no protocol buffer of a network, refers to data in other files (a path that its
            author chose), holds loops, unknown operators' domains, or too many nodes.
    """
    try:
        with open(path, "rb") as file:
            if not 0 < path.stat().st_size <= _MAX_BYTES:
                raise ValueError(f"it has {path.stat().st_size} bytes")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_model(data, _Budget(_MAX_FIELDS, _MAX_NODES))
    except OSError as problem:
        raise BundleError(f"Cannot read {path}: {problem.strerror}. {_REMEDY}") from problem
    except ValueError as problem:
        raise BundleError(f"{path} is refused: {problem}. {_REMEDY}") from problem


def _check_model(data: mmap.mmap, budget: _Budget) -> None:
    graphs = 0
    for number, begin, end in _messages(data, 0, len(data), budget):
        if number == 7:  # ModelProto.graph
            graphs += 1
            _check_graph(data, begin, end, budget, 0)
        elif number in (20, 25):  # training_info, functions
            raise ValueError("it holds more than a network: functions or a training")
    if graphs != 1:
        raise ValueError(f"it holds {graphs} networks instead of one")


def _check_graph(data: mmap.mmap, begin: int, end: int, budget: _Budget, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("its parts are nested too deeply")
    for number, start, stop in _messages(data, begin, end, budget):
        if number == 1:  # GraphProto.node
            _check_node(data, start, stop, budget, depth)
        elif number == 5:  # initializer
            _check_tensor(data, start, stop, budget)
        elif number == 15:  # sparse_initializer: values and indices are tensors
            _check_sparse(data, start, stop, budget)


def _check_node(data: mmap.mmap, begin: int, end: int, budget: _Budget, depth: int) -> None:
    budget.nodes -= 1
    if budget.nodes < 0:
        raise ValueError(f"it has more than {_MAX_NODES} nodes")
    for number, start, stop in _messages(data, begin, end, budget):
        if number == 4 and data[start:stop] in _LOOPS:  # NodeProto.op_type
            raise ValueError(f"it holds the loop {data[start:stop].decode()}: how long it runs is not known")
        if number == 7 and data[start:stop] not in _DOMAINS:  # domain
            raise ValueError(f"it uses operators of the domain {bytes(data[start:stop][:40])!r}")
        if number == 5:  # attribute
            _check_attribute(data, start, stop, budget, depth)


def _check_attribute(data: mmap.mmap, begin: int, end: int, budget: _Budget, depth: int) -> None:
    for number, start, stop in _messages(data, begin, end, budget):
        if number in (5, 10):  # AttributeProto.t, tensors
            _check_tensor(data, start, stop, budget)
        elif number in (6, 11):  # g, graphs
            _check_graph(data, start, stop, budget, depth + 1)
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            _check_sparse(data, start, stop, budget)


def _check_sparse(data: mmap.mmap, begin: int, end: int, budget: _Budget) -> None:
    for number, start, stop in _messages(data, begin, end, budget):
        if number in (1, 2):
            _check_tensor(data, start, stop, budget)


def _check_tensor(data: mmap.mmap, begin: int, end: int, budget: _Budget) -> None:
    for number, kind, value, _ in _fields(data, begin, end, budget):
        external = number == 13 or (number == 14 and kind == _VARINT and value == _EXTERNAL)
        if external:  # TensorProto.external_data, data_location
            raise ValueError("it refers to weights in another file: all weights must lie in the file itself")


def _messages(data: mmap.mmap, begin: int, end: int, budget: _Budget) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field that is a message or text."""
    for number, kind, start, stop in _fields(data, begin, end, budget):
        if kind == _BYTES:
            yield number, start, stop


def _fields(data: mmap.mmap, begin: int, end: int, budget: _Budget) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, value (of an integer) or begin, and end of each field of a message."""
    position = begin
    while position < end:
        budget.fields -= 1
        if budget.fields < 0:
            raise ValueError(f"it has more than {_MAX_FIELDS} fields")
        key, position = _varint(data, position, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(data, position, end)
            yield number, kind, value, position
            continue
        if kind == _BYTES:
            length, position = _varint(data, position, end)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("it is damaged, or no ONNX file")
        start, position = position, position + length
        if number == 0 or position > end:
            raise ValueError("it is damaged, or no ONNX file")
        yield number, kind, start, position


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is damaged, or no ONNX file")
