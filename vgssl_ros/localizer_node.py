"""The localizer as a ROS 2 program: ``ros2 run vgssl_ros localizer_node`` or ``python -m vgssl_ros.localizer_node``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop.

    Returns:
        0 after SIGINT or SIGTERM; 1 when the parameters are wrong or the configuration fails at the start.
    """
    # Before the long imports. A signal only asks to stop: Python's own reaction is an exception wherever the program
    # happens to be, and ROS's own takes the ground from under whatever call comes next.
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        from vgssl_ros.localizer import run

        return run(arguments, stop)
    finally:
        # The interpreter gives handlers back to the system while it ends, which would kill it at a second Ctrl-C;
        # only an ignored signal stays ignored.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
