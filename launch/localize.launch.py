"""Start the localizer node.

``ros2 launch vgssl_ros localize.launch.py map:=MAP bundle:=BUNDLE image:=/camera/image_raw``. An argument that is not
given leaves the value of the parameter file; ``--show-args`` tells them all.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from vgssl_ros.launching import PACKAGE, end_with, fastdds_profile, given, shipped, simulated_time, truth

#: Launch argument: parameter of the node and description.
OVERRIDES = {
    "map": ("map_path", "folder of the map (`vgssl build-map`)"),
    "bundle": ("bundle_path", "folder of the model bundle (`vgssl export`)"),
    "image": ("image_topic", "camera topic, without the transport's ending"),
    "image_transport": ("image_transport", "raw, or compressed for image + /compressed"),
    "image_qos": ("image_qos", "best_effort, or reliable for images that must not be lost"),
}
#: Launch argument, which is also the topic that the node asks for, and description.
REMAPPINGS = {
    "odom": "odometry topic (nav_msgs/Odometry) for the filter over time",
    "initial_fix": "topic of a rough position on Earth (sensor_msgs/NavSatFix) to search near",
    "initial_pose": "topic of a rough pose in the map (geometry_msgs/PoseWithCovarianceStamped) to search near",
}


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The localizer, with the arguments that were given over the parameter file, and what was asked for beside it."""
    # As text, or a map in a folder named 2024 would become a number.
    overrides: dict[str, object] = {
        parameter: ParameterValue(given(context, argument), value_type=str)
        for argument, (parameter, _) in OVERRIDES.items()
        if given(context, argument)
    }
    overrides |= simulated_time(context)
    localizer = Node(
        package=PACKAGE,
        executable="localizer_node",
        name="localizer",
        namespace=given(context, "namespace"),
        parameters=[given(context, "params_file"), *([overrides] if overrides else [])],
        remappings=[(name, given(context, name)) for name in REMAPPINGS if given(context, name)],
        output="screen",
        emulate_tty=True,
        on_exit=end_with("localizer"),
    )
    return [*fastdds_profile(context), localizer, *([_initial_pose(context)] if truth(context, "amcl") else [])]


def _initial_pose(context: LaunchContext) -> Node:
    return Node(
        package=PACKAGE,
        executable="initial_pose",
        name="initial_pose",
        namespace=given(context, "namespace"),
        parameters=[time] if (time := simulated_time(context)) else None,
        output="screen",
        emulate_tty=True,
        on_exit=end_with("publisher of the initial pose"),
    )


def generate_launch_description() -> LaunchDescription:
    """Arguments and nodes."""
    described = {**{argument: text for argument, (_, text) in OVERRIDES.items()}, **REMAPPINGS}
    described |= {
        "namespace": "namespace of the node and its topics",
        "use_sim_time": "true takes the time from /clock",
        "fastdds_profile": "Fast DDS profile of all processes: large_images for ours, or a file",
    }
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value="", description=text) for name, text in described.items()),
            DeclareLaunchArgument(
                "params_file", default_value=shipped("config", "localize.yaml"), description="parameters of the node"
            ),
            DeclareLaunchArgument(
                "amcl",
                default_value="false",
                description="true also sends the first accepted pose to /initialpose, for Nav2 AMCL",
            ),
            OpaqueFunction(function=nodes),
        ]
    )
