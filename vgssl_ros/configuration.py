"""What `configure` makes of the parameters: a pipeline; and the same pipeline on another map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import LifecycleNode

from vgssl_core.geomap import load_map
from vgssl_core.geomap.pictures import MapPictures
from vgssl_core.localization import Localizer
from vgssl_core.localization.filter import TemporalFilter
from vgssl_ros import parameters
from vgssl_ros.base_pose import DefaultAltitude
from vgssl_ros.cameras import Camera
from vgssl_ros.health import Statistics
from vgssl_ros.odometry import OdometryInput
from vgssl_ros.pipeline import Pipeline
from vgssl_ros.prior import Prior, PriorSettings
from vgssl_ros.publishers import Publishers
from vgssl_ros.tracking import Tracker


def open_pipeline(
    node: LifecycleNode,
    given: Mapping[str, Any],
    localizer: Localizer,
    cameras: tuple[Camera, ...],
    odometry: OdometryInput,
    statistics: Statistics,
) -> Pipeline:
    """All that answers images, with its publishers.

    Args:
        node: Its publishers are created on it, and live parameters are read from it.
        given: Values of the parameters.
        localizer: Map and model.
        cameras: Where images come from.
        odometry: Tells the filter how the robot moves.
        statistics: Counts what is done.

    Raises:
        ConfigError: A filter that cannot work.
    """

    def altitude() -> DefaultAltitude:
        return DefaultAltitude(*_live(node, "altitude_default_m", "altitude_default_sigma_m"))

    return Pipeline(
        localizer=localizer,
        pictures=MapPictures(localizer.geomap),
        tracker=_tracker(localizer, cameras, odometry, given),
        prior=_prior(node, localizer, given["map_frame"]),
        odometry=odometry,
        cameras=cameras,
        default_altitude=altitude,
        map_frame=given["map_frame"],
        base_frame=given["base_frame"],
        publishers=Publishers.create(node),
        statistics=statistics,
        logger=node.get_logger(),
    )


def with_map(node: LifecycleNode, old: Pipeline, given: Mapping[str, Any]) -> Pipeline:
    """The same pipeline on the map that lies at ``map_path`` now; takes as long as loading takes.

    Raises:
        MapError: No map, a damaged one, or one of another model.
        ConfigError: Its calibration is for another radius.
    """
    localizer = Localizer(old.localizer.embedder, load_map(given["map_path"]), old.localizer.config)
    return replace(
        old,
        localizer=localizer,
        pictures=MapPictures(localizer.geomap),
        tracker=_tracker(localizer, old.cameras, old.odometry, given),
        prior=_prior(node, localizer, old.map_frame),
    )


def _tracker(
    localizer: Localizer, cameras: tuple[Camera, ...], odometry: OdometryInput, given: Mapping[str, Any]
) -> Tracker | None:
    if not given["filter"]:
        return None
    config = parameters.filter_config(given)
    return Tracker(lambda: TemporalFilter(localizer.geomap, localizer.calibration, config), cameras, odometry.track)


def _prior(node: LifecycleNode, localizer: Localizer, map_frame: str) -> Prior:
    def settings() -> PriorSettings:
        return PriorSettings(*_live(node, "prior_radius_m", "prior_lifetime_s"))

    def now_ns() -> int:
        return node.get_clock().now().nanoseconds

    return Prior(localizer.geomap.datum, map_frame, settings, now_ns, node.get_logger())


def _live(node: LifecycleNode, *names: str) -> list[Any]:
    return [node.get_parameter(name).value for name in names]
