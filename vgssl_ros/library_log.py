"""What the library logs, in ROS's log."""

from __future__ import annotations

import logging

import rclpy.logging


class LibraryLog(logging.Handler):
    """Hands warnings and errors of `vgssl_core` to a ROS logger.

    Args:
        name: The logger's, which is the node's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self._logger = rclpy.logging.get_logger(name)

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        # Two lines, because ROS takes one severity from each line only.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        else:
            self._logger.warning(record.getMessage())
