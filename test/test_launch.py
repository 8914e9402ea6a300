"""Launch files: against the real API's signatures always, and by the real ``ros2 launch`` where it is installed.

No wheel of launch is on PyPI. ``data/launch_api.json`` holds the names of our imports and the parameters that they take
in each of Humble, Jazzy and Rolling, read from the sources of ros2/launch and ros2/launch_ros.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ros_support
from ros_support import IMAGE_TOPIC, ROOT, Program

from vgssl_ros.map_datum import map_datum

LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
SOURCES = [*LAUNCH_FILES, ROOT / "vgssl_ros" / "launching.py"]
API: dict[str, list[str]] = json.loads((ROOT / "test" / "data" / "launch_api.json").read_text())
PROGRAMS = {"localizer_node": "vgssl_ros", "initial_pose": "vgssl_ros", "vgssl": "training"}
#: Several processes start one after the other.
LONGEST_S = 120.0
LOCAL_PROFILE = ROOT / "config" / "fastdds_local.xml"
#: Reads its arguments with the real rcl, tells what it has got, and waits.
FILTER = """
import json, os
import rclpy
from rclpy.executors import ExternalShutdownException
rclpy.init()
node = rclpy.create_node("unnamed", automatically_declare_parameters_from_overrides=True)
names = ["odometry/filtered", "odometry/gps", "gps/fix", "localizer/pose", "odom"]
told = {
    "parameters": {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()},
    "topics": {name: node.resolve_topic_name(name) for name in names},
    "profile": os.environ["FASTDDS_DEFAULT_PROFILES_FILE"],
}
print("TOLD", node.get_fully_qualified_name(), json.dumps(told, default=list), flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""
API_PACKAGES = ("launch", "launch_ros", "ament_index_python")
needs_launch = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ros2launch", "launch_ros")),
    reason="ros2 launch is not installed: it comes with a ROS 2 distribution, and no wheel of it is on PyPI",
)


def _imported(tree: ast.Module) -> dict[str, str]:
    """Local name → full name of everything that comes from the launch API."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in API_PACKAGES
        for alias in node.names
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_only_what_every_distribution_knows_is_imported_and_given(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = _imported(tree)
    assert set(imported.values()) <= set(API)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for call in calls:
        name = imported.get(call.func.id)
        if name is not None:
            assert {keyword.arg for keyword in call.keywords} - {None} <= set(API[name]), ast.unparse(call)
            assert len(call.args) <= len(API[name]), ast.unparse(call)


def test_every_launch_file_is_installed_and_makes_a_description() -> None:
    names = {path.name for path in LAUNCH_FILES}
    assert names == {"localize.launch.py", "localize_with_ekf.launch.py", "replay_evaluate.launch.py"}
    for path in LAUNCH_FILES:
        functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert "generate_launch_description" in functions


def test_arguments_that_the_documents_name_exist() -> None:
    text = "".join(path.read_text() for path in LAUNCH_FILES)
    for document in ("README.md", "docs/deploy.md"):
        for command in re.findall(r"ros2 launch vgssl_ros (?:[^\n]*\\\n)*[^\n`]*", (ROOT / document).read_text()):
            assert (ROOT / "launch" / command.split()[3]).is_file(), command
            for argument in re.findall(r"(\w+):=", command):
                assert f'"{argument}"' in text, f"{document} gives {argument}:= to {command}"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> dict[str, Any]:
    """Arguments that every launch file takes: map, bundle and image topic; and the bag of the map."""
    drive = ros_support.write_drive(tmp_path_factory.mktemp("drive") / "bag")
    built = ros_support.build_map(tmp_path_factory.mktemp("built") / "map", tiny_bundle, drive)
    return {"map": built, "bundle": tiny_bundle, "image": IMAGE_TOPIC, "image_transport": "compressed", "bag": drive}


def _package(prefix: Path, name: str, programs: dict[str, str]) -> None:
    """What colcon installs of a package: its entry in the ament index, and its programs."""
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True, exist_ok=True)
    (index / name).touch()
    (prefix / "share" / name).mkdir()
    (prefix / "lib" / name).mkdir(parents=True)
    for program, code in programs.items():
        (prefix / "lib" / name / program).write_text(f"#!{sys.executable}\n{code}")
        (prefix / "lib" / name / program).chmod(0o755)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment with our package in the ament index."""
    prefix = tmp_path_factory.mktemp("prefix")
    code = "import sys\nfrom {1}.{0} import main\nsys.exit(main())\n"
    _package(prefix, "vgssl_ros", {name: code.format(name, module) for name, module in PROGRAMS.items()})
    for folder in ("launch", "config"):
        shutil.copytree(ROOT / folder, prefix / "share" / "vgssl_ros" / folder)
    (prefix / "ros2_command.py").write_text("import sys\nfrom ros2cli.cli import main\nsys.exit(main())\n")
    environment = ros_support.environment()
    search = [str(prefix), environment.get("AMENT_PREFIX_PATH", ""), sys.prefix]
    return {
        **environment,
        "AMENT_PREFIX_PATH": os.pathsep.join(filter(None, search)),
        "PYTHONPATH": os.pathsep.join([str(prefix), environment["PYTHONPATH"]]),
        "ROS_LOG_DIR": str(prefix / "log"),
    }


