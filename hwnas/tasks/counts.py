"""Counts of correct and wrong class predictions, and the metrics that are ratios of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

METRIC_OPTIONS: dict[str, Any] = {"sync_on_compute": False}
"""Options of torchmetrics: even if several processes search, one of them counts all samples."""


@dataclass(frozen=True)
class ClassCounts:
    """Confusion counts of one class; a ratio with denominator 0 is 0.

    The ratios are computed in float64. In the float32 of torchmetrics, an accuracy of 9 in 10
    would compare as less than a limit of 0.9.
    """

    name: str
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        """Fraction of the predictions of the class that are correct."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Fraction of the samples of the class that are predicted as such."""
        return ratio(self.true_positives, self.support)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        errors = self.false_positives + self.false_negatives
        return ratio(2 * self.true_positives, 2 * self.true_positives + errors)

    @property
    def intersection_over_union(self) -> float:
        """Correct predictions over the samples that are of the class or predicted as such."""
        return ratio(self.true_positives, self.support + self.false_positives)

    @property
    def support(self) -> int:
        """Number of samples of the class."""
        return self.true_positives + self.false_negatives


class ClassCounter:
    """Accumulates the confusion counts of all classes over many batches."""

    def __init__(self, classes: tuple[str, ...], ignored: int | None = None) -> None:
        """Start with counts of 0.

        Args:
            classes: names of the classes.
            ignored: target of the samples that are not counted, if there is one.
        """
        # Imported here because importing torchmetrics takes seconds.
        from torchmetrics.classification import MulticlassStatScores

        self._classes = classes
        self._scores = MulticlassStatScores(
            len(classes),
            average=None,
            ignore_index=ignored,
            validate_args=False,
            **METRIC_OPTIONS,
        )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of scores (N, K, ...) and classes (N, ...)."""
        self._scores.update(outputs.argmax(dim=1), targets)

    def counts(self) -> list[ClassCounts]:
        """Return the counts of each class over all batches."""
        rows = self._scores.compute().tolist()
        return [
            ClassCounts(name, true_positives, false_positives, false_negatives)
            for name, (true_positives, false_positives, _, false_negatives, _) in zip(
                self._classes, rows, strict=True
            )
        ]


def share_right(counts: Sequence[ClassCounts]) -> float:
    """Return the share of all samples whose class is predicted."""
    return ratio(sum(c.true_positives for c in counts), sum(c.support for c in counts))


def per_class(counts: Sequence[ClassCounts]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 score and number of samples of each class."""
    return [
        {
            "class": c.name,
            "precision": c.precision,
            "recall": c.recall,
            "f1": c.f1,
            "n": c.support,
        }
        for c in counts
    ]


def largest_share(classes: np.ndarray) -> float:
    """Return the share of the most frequent class, or 0 without samples."""
    _, counts = np.unique(classes, return_counts=True)
    return ratio(int(counts.max(initial=0)), classes.size)


def ratio(part: int, whole: int) -> float:
    """Return part / whole, or 0 if the whole is 0."""
    return part / whole if whole else 0.0


def mean(values: list[float]) -> float:
    """Return the unweighted mean, or 0 without values."""
    return sum(values) / len(values) if values else 0.0
