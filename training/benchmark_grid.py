"""Runs the cells of a benchmark as child processes, some at once, and keeps what is finished."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.grid import LOG, RUN, CellPlan, CellResult, read_plan, read_result, write_plan, write_result


@contextlib.contextmanager
def only_grid(out: Path) -> Iterator[None]:
    """Hold a benchmark's folder while its cells run.

    Raises:
        ConfigError: Another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise ConfigError(f"--out {out}: another benchmark is running there.") from problem
        yield


def unfinished(out: Path, plans: Sequence[CellPlan], retry: bool, redo: bool) -> list[CellPlan]:
    """The cells that are still to be made; what cannot be gone on with is removed.

    Args:
        out: Folder of the benchmark.
        plans: All cells.
        retry: Make failed cells anew.
        redo: Make cells anew that were finished with other settings.

    Raises:
        ConfigError: Cells were finished with other settings, without ``redo``.
    """
    results = {plan: read_result(plan.folder(out)) for plan in plans}
    changed = {plan: text for plan, result in results.items() if result and (text := plan.difference(result.plan))}
    if changed and not redo:
        plan, text = next(iter(changed.items()))
        raise ConfigError(
            f"{len(changed)} cells in {out} were made with other settings, the first is {plan.name}: {text}. Give "
            "the same settings, another --out, or --redo true to make them anew."
        )
    todo = [plan for plan, result in results.items() if not result or plan in changed or (retry and result.failure)]
    for plan in todo:
        folder = plan.folder(out)
        begun = read_plan(folder)
        if results[plan] is not None or (begun is not None and plan.difference(begun)):
            shutil.rmtree(folder)
    return todo


class Grid:
    """Runs cells and tells how far they are.

    Attributes:
        out: Folder of the benchmark.
        jobs: Cells at once; each has an equal share of the cores.
    """

    def __init__(self, out: Path, jobs: int) -> None:
        self.out, self.jobs = out, jobs
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, cores // jobs)
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def run(self, plans: Sequence[CellPlan], total: int, after: Callable[[], None]) -> None:
        """Make the cells; on an exception, Ctrl-C among them, their processes are ended.

        Args:
            plans: Cells that are not finished.
            total: Cells of the benchmark, for the lines of progress.
            after: Called when a cell is finished.
        """
        left = LeftTime(plans, self.jobs)
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            try:
                futures = [pool.submit(self._make, plan) for plan in plans]
                for done, future in enumerate(concurrent.futures.as_completed(futures), total - len(plans) + 1):
                    result, seconds = future.result()
                    left.finished(result.plan, seconds)
                    print(f"[{done}/{total}] {result.plan.name}: {result.line()}{left.text()}", flush=True)
                    after()
            except BaseException:
                self._stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _make(self, plan: CellPlan) -> tuple[CellResult, float]:
        """The finished or failed cell, and the seconds that it took."""
        folder, began_s = plan.folder(self.out), time.monotonic()
        write_plan(self.out, plan)
        print(f"{plan.name}: {'goes on' if (folder / RUN).is_dir() else 'begins'}", flush=True)
        status = self._child(folder)
        result = read_result(folder)
        if result is None:
            result = CellResult(plan, failure=_failure(folder / LOG, status))
            if not self._is_stopped:
                write_result(self.out, result)
        return result, time.monotonic() - began_s

    def _child(self, folder: Path) -> int:
        """Exit status of a cell's process. It lives in a session of its own, which Ctrl-C does not reach."""
        command = [sys.executable, "-m", "training.benchmark_cell", "--out", str(self.out), "--cell", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        with open(folder / LOG, "ab") as log:
            with self._lock:
                if self._is_stopped:
                    return 1
                child = subprocess.Popen(
                    [*command, "--threads", str(self._threads)],
                    stdin=subprocess.PIPE,  # its end tells the child that this process is gone
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
                self._children.add(child)
            with child:
                status = child.wait()
            self._children.discard(child)
        return status

    def _stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for child in self._children:
                child.kill()


class LeftTime:
    """Estimates the time to the end from the cells that were made."""

    def __init__(self, plans: Sequence[CellPlan], jobs: int) -> None:
        self._jobs = jobs
        self._trainings = sum(not plan.is_baseline for plan in plans)
        self._seconds: list[float] = []

    def finished(self, plan: CellPlan, seconds: float) -> None:
        """Note a cell; baselines take next to no time."""
        if not plan.is_baseline:
            self._seconds.append(seconds)

    def text(self) -> str:
        """``, about 12 min left``, or nothing before the first training and after the last."""
        left = self._trainings - len(self._seconds)
        if not self._seconds or not left:
            return ""
        minutes = sum(self._seconds) / len(self._seconds) * left / self._jobs / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def _failure(log: Path, status: int) -> str:
    """The last line that the process wrote, or what ended it."""
    if status < 0:
        return f"its process was ended by signal {-status} (9 is often a lack of memory); see {log}"
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ") if said else f"its process ended with status {status}"
