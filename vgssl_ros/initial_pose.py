"""The localizer's accepted pose as Nav2's ``/initialpose``, so that AMCL starts without a click in RViz.

``ros2 run vgssl_ros initial_pose`` sends the first accepted pose by itself, and the newest one whenever its service
``~/send`` is called. It listens to ``localizer/pose`` and publishes ``initialpose``, both remappable; with
``-r initialpose:=set_pose`` it resets robot_localization's EKF instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vgssl_ros.stopping import run_until_told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Returns:
        0 when it was told to stop, 1 when it could not start.
    """
    return run_until_told("vgssl_ros.amcl_pose", arguments)


if __name__ == "__main__":
    sys.exit(main())
