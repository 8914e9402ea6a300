"""How much of a training is done: by steps, by the wall clock and by CPU time, whichever is nearest to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from vgssl_core.geopair.config import BudgetConfig
from vgssl_core.geopair.distributed import Processes

logger = logging.getLogger(__name__)


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
    """

    def __init__(self, config: BudgetConfig, epoch_steps: int, processes: Processes) -> None:
        self.steps = config.epochs * epoch_steps
        if config.max_steps:
            self.steps = min(self.steps, config.max_steps)
        self.wall = Clock(time.monotonic, config.max_minutes * 60)
        self.cpu = Clock(time.process_time, config.max_cpu_minutes * 60)
        self._processes = processes

    @property
    def clocks(self) -> tuple[Clock, Clock]:
        """Both clocks."""
        return self.wall, self.cpu

    def resume(self, used_s: Sequence[float], reserved_s: Sequence[float]) -> None:
        """Set both clocks to where they stood, and say which one is at its end."""
        for clock, used, reserved in zip(self.clocks, used_s, reserved_s, strict=True):
            clock.used_s, clock.reserved_s = used, reserved
        for name, clock in (("max_minutes", self.wall), ("max_cpu_minutes", self.cpu)):
            if clock.done >= 1:
                logger.warning("--%s %g are used up: give more to go on, or 0.", name, clock.limit_s / 60)

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
