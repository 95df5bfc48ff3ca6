"""Scores a model on samples with targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hwnas.deploy.chance import Chance
from hwnas.deploy.parity import Outputs, Predict, classes_of
from hwnas.deploy.samples import Samples
from hwnas.errors import InputError
from hwnas.tasks import Task


@dataclass(frozen=True)
class Score:
    """Score of a model and of its reference on the same samples.

    Attributes:
        metric: name of the score.
        model: score of the model, 0 to 1.
        reference: score of the reference, or None without one.
        reference_name: name of the reference in the document.
        samples: number of samples with a target.
        constant: score of the best answer that ignores the inputs, or None if there is none.
    """

    metric: str
    model: float
    reference: float | None
    reference_name: str
    samples: int
    constant: float | None = None

    @property
    def chance(self) -> Chance | None:
        """The score beside that of a constant answer; None if there is no such answer."""
        if self.constant is None:
            return None
        return Chance(self.metric, self.model, self.constant, self.samples)

    @property
    def drop(self) -> float | None:
        """How far the model's score is below the reference's."""
        return None if self.reference is None else self.reference - self.model

    def to_json(self) -> dict[str, Any]:
        """The score of the reference under its name, and that of the model under `onnx`."""
        return {self.reference_name: self.reference, "onnx": self.model, "n": self.samples}


def score_of(predict: Predict, samples: Samples, batch: int, where: str) -> float:
    """Score a model on samples with targets.

    Args:
        predict: runs the model.
        samples: samples with targets; without a task, the score is the accuracy.
        batch: batch size to run at.
        where: the model file, for errors.

    Returns:
        The score, 0 to 1.

    Raises:
        InputError: when the model has no output that gives a class, or a prediction of the task,
            for each sample.
    """
    task = samples.task
    if task is None:
        return _accuracy_of(predict, samples, batch, where)
    return task.score(
        (_task_output(predict(feeds), task, len(targets), where), torch.from_numpy(targets))
        for feeds, targets in samples.batches(batch)
    )


def _task_output(outputs: Outputs, task: Task, count: int, where: str) -> torch.Tensor:
    """The first output with the shape of the task's predictions."""
    dimensions = 2 if task.head == "classifier" else 4
    for output in outputs.values():
        if output.ndim == dimensions and output.shape[:2] == (count, task.outputs):
            return torch.from_numpy(output.astype(np.float32))
    places = "" if dimensions == 2 else ", height, width"
    raise InputError(
        f"no output has the shape of predictions for {task.name}",
        where=where,
        expected=f"shape ({count}, {task.outputs}{places})",
        actual=[output.shape for output in outputs.values()],
    )


def _accuracy_of(predict: Predict, samples: Samples, batch: int, where: str) -> float:
    """Share of the labelled samples that are classified correctly."""
    correct = total = 0
    for feeds, labels in samples.batches(batch):
        classes = _predicted_classes(predict(feeds), len(labels))
        if classes is None:
            raise InputError(
                "no output gives a class for every sample",
                where=where,
                expected=f"scores ({len(labels)}, classes) or classes ({len(labels)},)",
                mend="leave the labels out of the data",
            )
        if "U" in (classes.dtype.kind, labels.dtype.kind) or classes.dtype.kind == "O":
            classes, labels = classes.astype(str), labels.astype(str)
        correct += int(np.sum(classes == labels))
        total += len(labels)
    return correct / total


def _predicted_classes(outputs: Outputs, count: int) -> np.ndarray | None:
    """Classes of the samples from the first output that gives them, or None."""
    for output in outputs.values():
        classes = classes_of(output)
        if classes is not None and classes.size == count:
            return classes.ravel()
    return None
