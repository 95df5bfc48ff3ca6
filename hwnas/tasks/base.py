"""The interface of a task: its loss, its metrics and the head that its networks need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from hwnas.config import TaskConfig
from hwnas.data import Dataset
from hwnas.data.inputs import NamedInput
from hwnas.errors import InputError
from hwnas.ops.heads import Head

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps the outputs and targets of a batch to a scalar."""


class Meter(Protocol):
    """Accumulates the outputs and targets of many batches and computes metrics over all."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name, as JSON data."""


class Task(ABC):
    """A learning task on a dataset.

    Attributes:
        name: name by which a dataset states its task.
        metric: name of the metric by which networks are compared; 0 to 1, higher is better.
        head: kind of head that the networks end with.
        tells_classes: whether the outputs are class logits, along dimension 1.
        input_name, output_name: names of the input and output of the exported model.
        dataset: the data.
    """

    name: str
    metric: str
    head: Head
    tells_classes: bool = False
    input_name: str = "images"
    output_name: ClassVar[str] = "logits"

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def choose(self, settings: TaskConfig) -> None:
        """Take the score and the weights of classes that the settings state.

        Raises:
            InputError: the task leaves no choice.
        """
        raise InputError(
            f"the task {self.name} has one score, and no classes of whole samples to be weighted",
            where="task",
            expected="the table [task] only for tasks with one class for each sample",
            actual=settings.model_dump(exclude_defaults=True),
        )

    @property
    def outputs(self) -> int:
        """Number of output channels K of the head."""
        return len(self.dataset.classes)

    @property
    def output_dimensions(self) -> int:
        """Number of dimensions of the network's output, with the batch."""
        return 2 if self.head == "classifier" else 4

    @property
    def outputs_in_words(self) -> str:
        """What the network's output has to be."""
        if self.output_dimensions == 2:
            return f"{self.outputs} values for each sample"
        return f"maps of {self.outputs} channels"

    def suits(self, output_shape: tuple[int, ...]) -> bool:
        """Whether a network's output for one sample has the shape that the task needs."""
        is_long_enough = 1 + len(output_shape) == self.output_dimensions
        return is_long_enough and output_shape[0] == self.outputs

    def properties(self) -> dict[str, Any]:
        """Return the metadata of an exported model about its inputs and outputs, as JSON data."""
        dataset = self.dataset
        if dataset.inputs:
            inputs = [
                {"name": one.name, **_input_properties(dataset, one)} for one in dataset.inputs
            ]
            return {"inputs": inputs, "classes": dataset.classes, **dataset.reading}
        if dataset.vocabulary:
            return {"vocabulary": dataset.vocabulary, "classes": dataset.classes, **dataset.reading}
        given = dataset.normalisation
        moments = {"input_dtype": given.dtype, "input_mean": given.mean, "input_std": given.std}
        return {**moments, "classes": dataset.classes, **dataset.reading}

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the training loss, the mean over a batch.

        Args:
            outputs: outputs of the network; `head` determines their shape.
            targets: targets of this task as described in `hwnas.data.dataset`.
            label_smoothing: fraction of the target probability that is spread over all classes;
                ignored by tasks without class logits.
        """

    @abstractmethod
    def meter(self) -> Meter:
        """Return a new meter; it computes `metric` and, for tasks with classes, `per_class`."""

    def metrics(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Return the metrics over batches of outputs and targets, as JSON data by name."""
        meter = self.meter()
        for outputs, targets in batches:
            meter.update(outputs.float().cpu(), targets.cpu())
        return meter.compute()

    def constant_score(self, targets: np.ndarray) -> float | None:
        """Return the score of the best answer that ignores the inputs, the chance level.

        Args:
            targets: the targets that are scored, as described in `hwnas.data.dataset`.

        Returns:
            A value of `metric`, or None if the task has no such answer.
        """
        return None

    def score(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Return the value of `metric` over batches of outputs and targets."""
        return float(self.metrics(batches)[self.metric])


def _input_properties(dataset: Dataset, given: NamedInput) -> dict[str, Any]:
    """The metadata of one of several inputs."""
    normalisation = dataset.normalisations[given.name]
    if given.dtype == "int64":
        splits = dataset.train, dataset.test
        largest = max(int(split.inputs[given.name].max()) for split in splits)
        return {"kind": "tokens", "dtype": given.dtype, "tokens": largest + 1}
    kind = {3: "image", 2: "signal", 1: "table"}[len(given.shape)]
    if normalisation is None:
        return {"kind": kind, "dtype": given.dtype}
    moments = {"mean": normalisation.mean, "std": normalisation.std}
    return {"kind": kind, "dtype": normalisation.dtype, **moments}
