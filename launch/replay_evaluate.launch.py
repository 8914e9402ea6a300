"""Play a bag into a localizer over real DDS and record its answers, then measure the same bag exactly, without DDS.

``ros2 launch vgssl_ros replay_evaluate.launch.py map:=MAP bundle:=BUNDLE bag:=BAG out:=OUT image:=/camera/image_raw``

``OUT/replay`` holds what came over the topics (answers.csv, summary.json), ``OUT/evaluation`` the report of
`evaluate_bag`. The launch ends by itself, with a status other than 0 when a part of it failed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch_ros.substitutions import ExecutableInPackage

from vgssl_ros.launching import PACKAGE, end_with, given, localizer_launch

#: Launch argument: option of `replay` and description.
REPLAY = {
    "rate": ("--rate", "speed of the replay; 2 is twice as fast as recorded"),
    "start": ("--start_s", "skip this much of the bag in the replay, seconds"),
    "duration": ("--duration_s", "replay this much of the bag, seconds"),
}


def replay(context: LaunchContext) -> list[ExecuteProcess]:
    """The replay, and after it the evaluation."""
    out = Path(given(context, "out"))
    compressed = "/compressed" if given(context, "image_transport") == "compressed" else ""
    bag = ["--bag", given(context, "bag"), "--image_topic", given(context, "image") + compressed]

    def evaluation() -> list[LaunchDescriptionEntity]:
        known = ["--map", given(context, "map"), "--bundle", given(context, "bundle")]
        results = ["--out", str(out / "evaluation")]
        more = shlex.split(given(context, "evaluate_args"))
        return [_program("evaluate-bag", [*bag, *known, *results, *more], end_with("evaluation"))]

    namespace = given(context, "namespace").strip("/")
    results = ["--localizer", f"/{namespace}/localizer" if namespace else "/localizer", "--record", str(out / "replay")]
    for name, (option, _) in REPLAY.items():
        results += [option, given(context, name)] if given(context, name) else []
    return [_program("replay", [*bag, *results], end_with("replay", evaluation))]


def _program(name: str, arguments: list[str], on_exit: Callable) -> ExecuteProcess:
    # No Node: these programs have a command line of their own, which refuses ROS arguments. By the command vgssl, which
    # takes a Ctrl-C quietly while it imports them.
    command = [ExecutableInPackage(package=PACKAGE, executable="vgssl"), name, *arguments]
    return ExecuteProcess(cmd=command, name=name, output="screen", on_exit=on_exit)


def generate_launch_description() -> LaunchDescription:
    """Arguments, the localizer on the bag's time, and the programs."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("map", description="folder of the map"),
            DeclareLaunchArgument("bundle", description="folder of the model bundle"),
            DeclareLaunchArgument("bag", description="bag with images and true positions"),
            DeclareLaunchArgument("out", description="folder for the results"),
            DeclareLaunchArgument("image", description="image topic of the bag, without the transport's ending"),
            *(
                DeclareLaunchArgument(name, default_value="", description=description)
                for name, (_, description) in REPLAY.items()
            ),
            DeclareLaunchArgument(
                "evaluate_args",
                default_value="",
                description="more options of evaluate_bag, such as '--position_topic /gps/fix'",
            ),
            DeclareLaunchArgument("image_qos", default_value="reliable", description="reliable, or best_effort"),
            localizer_launch(use_sim_time="true"),
            OpaqueFunction(function=replay),
        ]
    )