@pytest.fixture(scope="module")
def with_filters(tmp_path_factory: pytest.TempPathFactory, installed: dict[str, str]) -> dict[str, str]:
    """And with programs under the names of robot_localization's, which tell what they were given and wait."""
    prefix = tmp_path_factory.mktemp("filters")
    _package(prefix, "robot_localization", dict.fromkeys(("ekf_node", "navsat_transform_node"), FILTER))
    return {**installed, "AMENT_PREFIX_PATH": f"{prefix}{os.pathsep}{installed['AMENT_PREFIX_PATH']}"}


class Launch(Program):
    """The real ``ros2 launch``, without a keyboard: SIGINT to the command alone, which passes it on to its children."""

    def __init__(self, environment: dict[str, str], file: str, *options: str, **arguments: Any) -> None:
        texts = [f"{name}:={value}" for name, value in arguments.items()]
        super().__init__(["ros2_command", "launch", "vgssl_ros", file, *options, *texts], environment)

    def __exit__(self, *reason: object) -> None:
        # Killed, it would leave its children behind.
        if self.process.poll() is None:
            self.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LONGEST_S)
        super().__exit__(*reason)

    def wait_for(self, text: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or text in self.output, LONGEST_S)
        super().wait_for(text)

    def end(self) -> int:
        self.process.wait(LONGEST_S)
        return super().end()


def _assert_ended_well(program: Program) -> None:
    assert program.end() == 0, program.output
    assert "Traceback" not in program.output, program.output


def _told(program: Program, name: str) -> dict[str, Any]:
    """What the filter of a name was given."""
    program.wait_for(f"TOLD {name} ")
    (line,) = [line for line in program.lines if f"TOLD {name} " in line]
    return json.loads(line.split(f"TOLD {name} ")[1])


def test_a_program_that_is_interrupted_while_it_is_imported_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "slow_program.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    code = "from training import vgssl\nvgssl.PROGRAMS['slow'] = ('slow_program', '')\nvgssl.main(['slow'])\n"
    (tmp_path / "slow_command.py").write_text(code)
    environment = ros_support.environment()
    search = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    with Program(["slow_command"], {**environment, "PYTHONPATH": search}) as program:
        program.wait_for("importing")
        program.interrupt()
        assert program.end() == -signal.SIGINT and program.lines == ["importing"]


@needs_launch
@pytest.mark.parametrize("name", [path.name for path in LAUNCH_FILES])
def test_arguments_are_told_with_their_meaning(installed: dict[str, str], name: str) -> None:
    with Launch(installed, name, "--show-args") as program:
        _assert_ended_well(program)
    assert all(f"'{argument}'" in program.output for argument in ("map", "image", "namespace", "fastdds_profile"))


@needs_launch
def test_localize_starts_with_all_it_is_given_and_ends_cleanly(
    installed: dict[str, str], given: dict[str, Any]
) -> None:
    arguments = {name: value for name, value in given.items() if name != "bag"}
    with Launch(
        installed, "localize.launch.py", **arguments, namespace="robot", odom="/wheels", fastdds_profile=LOCAL_PROFILE
    ) as program:
        program.wait_for("Active")
        assert f"{IMAGE_TOPIC}/compressed" in program.output and "robot.localizer" in program.output
        program.interrupt()
        _assert_ended_well(program)


@needs_launch
def test_a_localizer_that_cannot_start_fails_the_launch_in_one_line(installed: dict[str, str]) -> None:
    with Launch(installed, "localize.launch.py", map="/nowhere", bundle="/nowhere") as program:
        assert program.end() == 1
    assert "There is no map at /nowhere" in program.output and "Traceback" not in program.output
    assert "the localizer ended with status 1" in program.output


