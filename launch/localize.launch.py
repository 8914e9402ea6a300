"""Start the localizer node.

``ros2 launch vgssl_ros localize.launch.py map:=MAP bundle:=BUNDLE image:=/camera/image_raw``. An argument that is not
given leaves the value of the parameter file; ``--show-args`` tells them all.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

#: Launch argument: parameter of the node and description.
OVERRIDES = {
    "map": ("map_path", "folder of the map (`vgssl build-map`)"),
    "bundle": ("bundle_path", "folder of the model bundle (`vgssl export`)"),
    "image": ("image_topic", "camera topic, without the transport's ending"),
    "image_transport": ("image_transport", "raw, or compressed for image + /compressed"),
    "image_qos": ("image_qos", "best_effort, or reliable for images that must not be lost"),
}


def localizer(context: LaunchContext) -> list[Node]:
    """The node, with the arguments that were given over the parameter file."""

    def given(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    # As text, or a map in a folder named 2024 would become a number.
    overrides: dict[str, object] = {
        parameter: ParameterValue(given(argument), value_type=str)
        for argument, (parameter, _) in OVERRIDES.items()
        if given(argument)
    }
    if given("use_sim_time"):
        overrides["use_sim_time"] = _truth("use_sim_time", given("use_sim_time"))
    return [
        Node(
            package="vgssl_ros",
            executable="localizer_node",
            name="localizer",
            namespace=given("namespace"),
            parameters=[given("params_file"), overrides],
            output="screen",
            emulate_tty=True,
            on_exit=end_with_node,
        )
    ]


def _truth(argument: str, text: str) -> bool:
    meanings = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in meanings:
        raise RuntimeError(f"{argument}:={text} is neither true nor false")
    return meanings[text.lower()]


def end_with_node(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """End the launch with the node, and fail when it failed; its own message says why."""
    if event.returncode != 0 and not context.is_shutdown:
        raise RuntimeError(f"the localizer ended with status {event.returncode}; its message stands above")
    return [Shutdown(reason="the localizer ended")]


def generate_launch_description() -> LaunchDescription:
    """Arguments and node."""
    defaults = PathJoinSubstitution([FindPackageShare("vgssl_ros"), "config", "localize.yaml"])
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(argument, default_value="", description=description)
                for argument, (_, description) in OVERRIDES.items()
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
            DeclareLaunchArgument("use_sim_time", default_value="", description="true takes the time from /clock"),
            DeclareLaunchArgument("params_file", default_value=defaults, description="parameters of the node"),
            OpaqueFunction(function=localizer),
        ]
    )
