"""Scores a model on samples with targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hwnas.checking.accuracy import accuracy_of, score_output
from hwnas.checking.chance import Chance
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.inputs.samples import Samples
from hwnas.checking.outputs import Feeds, Outputs, Predict, in_order_of, single_arrays
from hwnas.checking.references import Reference
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
        output: name of the output that gave the classes; None for the score of a task.
    """

    metric: str
    model: float
    reference: float | None
    reference_name: str
    samples: int
    constant: float | None = None
    output: str | None = None

    @property
    def chance(self) -> Chance | None:
        """The score beside that of a constant answer; None if there is no such answer."""
        if self.constant is None:
            return None
        return Chance(self.metric, self.model, self.constant, self.samples)

    @property
    def drop(self) -> float | None:
        """How far the model's score is below the reference's."""
        # Rounded, because 1 - 0.99 is 0.010000000000000009.
        return None if self.reference is None else round(self.reference - self.model, 12)

    def to_json(self) -> dict[str, Any]:
        """The score of the reference under its name, and that of the model under `onnx`."""
        return {self.reference_name: self.reference, "onnx": self.model, "n": self.samples}


def score_beside(
    predict: Predict,
    reference: Reference | None,
    feeds: FeedMaker,
    batches: Sequence[int],
    where: str,
) -> Score | None:
    """Score a model and its reference on the samples of its feeds.

    The same output of both is scored: by its name if all names are the same, else by its place.

    Args:
        predict: runs the model.
        reference: the model to compare with, or None.
        feeds: has the samples.
        batches: batch sizes at which both run.
        where: the model file, for errors.

    Returns:
        None if there are no samples with targets.

    Raises:
        InputError: see `score_of`.
    """
    samples = feeds.samples
    if samples is None or samples.targets is None:
        return None
    # If the batch size is fixed, each sample is a whole batch.
    batch = max(batches, default=feeds.batch) if feeds.is_dynamic else 1
    first, labels = next(samples.batches(batch))
    outputs = predict(first)
    if samples.task is None and samples.score_output is None:
        chosen = score_output(outputs, len(labels), samples.targets, where)
        samples = replace(samples, score_output=chosen)
    found = score_of(predict, samples, batch, where)
    expected = None
    if reference is not None:
        theirs = _renamed(reference.predict, list(outputs))
        expected = score_of(theirs, samples, batch, where)
    return Score(
        samples.metric,
        found,
        expected,
        "reference" if reference is None else reference.name,
        samples.scored,
        samples.constant_score(),
        samples.score_output,
    )


def _renamed(predict: Predict, names: Sequence[str]) -> Predict:
    """A function whose outputs have other names, in the same order, unless all names are known."""

    def renamed(feeds: Feeds) -> Outputs:
        outputs = in_order_of(predict(feeds), names)
        return dict(zip(names, outputs.values(), strict=False))

    return renamed


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
        return accuracy_of(predict, samples, batch, where)
    return task.score(
        (_task_output(predict(feeds), task, len(targets), where), torch.from_numpy(targets))
        for feeds, targets in samples.batches(batch)
    )


def _task_output(outputs: Outputs, task: Task, count: int, where: str) -> torch.Tensor:
    """The first output with the shape of the task's predictions."""
    dimensions = task.output_dimensions
    for _, output in single_arrays(outputs):
        if output.ndim == dimensions and output.shape[:2] == (count, task.outputs):
            return torch.from_numpy(output.astype(np.float32))
    places = {2: "", 4: ", height, width"}.get(dimensions, ", ...")
    raise InputError(
        f"no output has the shape of predictions for {task.name}",
        where=where,
        expected=f"shape ({count}, {task.outputs}{places})",
        actual=[output.shape for _, output in single_arrays(outputs)],
    )