@needs_launch
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"fastdds_profile": "/nowhere.xml"}, "fastdds_profile:=/nowhere.xml is no file"),
        ({"use_sim_time": "perhaps"}, "use_sim_time:=perhaps is neither true nor false"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(
    installed: dict[str, str], argument: dict[str, str], message: str
) -> None:
    with Launch(installed, "localize.launch.py", map="MAP", bundle="BUNDLE", **argument) as program:
        assert program.end() == 1
    assert message in program.output and "Traceback" not in program.output


@needs_launch
def test_the_recipe_pose_starts_the_ekf_on_accepted_poses(
    with_filters: dict[str, str], given: dict[str, Any], tmp_path: Path
) -> None:
    profile = shutil.copy(LOCAL_PROFILE, tmp_path / "profile.xml")
    arguments = {name: value for name, value in given.items() if name != "bag"}
    arguments |= {"namespace": "robot", "odom": "/wheels", "use_sim_time": True, "fastdds_profile": profile}
    with Launch({**with_filters, "ROS_DISTRO": "kilted"}, "localize_with_ekf.launch.py", **arguments) as program:
        told = _told(program, "/robot/ekf_map")
        program.wait_for("Active")
        program.interrupt()
        _assert_ended_well(program)
    assert told["parameters"]["pose0"] == "localizer/pose" and told["parameters"]["odom0"] == "/wheels"
    assert told["parameters"]["use_sim_time"] is True and len(told["parameters"]["process_noise_covariance"]) == 225
    assert told["topics"]["localizer/pose"] == "/robot/localizer/pose"
    assert told["topics"]["odometry/filtered"] == "/robot/odometry/global"
    assert "navsat_transform" not in program.output and told["profile"] == str(profile)


@needs_launch
def test_the_recipe_fix_starts_both_filters_with_the_datum_of_the_map(
    with_filters: dict[str, str], given: dict[str, Any]
) -> None:
    arguments = {name: value for name, value in given.items() if name != "bag"}
    with Launch(with_filters, "localize_with_ekf.launch.py", **arguments, recipe="fix") as program:
        navsat, ekf = _told(program, "/navsat_transform"), _told(program, "/ekf_map")
        program.interrupt()
        _assert_ended_well(program)
    latitude, longitude, _ = map_datum(given["map"])
    assert navsat["parameters"]["wait_for_datum"] is True
    assert navsat["parameters"]["datum"] == [latitude, longitude, 0.0]
    assert navsat["topics"]["gps/fix"] == "/localizer/fix"
    assert navsat["topics"]["odometry/filtered"] == ekf["topics"]["odometry/filtered"] == "/odometry/global"
    assert navsat["topics"]["odometry/gps"] == ekf["topics"][ekf["parameters"]["odom1"]] == "/odometry/gps"


@needs_launch
def test_fast_dds_is_told_of_its_profile_under_the_name_that_it_knows() -> None:
    from vgssl_ros.launching import profiles_variable

    assert profiles_variable("humble") == profiles_variable("jazzy") == "FASTRTPS_DEFAULT_PROFILES_FILE"
    assert profiles_variable("kilted") == profiles_variable("") == "FASTDDS_DEFAULT_PROFILES_FILE"


@needs_launch
def test_our_profile_is_found_by_its_name(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from launch import LaunchContext

    from vgssl_ros.launching import fastdds_profile

    monkeypatch.setenv("AMENT_PREFIX_PATH", installed["AMENT_PREFIX_PATH"])
    monkeypatch.setenv("ROS_DISTRO", "humble")
    # The action sets the variable of this process; here it is set back afterwards.
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    context = LaunchContext()
    context.launch_configurations["fastdds_profile"] = "large_images"
    (action,) = fastdds_profile(context)
    action.execute(context)
    assert Path(context.environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).name == "fastdds_large_images.xml"


@needs_launch
def test_without_robot_localization_nothing_is_started(installed: dict[str, str], given: dict[str, Any]) -> None:
    if importlib.util.find_spec("robot_localization") is not None:
        pytest.skip("robot_localization is installed")
    with Launch(installed, "localize_with_ekf.launch.py", map=given["map"], bundle=given["bundle"]) as program:
        assert program.end() == 1
    assert "the package robot_localization is not installed: sudo apt install" in program.output
    assert "Traceback" not in program.output and "process started" not in program.output


@needs_launch
def test_a_bag_is_replayed_and_then_measured(installed: dict[str, str], given: dict[str, Any], tmp_path: Path) -> None:
    more = "--position_topic /gps/fix"
    with Launch(
        installed, "replay_evaluate.launch.py", **given, out=tmp_path / "out", rate=4, evaluate_args=more
    ) as program:
        _assert_ended_well(program)
    summary = json.loads((tmp_path / "out" / "replay" / "summary.json").read_text())
    assert summary["frames_published"] == 12
    assert (tmp_path / "out" / "evaluation" / "metrics.json").is_file() and "R@1" in program.output


@needs_launch
def test_a_replay_that_is_interrupted_ends_cleanly(
    installed: dict[str, str], given: dict[str, Any], tmp_path: Path
) -> None:
    with Launch(
        installed, "replay_evaluate.launch.py", **given, out=tmp_path / "out", rate=0.01, namespace="robot"
    ) as program:
        program.wait_for("Active")
        program.wait_for("Waiting for a subscriber")
        program.interrupt()
        _assert_ended_well(program)
