"""The package's shape: which way imports go, what is installed, how it builds under colcon."""

from __future__ import annotations

import ast
import graphlib
import os
import pkgutil
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

import training.vgssl

ROOT = Path(__file__).resolve().parents[1]
TORCH_ROOMS = ("models", "ssl", "geopair")
ROS = ("rclpy", "launch", "launch_ros", "ament_index_python", "cv_bridge", "tf2_ros", "rosbag2_py")
BLOCKER = """
import importlib, importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name + " is blocked", name=name)
sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    importlib.import_module(name)
"""


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _modules(package: str) -> list[str]:
    return [package, *(m.name for m in pkgutil.walk_packages([str(ROOT / package.replace(".", "/"))], package + "."))]


def test_the_core_never_imports_ros_nor_the_programs() -> None:
    for path in (ROOT / "vgssl_core").rglob("*.py"):
        for name in _imports(path):
            top = name.split(".")[0]
            assert top not in (*ROS, "training", "vgssl_ros") and not top.endswith("_msgs"), f"{path} imports {name}"


def test_programs_and_ros_side_do_not_import_each_other() -> None:
    for package, other in (("training", "vgssl_ros"), ("vgssl_ros", "training")):
        for path in (ROOT / package).rglob("*.py"):
            assert not any(name.split(".")[0] == other for name in _imports(path)), path


def test_everything_but_the_learning_rooms_imports_without_torch() -> None:
    modules = [m for m in _modules("vgssl_core") if not (m.count(".") and m.split(".")[1] in TORCH_ROOMS)]
    modules += [f"training.{name}" for name in ("build_map", "evaluate", "localize", "map", "town", "vgssl")]
    modules += ["training.benchmark", "vgssl_ros.evaluate_bag"]
    code = BLOCKER.format(blocked={"torch", "timm", "torchvision", *ROS}, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_only_the_learning_rooms_name_torch() -> None:
    # Also inside functions, where the test above does not look.
    for path in (ROOT / "vgssl_core").rglob("*.py"):
        if path.relative_to(ROOT / "vgssl_core").parts[0] not in TORCH_ROOMS:
            assert not {name.split(".")[0] for name in _imports(path)} & {"torch", "timm"}, path


def test_rooms_import_each_other_in_one_direction() -> None:
    rooms: dict[str, set[str]] = {}
    for path in (ROOT / "vgssl_core").rglob("*.py"):
        room = path.relative_to(ROOT / "vgssl_core").parts[0].removesuffix(".py")
        found = {name.split(".")[1] for name in _imports(path) if name.startswith("vgssl_core.")}
        rooms.setdefault(room, set()).update(found - {room})
    graphlib.TopologicalSorter(rooms).prepare()  # raises CycleError with the circle


def test_a_missing_extra_is_named_in_one_line(tmp_path: Path) -> None:
    blocker = BLOCKER.format(blocked={"torch", "rclpy"}, modules=[])
    for arguments, remedy in ((["replay", "--bag", "x"], "ROS 2"), (["train", "--data", "x"], "vgssl_ros[train]")):
        code = f"{blocker}\nimport training.vgssl\nsys.exit(training.vgssl.main({arguments!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and remedy in done.stderr and done.stderr.count("\n") == 1
        assert not list(tmp_path.iterdir())


def test_every_program_answers_help() -> None:
    # One process for all: an import of torch apiece would cost seconds.
    code = (
        "import contextlib, importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(module).main(['--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0, module\n"
    )
    modules = [module for module, _ in training.vgssl.PROGRAMS.values()]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in training.vgssl.PROGRAMS:
        assert f"usage: vgssl {name}" in done.stdout


@pytest.mark.parametrize("name", ["export", "build-map", "evaluate", "localize", "map", "town"])
def test_a_program_without_its_arguments_says_what_it_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        training.vgssl.main([name])
    assert stop.value.code == 2
    assert "required" in capsys.readouterr().err


def test_an_unknown_program_is_an_error_that_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        training.vgssl.main(["fly"])
    assert stop.value.code == 2
    assert "evaluate" in capsys.readouterr().err


def test_no_extra_brings_two_faiss_wheels() -> None:
    requirements = distribution("vgssl_ros").requires or []
    faiss = {extra: [r for r in requirements if "faiss" in r and f'"{extra}"' in r] for extra in ("cpu", "gpu")}
    assert all(len(names) == 1 for names in faiss.values())
    assert len([r for r in requirements if "faiss" in r]) == 2, "faiss belongs to the extras cpu and gpu alone"


def test_package_xml_and_setup_agree() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    installed = distribution("vgssl_ros")
    assert package.findtext("name") == installed.name == "vgssl_ros"
    assert package.findtext("version") == installed.version
    assert package.findtext("license") == installed.metadata["License"] == "Apache-2.0"


def test_colcon_builds_it_as_an_ament_python_package(tmp_path: Path) -> None:
    source = tmp_path / "src" / "vgssl_ros"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "install", "log", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    colcon = Path(sys.executable).with_name("colcon")
    environment = {
        **os.environ,
        "COLCON_LOG_PATH": str(tmp_path / "log"),
        "PATH": f"{colcon.parent}:{os.environ['PATH']}",
    }
    listed = subprocess.run([colcon, "list"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert "ros.ament_python" in listed.stdout, listed.stdout + listed.stderr
    built = subprocess.run(
        [colcon, "build"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stdout + built.stderr
    prefix = tmp_path / "install" / "vgssl_ros"
    for program in ("localizer_node", "evaluate_bag", "replay", "initial_pose"):
        assert os.access(prefix / "lib" / "vgssl_ros" / program, os.X_OK)  # where `ros2 run` looks
    shipped = [path.relative_to(ROOT) for folder in ("launch", "config/ros") for path in (ROOT / folder).glob("*.*")]
    assert len(shipped) >= 9
    for file in ("package.xml", "config/localize.yaml", "config/train/small/mocov2.yaml", *shipped):
        assert (prefix / "share" / "vgssl_ros" / file).is_file()
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "vgssl_ros").is_file()
