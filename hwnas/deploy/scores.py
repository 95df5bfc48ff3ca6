"""Samples of a model's inputs with their targets, and how well it does on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hwnas.deploy.parity import Feeds, Outputs, Predict, classes_of
from hwnas.errors import InputError
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


@dataclass(frozen=True)
class Score:
    """How well a model does on samples, and its reference, if there is one; 0 to 1."""

    metric: str
    model: float
    reference: float | None
    reference_name: str
    samples: int

    @property
    def drop(self) -> float | None:
        """What the model lost to its reference."""
        return None if self.reference is None else self.reference - self.model

    def to_json(self) -> dict[str, Any]:
        """The reference under its name, the model under `onnx`."""
        return {self.reference_name: self.reference, "onnx": self.model, "n": self.samples}


def score_of(predict: Predict, samples: Samples, batch: int, where: str) -> float:
    """The score of a model's outputs on samples with targets.

    Raises:
        InputError: when the model has no output of classes, or of the task's shape, or not one for
            each sample.
    """
    task = samples.task
    if task is None:
        return _accuracy_of(predict, samples, batch, where)
    return task.score(
        (_of_task(predict(feeds), task, len(targets), where), torch.from_numpy(targets))
        for feeds, targets in samples.batches(batch)
    )


def _of_task(outputs: Outputs, task: Task, count: int, where: str) -> torch.Tensor:
    """The first output that can be the task's."""
    dimensions = 2 if task.head == "classifier" else 4
    for output in outputs.values():
        if output.ndim == dimensions and output.shape[:2] == (count, task.outputs):
            return torch.from_numpy(output.astype(np.float32))
    places = "" if dimensions == 2 else ", height, width"
    raise InputError(
        f"no output is one of {task.name}",
        where=where,
        expected=f"shape ({count}, {task.outputs}{places})",
        actual=[output.shape for output in outputs.values()],
    )


def _accuracy_of(predict: Predict, samples: Samples, batch: int, where: str) -> float:
    """Share of the labelled samples that are classified right."""
    correct = total = 0
    for feeds, labels in samples.batches(batch):
        classes = _predicted(predict(feeds), len(labels))
        if classes is None:
            raise InputError(
                "no output gives a class to every sample",
                where=where,
                expected=f"scores ({len(labels)}, classes) or classes ({len(labels)},)",
                mend="leave the labels out of the data",
            )
        if "U" in (classes.dtype.kind, labels.dtype.kind) or classes.dtype.kind == "O":
            classes, labels = classes.astype(str), labels.astype(str)
        correct += int(np.sum(classes == labels))
        total += len(labels)
    return correct / total


def _predicted(outputs: Outputs, count: int) -> np.ndarray | None:
    """Classes of the samples by the first output that has them."""
    for output in outputs.values():
        classes = classes_of(output)
        if classes is not None and classes.size == count:
            return classes.ravel()
    return None
