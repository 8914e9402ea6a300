"""The localizer as a ROS 2 program: ``ros2 run vgssl_ros localizer_node`` or ``python -m vgssl_ros.localizer_node``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vgssl_ros.stopping import run_until_told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop.

    Returns:
        0 after SIGINT or SIGTERM; 1 when the parameters are wrong or the configuration fails at the start.
    """
    return run_until_told("vgssl_ros.program", arguments)


if __name__ == "__main__":
    sys.exit(main())
