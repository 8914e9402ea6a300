"""From single answers to a belief over time: the temporal filter, fed with the robot's odometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vgssl_core.localization import Localization
from vgssl_core.localization.filter import Estimate, TemporalFilter
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.odometry_track import OdometryTrack, PlanarPose
from vgssl_ros.cameras import Camera


class Tracker:
    """One filter for each camera, because a filter believes in poses of the camera that it hears of.

    Args:
        new_filter: Makes a filter over the map's poses; takes long for a large map.
        cameras: That there are.
        odometry: Where the robot was by its odometry.
    """

    def __init__(
        self, new_filter: Callable[[], TemporalFilter], cameras: Sequence[Camera], odometry: OdometryTrack
    ) -> None:
        self._filters = {camera: new_filter() for camera in cameras}
        self._last: dict[Camera, PlanarPose | None] = {}
        self._odometry = odometry
        self._is_outdated = False

    def begin_anew(self) -> None:
        """Forget the past before the next image; from any thread."""
        self._is_outdated = True

    def update(self, camera: Camera, stamp_ns: int, localization: Localization) -> Estimate:
        """What to believe after one more image.

        Args:
            camera: Which camera took it.
            stamp_ns: When.
            localization: What the image alone tells.
        """
        if self._is_outdated:
            self._is_outdated = False
            for item in self._filters.values():
                item.reset()
        before, now = self._last.get(camera), self._odometry.at(stamp_ns)
        self._last[camera] = now
        motion = None
        if before is not None and now is not None:
            motion = Motion.between(before, now).of_mounted(*camera.mount.planar)
        return self._filters[camera].update(stamp_ns, localization, motion)
