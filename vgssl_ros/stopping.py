"""Programs that a signal asks to stop, however often it comes."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Sequence
from queue import SimpleQueue

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_until_told(module: str, arguments: Sequence[str] | None) -> int:
    """Import a module and call its ``run(arguments, stop)``; a signal puts itself into the queue ``stop``.

    A signal only asks to stop: Python's own reaction is an exception wherever the program happens to be, ROS's own
    takes the ground from under whatever call comes next, and both give signals back to the system while they end, so
    that a second Ctrl-C would kill the process.
    """
    # Before the long imports, so that every thread inherits the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    stop: SimpleQueue[int] = SimpleQueue()
    threading.Thread(target=lambda: stop.put(signal.sigwait(_SIGNALS)), name="signals", daemon=True).start()
    return importlib.import_module(module).run(arguments, stop)
