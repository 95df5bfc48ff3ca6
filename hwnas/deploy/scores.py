"""How well a model does on samples with targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hwnas.deploy.parity import Outputs, Predict, classes_of
from hwnas.deploy.samples import Samples
from hwnas.errors import InputError
from hwnas.tasks import Task


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
