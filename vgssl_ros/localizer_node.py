"""The localizer as a ROS 2 program: ``ros2 run vgssl_ros localizer_node`` or ``python -m vgssl_ros.localizer_node``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop.

    Returns:
        0 after SIGINT or SIGTERM; 1 when the parameters are wrong or the configuration fails at the start.
    """
    # ROS ends the spinning on a signal by itself. Python's own reaction, an exception wherever the program happens
    # to be (importing, loading, cleaning up), would only show a traceback and turn a clean stop into a failure.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        from vgssl_ros.localizer import run

        return run(arguments)
    finally:
        # The interpreter gives handlers back to the system while it ends, which would kill it at a second Ctrl-C;
        # only an ignored signal stays ignored.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
