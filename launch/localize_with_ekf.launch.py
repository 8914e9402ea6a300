"""Start the localizer and fuse its answers with odometry by robot_localization's EKF, which publishes map → odom.

``ros2 launch vgssl_ros localize_with_ekf.launch.py map:=MAP bundle:=BUNDLE image:=/camera/image_raw odom:=/odom``

Two recipes: ``recipe:=pose`` gives ``~/pose`` to the EKF; ``recipe:=fix`` gives ``~/fix`` to navsat_transform_node with
the map's datum, and what that makes of it to the EKF. In both something else has to publish odom → base_link; see
docs/deploy.md.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from vgssl_ros.launching import end_with, given, localizer_launch, require_package, shipped, simulated_time
from vgssl_ros.map_datum import map_datum

FILTERED = ("odometry/filtered", "odometry/global")


def check(context: LaunchContext) -> None:
    """Refuse to start anything without the filters."""
    require_package("robot_localization", "sudo apt install ros-$ROS_DISTRO-robot-localization")


def filters(context: LaunchContext) -> list[Node]:
    """The EKF, and in the recipe ``fix`` what turns fixes into positions for it."""
    recipe, odometry = given(context, "recipe"), given(context, "odom")
    ekf = _filter_node(
        context,
        executable="ekf_node",
        name="ekf_map",
        parameters=[
            given(context, "ekf_params") or shipped("config", "ros", f"ekf_{recipe}.yaml"),
            {"odom0": odometry} if odometry else {},
        ],
        remappings=[FILTERED],
    )
    return [ekf] if recipe == "pose" else [_navsat_transform(context), ekf]


def _navsat_transform(context: LaunchContext) -> Node:
    if not given(context, "map"):
        raise RuntimeError("recipe:=fix takes the datum from the map: give map:=MAP")
    latitude, longitude, _ = map_datum(Path(given(context, "map")))
    return _filter_node(
        context,
        executable="navsat_transform_node",
        name="navsat_transform",
        # The third number is the heading of the frame: our maps are ENU.
        parameters=[given(context, "navsat_params"), {"wait_for_datum": True, "datum": [latitude, longitude, 0.0]}],
        remappings=[("gps/fix", "localizer/fix"), FILTERED],
    )


def _filter_node(context: LaunchContext, name: str, parameters: list, **settings: object) -> Node:
    # An empty mapping is no parameter file that rcl reads.
    return Node(
        package="robot_localization",
        name=name,
        namespace=given(context, "namespace"),
        parameters=[item for item in (*parameters, simulated_time(context)) if item],
        output="screen",
        on_exit=end_with(name),
        **settings,
    )


def generate_launch_description() -> LaunchDescription:
    """Arguments, filters, and the localizer with all of its own arguments."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "recipe",
                default_value="pose",
                choices=["pose", "fix"],
                description="what is fused: the pose in the map, or the fix on Earth through navsat_transform",
            ),
            DeclareLaunchArgument(
                "ekf_params",
                default_value="",
                description="parameters of the EKF; config/ros/ekf_pose.yaml or ekf_fix.yaml where it is not given",
            ),
            DeclareLaunchArgument(
                "navsat_params",
                default_value=shipped("config", "ros", "navsat_transform.yaml"),
                description="parameters of navsat_transform_node; the datum comes from the map",
            ),
            OpaqueFunction(function=check),
            localizer_launch(),
            OpaqueFunction(function=filters),
        ]
    )
