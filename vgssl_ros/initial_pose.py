"""The localizer's accepted pose as Nav2's ``/initialpose``, so that AMCL starts without a click in RViz.

``ros2 run vgssl_ros initial_pose`` sends the first accepted pose by itself, and the newest one whenever its service
``~/send`` is called. It listens to ``localizer/pose`` and publishes ``initialpose``, both remappable; with
``-r initialpose:=set_pose`` it resets robot_localization's EKF instead.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Returns:
        0 when it was told to stop, 1 when it could not start.
    """
    # As in `vgssl_ros.localizer_node`, and before the imports for the same reason: a signal only asks to stop.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    stop: SimpleQueue[int] = SimpleQueue()
    threading.Thread(target=lambda: stop.put(signal.sigwait(_SIGNALS)), name="signals", daemon=True).start()
    from vgssl_ros.amcl_pose import run

    return run(arguments, stop)


if __name__ == "__main__":
    sys.exit(main())
