"""Samples of a model's inputs, with their targets.

This module must not import PyTorch: feeds are sent to subprocesses that only run an ONNX model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwnas.checking.outputs import Feeds

if TYPE_CHECKING:
    from hwnas.tasks import Task

ACCURACY = "accuracy"
"""The metric if no task is known: the share of samples that are classified correctly."""


@dataclass(frozen=True)
class Samples:
    """Real inputs of a model.

    Attributes:
        count: number of samples; if the model's batch size is fixed, number of whole batches.
        take: returns the feeds for an array of sample indices; a single index if the batch size
            is fixed.
        targets: the target of each sample, (count, ...), or None. Without a task the targets are
            classes, of shape (count, batch), or (count,) for an open batch dimension.
        task: computes the score from the model's first output; None if only classes are known.
        score_output: name of the output that gives the classes, where the user states it.
        threshold: least score of class 1, for an output with one score for each sample.
    """

    count: int
    take: Callable[[np.ndarray], Feeds]
    targets: np.ndarray | None = None
    task: Task | None = None
    score_output: str | None = None
    threshold: float | None = None

    @property
    def metric(self) -> str:
        """Name of the score."""
        return ACCURACY if self.task is None else self.task.metric

    @property
    def scored(self) -> int:
        """Number of samples with a target."""
        assert self.targets is not None
        return self.targets.size if self.task is None else len(self.targets)

    def constant_score(self) -> float | None:
        """Score of the best answer that ignores the inputs; None if the task has none."""
        assert self.targets is not None
        if self.task is not None:
            return self.task.constant_score(self.targets)
        _, counts = np.unique(self.targets, return_counts=True)
        return int(counts.max()) / self.targets.size

    def batches(self, size: int) -> Iterator[tuple[Feeds, np.ndarray]]:
        """All samples in order, with their targets.

        Full batches of `size` come first; the remaining samples follow one at a time.
        """
        assert self.targets is not None
        full = self.count - self.count % size
        starts = [*range(0, full, size), *range(full, self.count)]
        for start in starts:
            chosen = np.arange(start, start + (size if start < full else 1))
            targets = self.targets[chosen]
            yield self.take(chosen), targets.ravel() if self.task is None else targets
