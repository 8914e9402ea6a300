"""The node's parameters in one table: from it they are declared, checked and documented (docs/parameters.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import rclpy.exceptions
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from vgssl_core.errors import ConfigError
from vgssl_core.localization import LocalizerConfig
from vgssl_core.localization.filter_config import FilterConfig

Value = bool | int | float | str | list[float] | list[str]


@dataclass(frozen=True)
class Specification:
    """One parameter.

    Attributes:
        name: ROS parameter name.
        default: Value and type.
        description: One sentence, with the unit.
        minimum, maximum: Inclusive range of a number; None where it is open.
        choices: Allowed texts; empty allows any.
        multiple_of: A list's number of elements is a multiple of this, and not zero.
        read_only: Fixed when the node starts.
        live: A change is taken at any time; the others are read by `configure` and refused while configured.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    multiple_of: int | None = None
    read_only: bool = False
    live: bool = False

    @property
    def type_name(self) -> str:
        """Name of the type, as ROS tools call it."""
        return Parameter("x", value=self.default).type_.name.lower().replace("_", " ")

    @property
    def range_text(self) -> str:
        """What values it takes, for people; empty where all of its type are good."""
        if self.choices:
            return ", ".join(self.choices)
        if self.multiple_of is not None:
            return f"{self.multiple_of} numbers for each camera"
        if self.minimum is None and self.maximum is None:
            return ""
        return f"{'' if self.minimum is None else self.minimum} … {'' if self.maximum is None else self.maximum}"

    @property
    def effect_text(self) -> str:
        """When a value counts, for people."""
        return "start (read-only)" if self.read_only else "any time" if self.live else "configure"

    def descriptor(self) -> ParameterDescriptor:
        """What ROS tools show, and the range that ROS enforces itself."""
        result = ParameterDescriptor(name=self.name, description=self.description, read_only=self.read_only)
        if self.choices:
            result.additional_constraints = f"one of: {', '.join(self.choices)}"
        if self.multiple_of is not None:
            result.additional_constraints = self.range_text
        if self.minimum is None and self.maximum is None:
            return result
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if isinstance(self.default, int):
            limits = IntegerRange(from_value=int(max(low, -(2**63))), to_value=int(min(high, 2**63 - 1)))
            result.integer_range = [limits]
        elif isinstance(self.default, float):
            result.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        return result

    def problem_with(self, value: Any) -> str | None:
        """Why a value of the right type is refused; None when it is good."""
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}: it must be one of {', '.join(self.choices)}."
        numbers = value if isinstance(self.default, list) else [value]
        if isinstance(self.default, (list, float)) and not _all_finite(numbers):
            return f"{self.name} is {value}: it must be finite."
        if self.multiple_of is not None and (not len(value) or len(value) % self.multiple_of):
            return f"{self.name} has {len(value)} numbers: it must have {self.multiple_of} for each camera."
        return None


def _all_finite(values: Iterable[Any]) -> bool:
    return all(math.isfinite(value) for value in values if isinstance(value, float))


