"""Says whether this machine can run `make demo` and `make test`, and prints the extras to install.

Standard library only: it runs before anything is installed, with whatever Python 3 there is.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys

WHEELS_FROM, WHEELS_TO = (3, 11), (3, 13)
COMMON = "cpu,train,openvino,test"


def main() -> int:
    """Print the extras to stdout, remarks to stderr."""
    version = ".".join(map(str, sys.version_info[:2]))
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        print(f"error: this Python has no venv module: apt-get install python{version}-venv", file=sys.stderr)
        return 1
    if os.environ.get("ROS_DISTRO") and importlib.util.find_spec("rclpy") is not None:
        print("ROS 2: the sourced distribution is used.", file=sys.stderr)
        print(COMMON)
        return 0
    if platform.machine() == "x86_64" and WHEELS_FROM <= sys.version_info[:2] <= WHEELS_TO:
        print("ROS 2: no distribution is sourced, so its wheels from PyPI are installed.", file=sys.stderr)
        print(f"{COMMON},ros")
        return 0
    print(
        f"error: this is Python {version} on {platform.machine()}, and ROS 2 comes as wheels only for Python 3.11 "
        "to 3.13 on x86_64.\nSource a ROS 2 distribution first (source /opt/ros/NAME/setup.bash; Humble, Jazzy and "
        "Kilted work),\nor name a fitting Python: make demo PYTHON=python3.12",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
