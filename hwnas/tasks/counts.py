"""Counts of right and wrong classes, and the ratios that are taken of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

METRIC_OPTIONS: dict[str, Any] = {"sync_on_compute": False}
"""Of metrics by torchmetrics: where several processes search, one of them counts all samples."""


@dataclass(frozen=True)
class ClassCounts:
    """How often a class was found, found wrongly and missed; a ratio of nothing is 0.

    torchmetrics counts; the ratios are taken here in float64, since in its float32 an accuracy of
    0.9 is less than a limit of 0.9.
    """

    name: str
    found: int
    false: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of what was said to be of the class that is."""
        return ratio(self.found, self.found + self.false)

    @property
    def recall(self) -> float:
        """Share of what is of the class that was said to be."""
        return ratio(self.found, self.found + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return ratio(2 * self.found, 2 * self.found + self.false + self.missed)

    @property
    def intersection_over_union(self) -> float:
        """Share of what is of the class or was said to be that is both."""
        return ratio(self.found, self.found + self.false + self.missed)

    @property
    def support(self) -> int:
        """How often the class is there."""
        return self.found + self.missed


class ClassCounter:
    """Counts classes over many batches."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        # torchmetrics takes seconds to import, which only those who count should wait for.
        from torchmetrics.classification import MulticlassStatScores

        self._classes = classes
        self._scores = MulticlassStatScores(
            len(classes), average=None, validate_args=False, **METRIC_OPTIONS
        )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take scores (N, K, ...) and classes (N, ...)."""
        self._scores.update(outputs.argmax(dim=1), targets)

    def counts(self) -> list[ClassCounts]:
        """The counts of each class."""
        rows = self._scores.compute().tolist()
        return [
            ClassCounts(name, found, false, missed)
            for name, (found, false, _, missed, _) in zip(self._classes, rows, strict=True)
        ]


def ratio(part: int, whole: int) -> float:
    """Part / whole; 0 of nothing."""
    return part / whole if whole else 0.0


def mean(values: list[float]) -> float:
    """The unweighted mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
