"""Sequence labelling: one class for each position, such as the words of a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hwnas.data import Dataset
from hwnas.data.arrays import KIND
from hwnas.data.formats import SEQUENCE_LABELLING, VOID
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import ClassCounter, largest_share, mean, per_class, share_right
from hwnas.tasks.segmentation import labelled_cross_entropy


class LabelMeter(ClassCounter):
    """The share of labels that are predicted, and precision, recall and F1 score per class.

    The positions of all samples are pooled, but for those without a label.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__(classes, ignored=VOID)

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        counts = self.counts()
        return {
            "label_accuracy": share_right(counts),
            "f1": mean([c.f1 for c in counts]),
            "per_class": per_class(counts),
        }


class SequenceLabelling(Task):
    """Tokens (N, L) or signals (N, C, 1, L) to logits (N, classes, T) for T labels.

    Positions whose label is `VOID` are ignored. No space that ships has such networks.
    """

    name = SEQUENCE_LABELLING
    metric = "label_accuracy"
    head = "dense"
    tells_classes = True

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.input_name = "signals" if dataset.reading.get(KIND) == "signal" else "tokens"

    @property
    def output_dimensions(self) -> int:
        return 3

    @property
    def labels(self) -> int:
        """Number of labels T of a sample."""
        return int(self.dataset.train.targets.shape[1])

    @property
    def outputs_in_words(self) -> str:
        return f"{self.outputs} values for each of {self.labels} positions"

    def suits(self, output_shape: tuple[int, ...]) -> bool:
        return output_shape == (self.outputs, self.labels)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return labelled_cross_entropy(outputs, targets, label_smoothing)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the share of the most frequent label."""
        return largest_share(targets[targets != VOID])

    def meter(self) -> Meter:
        return LabelMeter(self.dataset.classes)
