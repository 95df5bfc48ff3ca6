"""Regression of one value per sample, such as a row of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hwnas.data import Dataset
from hwnas.data.arrays import KIND
from hwnas.errors import InputError
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import METRIC_OPTIONS


class RegressionMeter:
    """Coefficient of determination (R2), mean absolute error and root mean squared error.

    The errors are in the unit of the targets.
    """

    def __init__(self, mean: float, std: float) -> None:
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

        self._mean, self._std = mean, std
        self._samples = 0
        self._r2 = R2Score(**METRIC_OPTIONS)
        self._absolute = MeanAbsoluteError(**METRIC_OPTIONS)
        self._squared = MeanSquaredError(squared=False, **METRIC_OPTIONS)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of standardised outputs (N, 1) and of targets (N, 1) in their own unit."""
        self._samples += len(targets)
        values = outputs * self._std + self._mean
        # Standardised float64 values avoid cancellation when the targets are far from 0.
        self._r2.update(outputs.double()[:, 0], (targets.double()[:, 0] - self._mean) / self._std)
        self._absolute.update(values, targets)
        self._squared.update(values, targets)

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name; `explained` is R2, or 0 if that is negative."""
        # R2 is undefined for a single sample.
        r2 = float(self._r2.compute()) if self._samples > 1 else 0.0
        return {
            "explained": max(0.0, r2),
            "r2": r2,
            "mean_absolute_error": float(self._absolute.compute()),
            "root_mean_squared_error": float(self._squared.compute()),
        }


INPUT_NAMES = {"image": "images", "signal": "signals", "table": "columns"}
"""Names of the exported model's input by the kind of the samples."""


class Regression(Task):
    """Columns (N, C, 1, 1), signals or images to standardised values (N, 1).

    The values are standardised by the mean and standard deviation of the training targets.
    """

    name = "regression"
    metric = "explained"
    head = "classifier"
    output_name = "values"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.input_name = INPUT_NAMES[dataset.reading.get(KIND, "table")]
        values = dataset.train.targets.astype(np.float64)
        self.mean, self.std = float(values.mean()), float(values.std())
        if not self.std > 0:
            raise InputError(
                "all training targets are equal",
                where=dataset.name,
                expected="at least two different values",
                actual=f"{self.mean:.4g} only",
            )

    @property
    def outputs(self) -> int:
        return 1

    def properties(self) -> dict[str, Any]:
        return super().properties() | {"target_mean": self.mean, "target_std": self.std}

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return F.mse_loss(outputs, (targets - self.mean) / self.std)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return 0: a constant explains nothing of the targets."""
        return 0.0

    def meter(self) -> Meter:
        return RegressionMeter(self.mean, self.std)
