"""The node as a program: ROS is started, callbacks are served, and a word ends it cleanly."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from vgssl_core.errors import ConfigError
from vgssl_ros.library_log import LibraryLog
from vgssl_ros.localizer import LocalizerNode


def run(arguments: Sequence[str] | None, stop: SimpleQueue[int]) -> int:
    """Start ROS, let the node work until it is told to stop, and clean up.

    Args:
        arguments: ROS arguments; None takes the process's own.
        stop: Put anything into it to end the node, at any time.

    Returns:
        Exit status: 0 when it was told to stop, 1 when the node could not start or failed.
    """
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as problem:
        return _complain(problem)
    node: LocalizerNode | None = None
    log = LibraryLog("localizer")
    logging.getLogger("vgssl_core").addHandler(log)
    try:
        node = LocalizerNode()
        if node.autostart and not node.start():
            return 1
        return _spin(node, stop)
    except ConfigError as problem:
        return _complain(problem)
    finally:
        if node is not None:
            node.stop()
            node.destroy_node()
        logging.getLogger("vgssl_core").removeHandler(log)
        rclpy.shutdown()


def _spin(node: LocalizerNode, stop: SimpleQueue[int]) -> int:
    """Serve the node's callbacks beside the main thread, which waits for the word to stop."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[BaseException] = []
    is_ending = False

    def serve() -> None:
        try:
            executor.spin()
        except BaseException as problem:
            # What the executor raises because it is shut down under its own call is no failure.
            if not is_ending:
                failures.append(problem)
                raise
        finally:
            stop.put(0)

    thread = threading.Thread(target=serve, name="executor", daemon=True)
    thread.start()
    stop.get()
    is_ending = True
    executor.shutdown()
    thread.join()
    return 1 if failures else 0


def _complain(problem: Exception) -> int:
    print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
    return 1
