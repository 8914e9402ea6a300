"""How much of a training is done: by steps, the wall clock and CPU time, whichever is nearest; and what ended it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vgssl_core.geopair.config import BudgetConfig
from vgssl_core.geopair.distributed import Processes


class Clock:
    """Seconds that a training has used, over all resumes, against a limit.

    Attributes:
        limit_s: 0 is none.
        reserved_s: Kept for what comes after the last step.
    """

    def __init__(self, now_s: Callable[[], float], limit_s: float) -> None:
        self._now_s, self.limit_s, self.reserved_s = now_s, limit_s, 0.0
        self._began_s = now_s()

    @property
    def used_s(self) -> float:
        """Seconds so far."""
        return self._now_s() - self._began_s

    @used_s.setter
    def used_s(self, value: float) -> None:
        self._began_s = self._now_s() - value

    @property
    def left_s(self) -> float:
        """Seconds for further steps; infinite without a limit."""
        return max(0.0, self.limit_s - self.reserved_s - self.used_s) if self.limit_s else float("inf")

    @property
    def done(self) -> float:
        """Share of the time for steps that is used; 0 without a limit."""
        return min(1.0, self.used_s / max(1e-6, self.limit_s - self.reserved_s)) if self.limit_s else 0.0


class Budget:
    """Steps and time that a training may take.

    Attributes:
        steps: Of all epochs, or fewer where ``max_steps`` says so.
        wall, cpu: The clocks of ``max_minutes`` and ``max_cpu_minutes``; the second counts this process alone.
        stopped: Whether `ends` found that `stop` was called; the same in all processes.
    """

    def __init__(self, config: BudgetConfig, epoch_steps: int, processes: Processes) -> None:
        self._config, self._all_steps = config, config.epochs * epoch_steps
        self.steps = min(self._all_steps, config.max_steps or self._all_steps)
        self.wall = Clock(time.monotonic, config.max_minutes * 60)
        self.cpu = Clock(time.process_time, config.max_cpu_minutes * 60)
        self._processes = processes
        self._asked = self.stopped = False

    @property
    def clocks(self) -> tuple[Clock, Clock]:
        """Both clocks."""
        return self.wall, self.cpu

    def resume(self, used_s: Sequence[float], reserved_s: Sequence[float]) -> None:
        """Set both clocks to where they stood."""
        for clock, used, reserved in zip(self.clocks, used_s, reserved_s, strict=True):
            clock.used_s, clock.reserved_s = used, reserved

    @property
    def left_s(self) -> float:
        """Seconds for further steps on the clock that has the least; infinite where no time is limited."""
        return min(clock.left_s for clock in self.clocks)

    def done(self, step: int) -> float:
        """Share of the training that is done after so many steps, from 0 to 1; the same in all processes."""
        times = max(clock.done for clock in self.clocks)
        if any(clock.limit_s for clock in self.clocks):
            times = self._processes.agreed(times)
        return max(times, min(1.0, step / max(1, self.steps)))

    def stop(self) -> None:
        """Make no further step; a signal handler may call it at any moment. The first process's word counts."""
        self._asked = True

    def ends(self, step: int) -> bool:
        """Whether no step follows after so many, as steps or time are used up or `stop` was called; the same in all."""
        self.stopped = self.stopped or self._processes.agreed(self._asked) > 0
        return self.stopped or self.done(step) >= 1

    def used_up(self, step: int, stale: int) -> str:
        """Which limits are reached, and what lets the training go on; empty where none is.

        Args:
            step: Steps so far.
            stale: Validations since the best one.
        """
        config = self._config
        if step >= self._all_steps:
            return (
                f"--epochs {config.epochs} are trained, and a resume cannot change them: go on in another run, with "
                "--init and this one"
            )
        limits = {
            "max_steps": 0 < config.max_steps <= step,
            "max_minutes": self.wall.done >= 1,
            "max_cpu_minutes": self.cpu.done >= 1,
            "early_stop": 0 < config.early_stop <= stale,
        }
        reached = [f"--{name} {getattr(config, name):g}" for name, over in limits.items() if over]
        return f"{' and '.join(reached)} are used up: give more to go on, or 0" if reached else ""
