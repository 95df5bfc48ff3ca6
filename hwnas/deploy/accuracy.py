"""Labelled samples of a model's inputs, and the share that it classifies right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.deploy.parity import Feeds, Outputs, Predict, classes_of
from hwnas.errors import InputError


@dataclass(frozen=True)
class Samples:
    """Real inputs of a model.

    Attributes:
        count: how many samples there are; batches, where the model has a fixed one.
        take: indices to feeds; one index where the batch is fixed.
        labels: the class of each sample, (count,) or (count, batch), or None.
    """

    count: int
    take: Callable[[np.ndarray], Feeds]
    labels: np.ndarray | None = None

    def batches(self, size: int) -> Iterator[tuple[Feeds, np.ndarray]]:
        """All samples in order, and their labels; what fills no batch comes one by one."""
        assert self.labels is not None
        full = self.count - self.count % size
        starts = [*range(0, full, size), *range(full, self.count)]
        for start in starts:
            chosen = np.arange(start, start + (size if start < full else 1))
            yield self.take(chosen), self.labels[chosen].ravel()


@dataclass(frozen=True)
class Accuracy:
    """Share of the samples classified right by a model and by its reference, if there is one."""

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


def accuracy_of(predict: Predict, samples: Samples, batch: int, where: str) -> float:
    """Share of the labelled samples that are classified right.

    Raises:
        InputError: when the model has no output of classes, or not one for each sample.
    """
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
