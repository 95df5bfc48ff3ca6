"""Compares a score with the chance level: that of the best answer that ignores the inputs.

A classifier that always names the largest class has an accuracy of that class's share, and a
regressor that always answers the mean explains nothing of the targets. A model whose score is not
above that level has not been shown to use its inputs at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwnas.checking.inputs.samples import ACCURACY
from hwnas.tasks.proportions import wilson_interval


@dataclass(frozen=True)
class Chance:
    """A score beside the chance level.

    Attributes:
        metric: name of the score.
        score: score of the model, 0 to 1.
        level: score of the best constant answer on the same samples.
        samples: number of samples.
    """

    metric: str
    score: float
    level: float
    samples: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of an accuracy; None for other scores, which are no proportions."""
        return wilson_interval(self.score, self.samples) if self.metric == ACCURACY else None

    @property
    def is_above(self) -> bool:
        """Whether the whole interval, or a score without one, is above the chance level."""
        low = self.score if self.interval is None else self.interval[0]
        return low > self.level

    @property
    def warning(self) -> str | None:
        """What a score that is not above the chance level means; None for one that is."""
        if self.is_above:
            return None
        score = f"{self.metric} {self.score:.4g}"
        if self.interval is None:
            return (
                f"{score} is not above {self.level:.4g}, which the best constant answer reaches: "
                f"the model may have learned nothing"
            )
        low, high = self.interval
        return (
            f"{score} (95 % interval {low:.4g} to {high:.4g}) is not above {self.level:.4g}, "
            f"the share of the largest class: always answering that class is as good"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as an object of the check's document."""
        low, high = self.interval or (None, None)
        return {"level": self.level, "ci_low": low, "ci_high": high, "is_above": self.is_above}
