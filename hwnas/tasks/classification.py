"""Classification of images, texts or sounds into one class each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hwnas.data import Dataset
from hwnas.errors import InputError
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import ClassCounter, largest_share, mean, per_class, share_right


class ClassificationMeter(ClassCounter):
    """Accuracy, and precision, recall and F1 score per class and macro-averaged."""

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        counts = self.counts()
        return {
            "accuracy": share_right(counts),
            "precision": mean([c.precision for c in counts]),
            "recall": mean([c.recall for c in counts]),
            "f1": mean([c.f1 for c in counts]),
            "per_class": per_class(counts),
        }


class ImageClassification(Task):
    """Images (N, C, H, W) to logits (N, classes)."""

    name = "image-classification"
    metric = "accuracy"
    head = "classifier"
    tells_classes = True

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        if len(dataset.classes) < 2:
            raise InputError(
                "classification needs more than one class",
                where=dataset.name,
                expected="at least two classes",
                actual=len(dataset.classes),
            )

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the accuracy of always answering the largest class: its share of the samples."""
        return largest_share(targets)

    def meter(self) -> Meter:
        return ClassificationMeter(self.dataset.classes)


class AudioKeywords(ImageClassification):
    """Log-mel spectrograms (N, 1, bands, frames) to logits (N, classes)."""

    name = "audio-keywords"
    input_name = "spectrograms"


class TextClassification(ImageClassification):
    """Tokens (N, L) to logits (N, classes)."""

    name = "text-classification"
    input_name = "tokens"


class MultiInputClassification(ImageClassification):
    """Several inputs to logits (N, classes); only networks of one's own have several inputs."""

    name = "multi-input-classification"


class SignalClassification(ImageClassification):
    """Signals (N, C, 1, L) to logits (N, classes)."""

    name = "signal-classification"
    input_name = "signals"


class TableClassification(ImageClassification):
    """Columns (N, C, 1, 1) to logits (N, classes)."""

    name = "table-classification"
    input_name = "columns"