_LOCALIZER, _FILTER = LocalizerConfig(), FilterConfig()
PARAMETERS = (
    Specification("autostart", True, "configure and activate at start, without a lifecycle manager", read_only=True),
    Specification(
        "map_path",
        "",
        "folder of the map (`vgssl build-map`); a change while the node works is taken by ~/reload_map",
        live=True,
    ),
    Specification("bundle_path", "", "folder of the model bundle (`vgssl export`)"),
    Specification(
        "image_topic", "image", "topic of the only camera, before remapping and without the transport's ending"
    ),
    Specification(
        "image_topics",
        [""],
        "topics of several cameras, instead of image_topic; their frames are answered in turn, by one thread",
    ),
    Specification(
        "image_transport",
        "raw",
        "raw subscribes to sensor_msgs/Image; compressed to sensor_msgs/CompressedImage on the topic + /compressed",
        choices=("raw", "compressed"),
    ),
    Specification(
        "image_qos",
        "best_effort",
        "reliability of the image subscriptions; best_effort matches every publisher, reliable loses no large image",
        choices=("best_effort", "reliable"),
    ),
    Specification(
        "lazy",
        True,
        "subscribe to the cameras only while someone listens to an answer, publish_tf is set or ~/localize_once waits",
        live=True,
    ),
    Specification("backend", "auto", "engine that computes descriptors: auto, or one that is installed"),
    Specification(
        "precision",
        "auto",
        "what the engine computes in; auto is the bundle's default where the engine has it, else fp32",
        choices=("auto", "fp32", "fp16", "bf16", "int8"),
    ),
    Specification("threads", 0, "threads of the engine; 0 takes all cores", minimum=0, maximum=1024),
    Specification("k", _LOCALIZER.k, "matches that are searched for each image", minimum=1, maximum=1000),
    Specification(
        "cluster_radius_m",
        _LOCALIZER.cluster_radius_m,
        "matches closer than this support one hypothesis, metres",
        minimum=0.1,
        maximum=10000.0,
    ),
    Specification(
        "max_hypotheses",
        _LOCALIZER.max_hypotheses,
        "hypotheses that are published for each image",
        minimum=1,
        maximum=100,
    ),
    Specification(
        "temperature",
        _LOCALIZER.temperature,
        "how fast a match's weight falls with its distance; smaller trusts the nearest more",
        minimum=0.001,
        maximum=10.0,
    ),
    Specification(
        "position_floor_m",
        _LOCALIZER.position_floor_m,
        "smallest standard deviation of a position, metres",
        minimum=0.01,
        maximum=1000.0,
    ),
    Specification(
        "heading_floor_deg",
        _LOCALIZER.heading_floor_deg,
        "smallest standard deviation of a heading, degrees",
        minimum=0.1,
        maximum=180.0,
    ),
    Specification(
        "threshold",
        0.0,
        "probability from which ~/pose and ~/fix are published; 0 takes the threshold of the map's calibration",
        minimum=0.0,
        maximum=1.0,
    ),
    Specification(
        "radius_m",
        0.0,
        "within it a position counts as right, metres; 0 takes that of the map's calibration, and another one is "
        "refused, because the probabilities hold for the calibration's only",
        minimum=0.0,
        maximum=10000.0,
    ),
    Specification(
        "filter", True, "follow the robot over time, with odometry where it comes; false judges every image alone"
    ),
    Specification(
        "filter_confirmations",
        _FILTER.confirmations,
        "images in a row that must reach the threshold at one place before it is accepted",
        minimum=1,
        maximum=1000,
    ),
    Specification(
        "filter_speed_mps",
        _FILTER.speed_mps,
        "standard deviation of the robot's velocity where no odometry tells it, metres per second",
        minimum=0.01,
        maximum=200.0,
    ),
    Specification(
        "filter_turn_deg",
        _FILTER.turn_deg,
        "standard deviation of its heading after one second without odometry, degrees",
        minimum=0.1,
        maximum=180.0,
    ),
    Specification(
        "filter_odometry_share",
        _FILTER.odometry_share,
        "standard deviation of the odometry's distance after one metre, as a share of it",
        minimum=0.001,
        maximum=1.0,
    ),
    Specification(
        "filter_odometry_turn_deg",
        _FILTER.odometry_turn_deg,
        "standard deviation of the odometry's heading after one metre, degrees",
        minimum=0.01,
        maximum=90.0,
    ),
    Specification(
        "odometry_gap_s",
        0.5,
        "longest time between two odometry messages, and from the last one to the image, that is bridged, seconds",
        minimum=0.01,
        maximum=60.0,
    ),
    Specification(
        "prior_radius_m",
        100.0,
        "search within this distance of an initial_fix or initial_pose, or within three of its standard deviations "
        "where that is more, metres",
        minimum=1.0,
        maximum=1000000.0,
        live=True,
    ),
    Specification(
        "prior_lifetime_s",
        10.0,
        "how long an initial_fix or initial_pose restricts the search, seconds of the node's clock",
        minimum=0.0,
        maximum=1e6,
        live=True,
    ),
    Specification("map_frame", "map", "frame of the published poses: ENU at the map's datum (REP-105)"),
    Specification("base_frame", "base_link", "the robot's frame that ~/pose and ~/fix tell the position of"),
    Specification(
        "publish_tf",
        False,
        "broadcast map_frame → the odometry's frame; needs tf2_ros and odometry, and must not be set where another "
        "node broadcasts it",
    ),
    Specification(
        "camera_extrinsics",
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "pose of the camera in base_frame: x y z in metres, roll pitch yaw in radians, for a camera frame with x along "
        "the optical axis, y left, z up; several cameras one after the other; zeros are a camera in the origin that "
        "looks forward; a map from a bag is to be built with those of its own camera (build-map --camera_extrinsics)",
        multiple_of=6,
    ),
    Specification(
        "altitude_default_m",
        0.0,
        "altitude where the map knows none: metres above the WGS84 ellipsoid; z of a local map",
        minimum=-12000.0,
        maximum=100000.0,
        live=True,
    ),
    Specification(
        "altitude_default_sigma_m",
        10.0,
        "standard deviation of altitude_default_m in metres",
        minimum=0.1,
        maximum=10000.0,
        live=True,
    ),
)
_BY_NAME = {item.name: item for item in PARAMETERS}


def declare(node: Node) -> None:
    """Declare the whole table on a node.

    Raises:
        ConfigError: A value from the command line or a parameter file has the wrong type or lies outside its range.
    """
    for item in PARAMETERS:
        try:
            value = node.declare_parameter(item.name, item.default, item.descriptor()).value
        except (
            rclpy.exceptions.InvalidParameterTypeException,
            rclpy.exceptions.InvalidParameterValueException,
        ) as problem:
            reason = " ".join(str(problem).split())
            raise ConfigError(f"Parameter {item.name} ({item.description}) is not usable: {reason}") from problem
        if problem := item.problem_with(value):
            raise ConfigError(f"Parameter {problem}")


def refusal(name: str, value: Any, is_configured: bool) -> str | None:
    """Why a change at run time is refused; None when it is taken, and for parameters that are not ours."""
    item = _BY_NAME.get(name)
    if item is None:
        return None
    if is_configured and not item.live:
        return f"{name} is read when the node is configured: deactivate and clean up first, or start the node anew."
    return item.problem_with(value)


def localizer_config(given: Mapping[str, Any]) -> LocalizerConfig:
    """The localizer's settings out of the table's values: those that bear the same name."""
    names = {item.name for item in fields(LocalizerConfig)} & _BY_NAME.keys()
    # 0 stands for the calibration's own value.
    return LocalizerConfig(**{name: given[name] or None for name in names})


def filter_config(given: Mapping[str, Any]) -> FilterConfig:
    """The filter's settings out of the table's values: those that bear the same name after ``filter_``."""
    names = {item.name for item in fields(FilterConfig)} & {name.removeprefix("filter_") for name in _BY_NAME}
    given = {**given, **{name.removeprefix("filter_"): value for name, value in given.items()}}
    return FilterConfig(**{name: given[name] or None for name in names})


def values(node: Node) -> dict[str, Any]:
    """Present value of every parameter of the table."""
    return {item.name: node.get_parameter(item.name).value for item in PARAMETERS}
