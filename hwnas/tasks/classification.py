"""Classification of images, texts, sounds, signals or rows of tables into one class each."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.config import TaskConfig
from hwnas.data import Dataset
from hwnas.errors import InputError
from hwnas.tasks.areas import MOST_CLASSES, ScoreKeeper
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import ClassCounter, largest_share, mean, per_class, share_right

AREAS = ("roc_auc", "pr_auc")
"""Metrics that need the scores of all samples."""


class ClassificationMeter(ClassCounter):
    """Accuracy, and precision, recall and F1 score per class and macro-averaged.

    The balanced accuracy is the mean recall of the classes that have samples (Brodersen et al.,
    "The Balanced Accuracy and Its Posterior Distribution", ICPR 2010).
    """

    def __init__(self, classes: tuple[str, ...], with_areas: bool = False) -> None:
        super().__init__(classes)
        self._keeper = ScoreKeeper() if with_areas else None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of logits (N, K) and classes (N,)."""
        super().update(outputs, targets)
        if self._keeper is not None:
            self._keeper.update(outputs, targets)

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        counts = self.counts()
        found = {
            "accuracy": share_right(counts),
            "balanced_accuracy": mean([c.recall for c in counts if c.support]),
            "precision": mean([c.precision for c in counts]),
            "recall": mean([c.recall for c in counts]),
            "f1": mean([c.f1 for c in counts]),
        }
        rows = per_class(counts)
        if self._keeper is not None:
            areas = self._keeper.areas()
            found |= {"roc_auc": areas.mean_roc_auc, "pr_auc": areas.mean_pr_auc}
            for row, roc_auc, pr_auc in zip(rows, areas.roc_auc, areas.pr_auc, strict=True):
                row |= {"roc_auc": roc_auc, "pr_auc": pr_auc}
        return found | {"per_class": rows}


class ImageClassification(Task):
    """Images (N, C, H, W) to logits (N, classes)."""

    name = "image-classification"
    metric = "accuracy"
    head = "classifier"
    tells_classes = True
    with_areas: ClassVar[bool] = False
    """Whether the areas under curves are always among the metrics, not only as the score."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._weights: Tensor | None = None
        if len(dataset.classes) < 2:
            raise InputError(
                "classification needs more than one class",
                where=dataset.name,
                expected="at least two classes",
                actual=len(dataset.classes),
            )

    def choose(self, settings: TaskConfig) -> None:
        """Take the score and the weights of classes that the settings state.

        Raises:
            InputError: the score is an area under curves, and there are too many classes.
        """
        if settings.metric in AREAS and self.outputs > MOST_CLASSES:
            raise InputError(
                "there are too many classes for an area under curves",
                where="task.metric",
                expected=f"at most {MOST_CLASSES} classes",
                actual=self.outputs,
                mend='choose "balanced_accuracy"',
            )
        self.metric = settings.metric or self.metric
        if settings.class_weights == "balanced":
            self._weights = balanced_weights(self.dataset.train.targets, self.outputs)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        weights = None if self._weights is None else self._weights.to(outputs)
        return F.cross_entropy(outputs, targets, weights, label_smoothing=label_smoothing)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the score of the best constant answer: of always answering the largest class.

        For areas under curves that is the score of equal scores for all samples.
        """
        largest, present = largest_share(targets), max(len(np.unique(targets)), 1)
        return {
            "accuracy": largest,
            "balanced_accuracy": 1 / present,
            "f1": 2 * largest / (1 + largest) / self.outputs,
            "roc_auc": 0.5,
            "pr_auc": 1 / present,
        }[self.metric]

    def meter(self) -> Meter:
        fits = self.with_areas and self.outputs <= MOST_CLASSES
        return ClassificationMeter(self.dataset.classes, fits or self.metric in AREAS)


def balanced_weights(targets: np.ndarray, classes: int) -> Tensor:
    """The weight of a sample of each class, (K,) float32: N / (K n_k) for n_k of N samples.

    King & Zeng, "Logistic Regression in Rare Events Data", Political Analysis 2001. A class without
    samples counts as one with a single sample.
    """
    counts = np.maximum(np.bincount(targets, minlength=classes), 1)
    return torch.tensor(len(targets) / (classes * counts), dtype=torch.float32)


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
    with_areas = True
