"""Every name of TensorRT that is used is there in 10.3 and in 11, with parameters that fit both."""

from __future__ import annotations

import ast
import enum
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from fake_cuda import FakeDriver
from fake_tensorrt import Behaviour, make_tensorrt

from vgssl_core.inference import tensorrt_build

SOURCES = sorted((Path(__file__).parents[1] / "vgssl_core" / "inference").glob("tensorrt*.py"))
TABLES: dict[str, dict[str, dict[str, str]]] = json.loads(
    (Path(__file__).parent / "data" / "tensorrt_api.json").read_text()
)["versions"]


def recorded_parameters(signature: str) -> list[str] | None:
    """Names without self; None where the binding tells none (several overloads)."""
    names = re.findall(r"(?:\(|, )(\w+): ", signature)
    return None if "*args" in signature else [name for name in names if name != "self"]


def differences(kind: type, table: dict[str, str]) -> list[str]:
    """What a class has that the table lacks, or has otherwise."""
    if issubclass(kind, enum.Enum):
        return [name for name in kind.__members__ if name not in table]
    found = []
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if name not in table:
            found.append(name)
        elif isinstance(member, FunctionType):
            own = [item for item in inspect.signature(member).parameters if item != "self"]
            recorded = recorded_parameters(table[name])
            # A long signature was cut when it was recorded.
            if recorded is not None and own[: len(recorded)] != recorded:
                found.append(f"{name}: {own} instead of {recorded}")
    return found


def classes(module: ModuleType) -> Iterator[type]:
    yield from (member for member in vars(module).values() if isinstance(member, type))


def test_the_record_holds_both_ends_of_what_is_supported() -> None:
    assert [version.split(".")[0] for version in TABLES] == ["10", "11"]
    # Weak typing is what was removed; a record without the difference would prove nothing.
    assert "FP16" in TABLES["10.3.0"]["BuilderFlag"] and "FP16" not in TABLES["11.4.0.106"]["BuilderFlag"]


@pytest.mark.parametrize("version", TABLES)
def test_the_fake_has_no_name_and_no_parameter_that_the_real_one_lacks(version: str) -> None:
    fake = make_tensorrt(version, FakeDriver(), Behaviour())
    assert {kind.__name__ for kind in classes(fake)} <= set(TABLES[version])
    assert {
        kind.__name__: found for kind in classes(fake) if (found := differences(kind, TABLES[version][kind.__name__]))
    } == {}


@pytest.mark.parametrize("version", TABLES)
def test_a_name_or_parameter_that_is_missing_is_found(version: str) -> None:
    class Builder:
        def create_network(self, options: int = 0) -> None: ...

        def build_engine(self) -> None: ...

    assert differences(Builder, TABLES[version]["Builder"]) == [
        "create_network: ['options'] instead of ['flags']",
        "build_engine",
    ]


def names_used(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every ``trt.A`` and ``trt.A.B`` of a file."""
    tree = ast.parse(path.read_text())
    outer = {id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt":
            yield node.attr, outer.get(id(node))


@pytest.mark.parametrize("version", TABLES)
def test_every_name_in_the_source_is_recorded(version: str) -> None:
    used = {name for path in SOURCES for name in names_used(path)} - {("__version__", None)}
    assert len(used) > 10
    missing = [(kind, name) for kind, name in used if kind not in TABLES[version]]
    missing += [(kind, name) for kind, name in used - set(missing) if name and name not in TABLES[version][kind]]
    # A class's own constructor is in no table.
    assert [item for item in missing if item[1] != "__init__"] == []


@pytest.mark.parametrize("version", TABLES)
def test_what_tensorrt_calls_back_has_the_recorded_parameters(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = make_tensorrt(version, FakeDriver(), Behaviour())
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", fake)
    tensorrt_build.logger.cache_clear()
    for given, kind in ((tensorrt_build.logger(), "ILogger"), (tensorrt_build._monitor(0.0), "IProgressMonitor")):
        callbacks = {name for name in TABLES[version][kind] if name.islower()}
        assert callbacks <= set(vars(type(given)))
        found = [name for name in differences(type(given), TABLES[version][kind]) if name in callbacks or ":" in name]
        assert found == []
    tensorrt_build.logger.cache_clear()
