"""Whether a robot knows where it is: LOST → CANDIDATE → LOCALIZED, with hysteresis."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """What the filter makes of its best hypothesis.

    Attributes:
        LOST: No place is likely.
        CANDIDATE: One place is, and is not confirmed yet.
        LOCALIZED: One place was likely enough for several updates in a row, and since then never unlikely.
    """

    LOST = "LOST"
    CANDIDATE = "CANDIDATE"
    LOCALIZED = "LOCALIZED"


@dataclass
class StateMachine:
    """Goes up by confirmation and down by doubt, at different thresholds so that it does not flicker.

    Attributes:
        threshold: An update confirms at this probability.
        leave_threshold: LOCALIZED is left below this, or below ``threshold`` where that is lower.
        candidate_threshold: LOST is left at this; CANDIDATE falls back to LOST below half of it.
        confirmations: Updates in a row that must confirm one place.
        state: The current one.
    """

    threshold: float
    leave_threshold: float
    candidate_threshold: float
    confirmations: int
    state: State = State.LOST
    _confirmed: int = 0

    def update(self, probability: float, same_place: bool) -> State:
        """The state after one more update.

        Args:
            probability: Of the best hypothesis; 0 where there is none.
            same_place: Whether it continues the last update's best one. Another place must be confirmed anew.
        """
        confirms = probability >= self.threshold
        self._confirmed = (self._confirmed + 1 if same_place else 1) if confirms else 0
        stays = same_place and probability >= min(self.leave_threshold, self.threshold)
        likely = self.candidate_threshold * (1.0 if self.state is State.LOST else 0.5)
        if self._confirmed >= self.confirmations or (self.state is State.LOCALIZED and stays):
            self.state = State.LOCALIZED
        elif confirms or probability >= likely:
            self.state = State.CANDIDATE
        else:
            self.state = State.LOST
        return self.state

    def reset(self) -> None:
        """Back to LOST."""
        self.state, self._confirmed = State.LOST, 0
