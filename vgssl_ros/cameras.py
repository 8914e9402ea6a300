"""The cameras of a robot: where their images come from and where they sit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vgssl_core.errors import ConfigError
from vgssl_ros.base_pose import CameraMount

_NUMBERS = 6


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera.

    Attributes:
        topic: Resolved topic of its images, with the transport's ending.
        mount: Where it sits on the robot.
    """

    topic: str
    mount: CameraMount


def cameras_of(given: Mapping[str, Any], resolve: Callable[[str], str]) -> tuple[Camera, ...]:
    """The cameras that the parameters tell of.

    Args:
        given: Values of the node's parameters.
        resolve: Expands and remaps a topic; a `RuntimeError` tells what is wrong with its name.

    Raises:
        ConfigError: No topic name, a topic twice, or extrinsics of another number of cameras.
    """
    several = [topic for topic in given["image_topics"] if topic]
    parameter, names = ("image_topics", several) if several else ("image_topic", [given["image_topic"]])
    ending = "/compressed" if given["image_transport"] == "compressed" else ""
    topics = [_resolved(name, parameter, resolve) + ending for name in names]
    if len(set(topics)) < len(topics):
        raise ConfigError(f"image_topics names a topic twice: {', '.join(topics)}.")
    numbers = given["camera_extrinsics"]
    if len(numbers) != _NUMBERS * len(topics):
        raise ConfigError(
            f"camera_extrinsics has {len(numbers)} numbers for {len(topics)} cameras: give x y z roll pitch yaw of "
            "each, one after the other."
        )
    mounts = [CameraMount(numbers[begin : begin + _NUMBERS]) for begin in range(0, len(numbers), _NUMBERS)]
    return tuple(Camera(topic, mount) for topic, mount in zip(topics, mounts, strict=True))


def _resolved(topic: str, parameter: str, resolve: Callable[[str], str]) -> str:
    try:
        return resolve(topic)
    except RuntimeError as problem:
        reason = str(problem).removeprefix("failed to resolve name: ").split(", at ")[0]
        raise ConfigError(
            f"{parameter} {topic!r} is no topic name ({reason}): set one such as /camera/image_raw."
        ) from problem
