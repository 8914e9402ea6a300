"""The localizer as a ROS 2 program: ``ros2 run vgssl_ros localizer_node`` or ``python -m vgssl_ros.localizer_node``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from queue import SimpleQueue

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop.

    Returns:
        0 after SIGINT or SIGTERM; 1 when the parameters are wrong or the configuration fails at the start.
    """
    # Before the long imports. A signal only asks to stop: Python's own reaction is an exception wherever the program
    # happens to be, and ROS's own takes the ground from under whatever call comes next.
    # A queue of this kind may be filled by a handler that interrupts the very thread that waits for it; an event's lock
    # would hang.
    stop: SimpleQueue[int] = SimpleQueue()
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: stop.put(number))
    try:
        from vgssl_ros.localizer import run

        return run(arguments, stop)
    finally:
        # The interpreter gives handlers back to the system while it ends, which would kill it at a second Ctrl-C;
        # only an ignored signal stays ignored.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
