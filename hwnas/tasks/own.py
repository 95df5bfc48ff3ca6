"""A task with the loss and the metric of the user."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hwnas.data import Dataset
from hwnas.errors import InputError, first_line
from hwnas.tasks.base import Loss, Meter, Task

Metric = Callable[[Tensor, Tensor], Any]
"""Maps all outputs and targets to a number."""
Direction = Literal["maximize", "minimize"]
"""Whether a larger value of a metric is better."""


class OwnTask(Task):
    """The usual task of the data, of which the user replaces the loss, the metric or both.

    It keeps the name of the usual task where the network's outputs suit that.

    Attributes:
        base: the usual task, which decides what the user does not.
        output_shape: shape of the network's output for one sample.
    """

    name = "own"
    output_name = "outputs"

    def __init__(
        self,
        base: Task,
        output_shape: tuple[int, ...],
        loss: Loss | None = None,
        metric: Metric | None = None,
        direction: Direction | None = None,
    ) -> None:
        """Keep the functions.

        Args:
            base: the usual task.
            output_shape: shape of the network's output for one sample.
            loss: maps the outputs and targets of a batch to a scalar; the usual one if None.
            metric: maps the outputs and targets of all samples to a number; the usual metrics if
                None.
            direction: whether a larger number of the metric is better. Without it, the metric is
                from 0 to 1 and larger is better.
        """
        super().__init__(base.dataset)
        self.base, self.output_shape = base, output_shape
        self._loss, self._metric, self._direction = loss, metric, direction
        self.head, self.tells_classes = base.head, base.tells_classes
        self.input_name = base.input_name
        if base.suits(output_shape):
            self.name = base.name
        self.metric = base.metric
        if metric is not None:
            own_name = getattr(metric, "__name__", type(metric).__name__).strip("<>")
            self.metric = own_name if direction is None else f"{own_name}_score"
            self._metric_name = own_name

    @property
    def outputs(self) -> int:
        return self.output_shape[0]

    @property
    def output_dimensions(self) -> int:
        return 1 + len(self.output_shape)

    def properties(self) -> dict[str, Any]:
        return self.base.properties()

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if self._loss is None:
            return self.base.loss(outputs, targets, label_smoothing)
        return self._loss(outputs, targets)

    def meter(self) -> Meter:
        return self.base.meter() if self._metric is None else _OwnMeter(self)

    def constant_score(self, targets: np.ndarray) -> float | None:
        return self.base.constant_score(targets) if self._metric is None else None

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The user's metric, and the score from 0 to 1 that ranks networks.

        Raises:
            InputError: when the metric raises, or returns no number or one that is not finite.
        """
        assert self._metric is not None
        where = f"metric {self._metric_name}"
        try:
            value = float(self._metric(outputs, targets))
        except Exception as error:
            shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            raise InputError(
                f"it does not take {shapes}",
                where=where,
                expected="a number",
                actual=first_line(error),
            ) from error
        is_share = self._direction is not None or 0 <= value <= 1
        if not math.isfinite(value) or not is_share:
            raise InputError(
                "not a usable number",
                where=where,
                expected="a number from 0 to 1, where 1 is best"
                if self._direction is None
                else "a finite number",
                actual=value,
                mend='state direction="maximize" or "minimize" for other numbers',
            )
        if self._direction is None:
            return {self.metric: value}
        return {self.metric: score_of(value, self._direction), self._metric_name: value}


def score_of(value: float, direction: Direction) -> float:
    """Map any number to 0 to 1, so that better ones are larger and 0 is mapped to a half."""
    sign = 1 if direction == "maximize" else -1
    return 0.5 * (1 + sign * value / (1 + abs(value)))


class _OwnMeter:
    """Collects all outputs and targets, since the metric of the whole is asked for."""

    def __init__(self, task: OwnTask) -> None:
        self._task = task
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self._outputs.append(outputs)
        self._targets.append(targets)

    def compute(self) -> dict[str, Any]:
        """Return the metric, and the score if it is another number."""
        return dict(self._task.measure(torch.cat(self._outputs), torch.cat(self._targets)))


class JudgedTask(Task):
    """What a network learns that only a function of the user's judges, outside of hwnas."""

    name = "own"
    metric = "score"
    head = "classifier"
    input_name = "inputs"
    output_name = "outputs"

    def __init__(self, dataset: Dataset, output_shape: tuple[int, ...]) -> None:
        super().__init__(dataset)
        self.output_shape = output_shape

    @property
    def outputs(self) -> int:
        return self.output_shape[0]

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        raise _not_learned("loss")

    def meter(self) -> Meter:
        raise _not_learned("metric")

    def metrics_of(self, value: float) -> dict[str, Any]:
        """A value of the user's function as metrics, with a score from 0 to 1."""
        score = value if 0 <= value <= 1 else score_of(value, "maximize")
        return {"metric": self.metric, self.metric: score, "evaluate": value}


def _not_learned(name: str) -> InputError:
    return InputError(
        f"there is no {name} without data",
        where="hwnas.search",
        mend="give `train`, or choose a strategy that calls `evaluate`",
    )
