"""When a search by evaluations ends before its last step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwnas.config import SearchConfig
from hwnas.runs.loop import time_is_over


@dataclass
class Stopping:
    """What a search has reached, and whether that is enough.

    Attributes:
        minutes: time limit of the search.
        until: score from which on it ends.
        patience: evaluations without a better score after which it ends.
        best: the best score of a full evaluation so far.
        best_step: the step that reached it.
    """

    minutes: float | None
    until: float | None
    patience: int | None
    best: float | None = None
    best_step: int = 0

    @classmethod
    def of(cls, config: SearchConfig) -> Stopping:
        """The rules of a configuration, before any evaluation."""
        return cls(config.minutes, config.until, config.patience)

    def saw(self, score: float, step: int) -> None:
        """Take a score of a full evaluation into account."""
        if self.best is None or score > self.best:
            self.best, self.best_step = score, step

    def reason(self, step: int, spent_s: float) -> str | None:
        """Why the search ends after a step, or None if it goes on.

        Args:
            step: number of evaluations.
            spent_s: seconds that the search has taken.
        """
        if self.until is not None and self.best is not None and self.best >= self.until:
            return f"a score of {self.best:.4g} is reached, search.until = {self.until:g}"
        has_score = self.best is not None
        if self.patience is not None and has_score and step - self.best_step >= self.patience:
            return f"no better score in search.patience = {self.patience} evaluations"
        return time_is_over(self.minutes, spent_s, "search.minutes")

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to resume."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.best, self.best_step = state["best"], int(state["best_step"])
