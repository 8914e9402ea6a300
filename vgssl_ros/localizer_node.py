"""The localizer as a ROS 2 program: ``ros2 run vgssl_ros localizer_node`` or ``python -m vgssl_ros.localizer_node``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop.

    Returns:
        0 after SIGINT or SIGTERM; 1 when the parameters are wrong or the configuration fails at the start.
    """
    # Before the long imports, so that every thread inherits the mask. A signal only asks to stop: Python's own reaction
    # is an exception wherever the program happens to be, ROS's own takes the ground from under whatever call comes
    # next, and both give signals back to the system while they end, so that a second Ctrl-C would kill the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    stop: SimpleQueue[int] = SimpleQueue()
    threading.Thread(target=lambda: stop.put(signal.sigwait(_SIGNALS)), name="signals", daemon=True).start()
    from vgssl_ros.program import run

    return run(arguments, stop)


if __name__ == "__main__":
    sys.exit(main())
