"""One way for all programs: dataclass defaults, over them a YAML file, over that the flags; unknown keys are errors."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import json
import logging
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeVar

import docstring_parser
import jsonargparse

from vgssl_core.errors import VgsslError

Config = TypeVar("Config")
_TRAINING_MODULES = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "tensorboard",
    "safetensors",
    "huggingface_hub",
)


def parse(
    config_type: type[Config],
    arguments: Sequence[str] | None,
    program: str,
    positional: Sequence[str] = (),
) -> Config:
    """Fill a configuration dataclass from the command line.

    Args:
        config_type: The dataclass. The first lines of its docstring are the program's help, its ``Attributes``
            describe the flags. Nested dataclasses become dotted flags.
        arguments: Command line without the program's name; None takes the process's own.
        program: Name for the help, for example ``vgssl export``.
        positional: Fields that are given without a flag, in this order; those with a default may be left out.

    Raises:
        SystemExit: 0 after ``--help``, 2 for an unknown flag or key or a value of the wrong type.
    """
    documentation = docstring_parser.parse(config_type.__doc__ or "")
    defaults = {item.name: item.default for item in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    parser = _Parser(
        prog=program,
        description=documentation.short_description,
        usage=" ".join(["%(prog)s", *_usage(config_type, positional), "[--SETTING VALUE] ..."]),
        parser_mode="yaml",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below; flags go over it.")
    descriptions = {item.arg_name: item.description for item in documentation.params}
    hints = typing.get_type_hints(config_type)
    for name in positional:
        optional = defaults[name] is not dataclasses.MISSING
        choice = {"nargs": "?", "default": defaults[name]} if optional else {}
        parser.add_argument(name, type=hints[name], help=descriptions.get(name), **choice)
    parser.add_class_arguments(config_type, skip=set(positional))
    _make_readable(parser, hints)
    given = [_with_underscores(item) for item in (sys.argv[1:] if arguments is None else arguments)]
    given = _with_values(given, {f"--{name}" for name, hint in hints.items() if hint is bool})
    given = _with_lists(given, {f"--{name}" for name, hint in hints.items() if _is_list(hint)})
    values = parser.instantiate(parser.parse_args(given))
    return config_type(**{name: values[name] for name in hints})


class _Parser(jsonargparse.ArgumentParser):
    """Names the nearest settings where one is not known."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and leave with status 2."""
        known = {option.lstrip("-") for action in self._actions for option in action.option_strings}
        unknown = re.findall(r"--([\w.]+)", message) if "unrecognized arguments" in message else []
        unknown += map(".".join, re.findall(r"Group '([\w.]+)' does not accept option '(\w+)'", message))
        unknown += re.findall(r"Option '(\w+)' is not accepted", message)
        near = [name for item in unknown for name in difflib.get_close_matches(item, known, n=1)]
        super().error(f"{message}. Do you mean {', '.join(near)}?" if near else message, ex)


def _usage(config_type: type, positional: Sequence[str]) -> list[str]:
    """What must be given, and what may be given without a flag; the other settings would fill a page."""
    fields = dataclasses.fields(config_type)
    needed = {item.name: item.default is dataclasses.MISSING is item.default_factory for item in fields}
    places = [name.upper() if needed[name] else f"[{name.upper()}]" for name in positional]
    flags = [f"--{name} {name.upper()}" for name, is_needed in needed.items() if is_needed and name not in positional]
    return [*places, *flags]


def _make_readable(parser: jsonargparse.ArgumentParser, hints: Mapping[str, object]) -> None:
    """Help without the marks of docstrings, and with lists as they are given here: one value after the other."""

    def unmarked(text: str) -> str:
        flags = re.sub(r"``(\w+)``", lambda found: f"{'--' * (found[1] in hints)}{found[1]}", text)
        return flags.replace("`", "")

    for action in parser._actions:
        if isinstance(action.help, str):
            action.help = unmarked(action.help)
        if _is_list(hints.get(action.dest)):
            action.metavar = "VALUE ..."
    for group in parser._action_groups:
        group.title = unmarked(group.title or "") or None


def _with_underscores(argument: str) -> str:
    """``--max-minutes=3`` as ``--max_minutes=3``: both spellings of a flag are taken."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


def _with_values(arguments: Sequence[str], switches: set[str]) -> list[str]:
    """``--json`` alone as ``--json=true``; a value that follows it stays its value."""
    return [
        f"{item}=true" if item in switches and after not in ("true", "false") else item
        for item, after in itertools.pairwise([*arguments, ""])
    ]


def _is_list(hint: object) -> bool:
    """A list or tuple, or None in its place."""
    return any(typing.get_origin(item) in (list, tuple) for item in (hint, *typing.get_args(hint)))


def _with_lists(arguments: Sequence[str], lists: set[str]) -> list[str]:
    """``--methods a b`` as ``--methods=["a", "b"]``: a list's values follow its flag up to the next flag."""
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        item = rest.pop(0)
        flag, equals, value = item.partition("=")
        if flag in lists and not (value or "".join(rest[:1])).startswith("["):
            values = [value] if equals else []
            while rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            item = f"{flag}={json.dumps(values)}"
        joined.append(item)
    return joined


def choose(
    program: str, description: str, what: str, helps: Mapping[str, str], arguments: Sequence[str] | None
) -> tuple[str, list[str]]:
    """Which of several programs or actions the first argument names.

    Args:
        program: Name for the help, for example ``vgssl map``.
        description: The first line of the help.
        what: What is chosen, in one word, for example ``action``.
        helps: Name → one line of help.
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        The name, and the arguments behind it.

    Raises:
        SystemExit: 0 after ``--help``, 2 for no name or an unknown one.
    """
    width = max(map(len, helps))
    listing = "\n".join(f"  {name:<{width}}  {line}" for name, line in helps.items())
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=f"{what}s:\n{listing}\n\n`{program} {what.upper()} --help` tells its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=helps, metavar=what.upper(), help=f"one of the {what}s below")
    given = list(sys.argv[1:] if arguments is None else arguments)
    return parser.parse_args(given[:1]).name, given[1:]


def run(
    work: Callable[[Config], int | None],
    config_type: type[Config],
    arguments: Sequence[str] | None,
    program: str,
    positional: Sequence[str] = (),
) -> int:
    """Parse the command line, run a program on it, and turn our errors into one line and an exit status.

    Returns:
        What ``work`` returns (None is 0); 1 after a `VgsslError`, 130 after Ctrl-C.
    """
    return guarded(lambda: work(parse(config_type, arguments, program, positional)))


def guarded(work: Callable[[], int | None]) -> int:
    """Run ``work``; print a `VgsslError` or `OSError` as one line with its remedy instead of a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return work() or 0
    except (VgsslError, OSError) as problem:
        # A full disk or a folder without permission is the user's to mend too; that message names the file.
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as problem:
        remedy = missing_extra(problem.name or "")
        if remedy is None:
            raise
        print(f"error: {problem.name} is not installed: {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def missing_extra(module: str) -> str | None:
    """What to install for a module that only some programs need; None for any other module."""
    top = module.split(".")[0]
    if top in _TRAINING_MODULES:
        return "training and export need pip install 'vgssl_ros[train]'."
    if top == "rclpy" or top.endswith(("_msgs", "_interfaces")):
        return "source a ROS 2 distribution (source /opt/ros/NAME/setup.bash), or pip install 'vgssl_ros[ros]'."
    return None
