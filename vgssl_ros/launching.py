"""What the launch files share; it needs the packages ``launch`` and ``launch_ros`` of a ROS 2 distribution."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescriptionEntity
from launch.actions import IncludeLaunchDescription, SetEnvironmentVariable, Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

PACKAGE = "vgssl_ros"
#: Fast DDS 2 of these distributions knows the variable by its old name alone; Fast DDS 3 warns about that one.
_WITH_FAST_DDS_2 = ("humble", "iron", "jazzy")
_LARGE_IMAGES = "large_images"
_INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)


def given(context: LaunchContext, argument: str) -> str:
    """Text of a launch argument."""
    return LaunchConfiguration(argument).perform(context)


def truth(context: LaunchContext, argument: str) -> bool:
    """A launch argument that is true or false.

    Raises:
        RuntimeError: It is neither.
    """
    text = given(context, argument)
    meanings = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in meanings:
        raise RuntimeError(f"{argument}:={text} is neither true nor false")
    return meanings[text.lower()]


def simulated_time(context: LaunchContext) -> dict[str, bool]:
    """The parameter ``use_sim_time`` where the argument was given; else nothing, which leaves the parameter files'."""
    return {"use_sim_time": truth(context, "use_sim_time")} if given(context, "use_sim_time") else {}


def shipped(*names: str) -> PathJoinSubstitution:
    """Path of a file that this package installs, found through the ament index."""
    return PathJoinSubstitution([FindPackageShare(PACKAGE), *names])


def localizer_launch(**arguments: str) -> IncludeLaunchDescription:
    """``localize.launch.py`` with its arguments out of those of the including file, and with the ones given here."""
    source = PythonLaunchDescriptionSource(shipped("launch", "localize.launch.py"))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())


def require_package(package: str, remedy: str) -> None:
    """Refuse to go on without a package.

    Raises:
        RuntimeError: It is not installed; the remedy says how it comes.
    """
    try:
        get_package_share_directory(package)
    except PackageNotFoundError as problem:
        raise RuntimeError(f"the package {package} is not installed: {remedy}") from problem


def profiles_variable(distribution: str) -> str:
    """Name of the environment variable that Fast DDS reads its profile from."""
    return f"{'FASTRTPS' if distribution in _WITH_FAST_DDS_2 else 'FASTDDS'}_DEFAULT_PROFILES_FILE"


def fastdds_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """The Fast DDS profile of the argument ``fastdds_profile``, for all processes that are started afterwards.

    Raises:
        RuntimeError: There is no such file.
    """
    profile = given(context, "fastdds_profile")
    if not profile:
        return []
    file = Path(shipped("config", "ros", "fastdds_large_images.xml").perform(context))
    if profile != _LARGE_IMAGES:
        file = Path(profile)
    if not file.is_file():
        raise RuntimeError(f"fastdds_profile:={profile} is no file: give {_LARGE_IMAGES} for ours, or a path")
    return [SetEnvironmentVariable(profiles_variable(os.environ.get("ROS_DISTRO", "")), str(file.resolve()))]


def end_with(
    program: str, then: Callable[[], list[LaunchDescriptionEntity]] | None = None
) -> Callable[[ProcessExited, LaunchContext], list[LaunchDescriptionEntity]]:
    """What a launch does when a process ends: it ends too, and fails when the process failed.

    Args:
        program: What people call the process; its own message says why it failed.
        then: Instead of ending, go on with these after a good end.
    """

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        if context.is_shutdown:
            return []
        # A Ctrl-C reaches all processes of a terminal, some of them before us.
        if event.returncode in _INTERRUPTED:
            return [Shutdown(reason=f"the {program} was interrupted")]
        if event.returncode != 0:
            raise RuntimeError(f"the {program} ended with status {event.returncode}; its message stands above")
        return [Shutdown(reason=f"the {program} ended")] if then is None else then()

    return on_exit
