"""YAML that a stranger may have written: plain values only, and never more than a bounded amount of work."""

from __future__ import annotations

import json
from typing import Any

import yaml

#: libyaml parses ten times faster than Python; a distribution may come without it.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DEPTH = 32
#: A map of 10,000 segments has a third of the second number, and is written as JSON.
_MAX_VALUES, _MAX_JSON_VALUES = 100_000, 1_000_000
_MAX_TEXT, _MAX_DIGITS = 65_536, 64


class _Loader(_SAFE):
    """Also refuses numbers with which no program can calculate (``1:1:1:…`` takes quadratic time)."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return super().construct_yaml_int(_short(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return super().construct_yaml_float(_short(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def load_plain(text: str) -> Any:
    """The value of a YAML document.

    Everything is refused that expands (anchors, aliases), names a type (tags), is nested deeper than 32 levels or has
    more than 100,000 values: this is seen from the parser's events before anything is built. Where the text is JSON
    too, it is read as that, which takes milliseconds where YAML takes seconds, and may have a million values.

    Raises:
        yaml.YAMLError, ValueError, OverflowError: It is no YAML, or not plain; the message says what is not.
    """
    if text.startswith("{"):
        try:
            return _load_json(text)
        except json.JSONDecodeError:
            pass  # YAML in braces
    depth = values = 0
    for event in yaml.parse(text, _SAFE):
        if isinstance(event, yaml.NodeEvent):
            values += 1
            _require_plain(event)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
        if values > _MAX_VALUES:
            raise ValueError(f"it has more than {_MAX_VALUES} values")
    return yaml.load(text, _Loader)  # noqa: S506 - a safe loader


def _load_json(text: str) -> Any:
    # Each value but the first of a list or mapping follows a comma; those within texts are counted too.
    if sum(text.count(sign) for sign in ",[{") > _MAX_JSON_VALUES:
        raise ValueError(f"it has more than {_MAX_JSON_VALUES} values")
    try:
        return json.loads(text, parse_int=_short_int)
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem


def _short_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _short(node: yaml.ScalarNode) -> yaml.ScalarNode:
    if len(node.value) > _MAX_DIGITS:
        raise ValueError(f"line {node.start_mark.line + 1} has a number of {len(node.value)} digits")
    return node


def _require_plain(event: yaml.NodeEvent) -> None:
    if event.anchor is not None:
        raise ValueError(f"line {event.start_mark.line + 1} has an anchor or alias (& or *): write the value itself")
    if getattr(event, "tag", None) is not None:
        raise ValueError(f"line {event.start_mark.line + 1} has the tag {event.tag[:40]}: only plain values are read")
    if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_TEXT:
        raise ValueError(f"line {event.start_mark.line + 1} has a text of {len(event.value)} characters")
