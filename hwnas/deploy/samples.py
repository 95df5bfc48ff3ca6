"""Samples of a model's inputs with their targets.

Feeds are sent to processes that run a model and have no need of PyTorch: nothing here loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwnas.deploy.parity import Feeds

if TYPE_CHECKING:
    from hwnas.tasks import Task

ACCURACY = "accuracy"
"""The metric where no task is known: the share of samples that get the right class."""


@dataclass(frozen=True)
class Samples:
    """Real inputs of a model.

    Attributes:
        count: how many samples there are; batches, where the model has a fixed one.
        take: indices to feeds; one index where the batch is fixed.
        targets: of each sample, (count, ...), or None. Without a task they are classes, (count,)
            or (count, batch).
        task: scores the model's first output; None where nothing but classes are known.
    """

    count: int
    take: Callable[[np.ndarray], Feeds]
    targets: np.ndarray | None = None
    task: Task | None = None

    @property
    def metric(self) -> str:
        """Name of the score."""
        return ACCURACY if self.task is None else self.task.metric

    @property
    def scored(self) -> int:
        """How many samples have a target."""
        assert self.targets is not None
        return self.targets.size if self.task is None else len(self.targets)

    def batches(self, size: int) -> Iterator[tuple[Feeds, np.ndarray]]:
        """All samples in order, and their targets; what fills no batch comes one by one."""
        assert self.targets is not None
        full = self.count - self.count % size
        starts = [*range(0, full, size), *range(full, self.count)]
        for start in starts:
            chosen = np.arange(start, start + (size if start < full else 1))
            targets = self.targets[chosen]
            yield self.take(chosen), targets.ravel() if self.task is None else targets
