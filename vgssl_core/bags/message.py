"""ROS messages from nested fields, without ROS: what is not given has the value that ROS gives it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

_TEXTS = ("string", "wstring")
#: Values that the messages' definitions state; all others are zero, empty or false.
_STATED = {"geometry_msgs/msg/Quaternion": {"w": 1.0}}


@functools.cache
def typestore() -> Typestore:
    """Layouts of the standard messages; those that this project uses are the same in all ROS 2 distributions."""
    return get_typestore(Stores.ROS2_HUMBLE)


def message(message_type: str, fields: Mapping[str, Any]) -> Any:
    """A message to be serialised by `serialised`, or to stand in another one.

    Args:
        message_type: For example ``geometry_msgs/msg/Pose``.
        fields: Values by name; mappings for nested messages, sequences of mappings for sequences of messages, and
            anything that numpy makes an array of for numbers.

    Raises:
        KeyError: A field that the type does not have.
    """
    _, definition = typestore().fielddefs[message_type]
    if unknown := fields.keys() - {name for name, _ in definition}:
        raise KeyError(f"{message_type} has no field {', '.join(sorted(unknown))}")
    stated = _STATED.get(message_type, {})
    values = {name: _value(kind, fields.get(name, stated.get(name))) for name, kind in definition}
    return typestore().types[message_type](**values)


def serialised(message_type: str, fields: Mapping[str, Any]) -> bytes:
    """The bytes of a message, as they are published and recorded."""
    return bytes(typestore().serialize_cdr(message(message_type, fields), message_type))


def header(stamp_ns: int, frame_id: str) -> dict[str, Any]:
    """Fields of a header."""
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return {"stamp": {"sec": seconds, "nanosec": nanoseconds}, "frame_id": frame_id}


def xyz(values: ArrayLike) -> dict[str, float]:
    """Fields of a point or a vector."""
    return dict(zip("xyz", np.asarray(values, np.float64).tolist(), strict=True))


def about_z(yaw_rad: float) -> dict[str, float]:
    """Fields of the quaternion of a turn about z."""
    return {"z": float(np.sin(yaw_rad / 2)), "w": float(np.cos(yaw_rad / 2))}


def _value(kind: tuple[Nodetype, Any], given: Any) -> Any:
    """A field's value as the typestore wants it; None asks for the default."""
    node, detail = kind
    if node == Nodetype.NAME:
        return message(detail, given or {})
    if node == Nodetype.BASE:
        name = detail[0]
        empty: Any = "" if name in _TEXTS else False if name == "bool" else 0.0 if name.startswith("float") else 0
        return empty if given is None else type(empty)(given)
    (inner, inner_detail), length = detail
    if inner == Nodetype.NAME:
        return [message(inner_detail, item) for item in given or ()]
    if inner_detail[0] in _TEXTS:
        return list(given or ())
    values = np.zeros(length if node == Nodetype.ARRAY else 0) if given is None else given
    return np.asarray(values, inner_detail[0]).reshape(-1)
