"""The one place where thread counts are set.

No thread waits busily: ONNX Runtime's are told not to spin, OpenVINO's and OpenCV's sleep by themselves, and FAISS's
are told to when it is loaded (`faiss_package`). Busy threads would answer a little sooner, and take the cores from the
robot's other programs.
"""

from __future__ import annotations

import os

import cv2

from vgssl_core.errors import ConfigError
from vgssl_core.faiss_package import load_faiss


def set_threads(count: int | None = None) -> int:
    """Give OpenCV and FAISS ``count`` threads, and return it for the engine, so that all agree.

    FAISS may share its OpenMP runtime with torch: different counts would silently slow the other one.

    Args:
        count: Threads; None takes every core that this process may use.

    Raises:
        ConfigError: Fewer than one thread.
    """
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < 1:
        raise ConfigError(f"{count} threads were asked for: give at least 1, or leave it out for all cores.")
    cv2.setNumThreads(count)
    faiss = load_faiss()
    if faiss is not None:
        faiss.omp_set_num_threads(count)
    return count
