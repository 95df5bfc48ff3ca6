"""What a task is: a loss, metrics with one score among them, and what a network has to end with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

from torch import Tensor

from hwnas.data import Dataset
from hwnas.ops.heads import Head

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs and targets, a scalar."""


class Meter(Protocol):
    """Gathers outputs and targets of many batches, and states metrics of all."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch."""

    def compute(self) -> dict[str, Any]:
        """The metrics by name, as JSON data."""


class Task(ABC):
    """What is learned from a dataset.

    Attributes:
        name: as datasets name it.
        metric: the metric by which networks are compared, 0 to 1, the higher the better.
        head: what a network has to end with.
        tells_classes: outputs are logits of classes, along dimension 1.
        input_name, output_name: of the exported model.
        dataset: what is learned from.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    head: ClassVar[Head]
    tells_classes: ClassVar[bool] = False
    input_name: ClassVar[str] = "images"
    output_name: ClassVar[str] = "logits"

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @property
    def outputs(self) -> int:
        """Length K of the vectors that the head gives."""
        return len(self.dataset.classes)

    def properties(self) -> dict[str, Any]:
        """What an exported model says of its inputs and outputs, as JSON data."""
        dataset = self.dataset
        if dataset.vocabulary:
            return {"vocabulary": dataset.vocabulary, "classes": dataset.classes, **dataset.reading}
        moments = {"input_mean": dataset.mean, "input_std": dataset.std}
        return {**moments, "classes": dataset.classes, **dataset.reading}

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """What training makes small, the mean over a batch.

        Args:
            outputs: of the network, as `head` says.
            targets: as `hwnas.data.dataset` says, of this task.
            label_smoothing: share of a target that goes to all classes; where there are none, it
                has no meaning and is not used.
        """

    @abstractmethod
    def meter(self) -> Meter:
        """A new meter; among its metrics are `metric`, and `per_class` where there are classes."""

    def metrics(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """The metrics of batches of outputs and targets."""
        meter = self.meter()
        for outputs, targets in batches:
            meter.update(outputs.float().cpu(), targets.cpu())
        return meter.compute()

    def score(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """The metric by which networks are compared, of batches of outputs and targets."""
        return float(self.metrics(batches)[self.metric])
