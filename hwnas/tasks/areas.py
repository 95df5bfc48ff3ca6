"""Areas under the curves that rank samples by their score for a class, one class against the rest.

Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 2006; Davis & Goadrich, "The
Relationship Between Precision-Recall and ROC Curves", ICML 2006. The area under the
precision-recall curve is the average precision, without interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CLASSES = 100
"""Largest number of classes whose areas are computed: all scores of all samples are kept."""


@dataclass(frozen=True)
class Areas:
    """Areas of each class; None where they are not defined.

    A class without samples has neither, and one with all of them has no area under the ROC curve.
    """

    roc_auc: tuple[float | None, ...]
    pr_auc: tuple[float | None, ...]

    @property
    def mean_roc_auc(self) -> float:
        """The mean over the classes that have an area; a half, as of equal scores, without any."""
        known = [area for area in self.roc_auc if area is not None]
        return sum(known) / len(known) if known else 0.5

    @property
    def mean_pr_auc(self) -> float:
        """The mean over the classes that have samples."""
        known = [area for area in self.pr_auc if area is not None]
        return sum(known) / len(known) if known else 0.0


def areas(logits: Tensor, targets: Tensor) -> Areas:
    """Return the areas of all classes.

    Args:
        logits: (N, K); a sample's score for a class is its probability.
        targets: classes (N,) int64.
    """
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    # float64, since probabilities near 1 are equal in float32 and would be ties.
    scores = logits.double().softmax(dim=1)
    roc: list[float | None] = []
    precision: list[float | None] = []
    for place in range(logits.shape[1]):
        is_class = (targets == place).long()
        count = int(is_class.sum())
        score = scores[:, place].contiguous()
        is_mixed = 0 < count < len(targets)
        roc.append(float(binary_auroc(score, is_class)) if is_mixed else None)
        found = float(binary_average_precision(score, is_class)) if count else None
        precision.append(found)
    return Areas(tuple(roc), tuple(precision))


class ScoreKeeper:
    """Keeps the scores and targets of many batches, for the areas over all of them."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of logits (N, K) and classes (N,)."""
        self._logits.append(outputs)
        self._targets.append(targets)

    def areas(self) -> Areas:
        """The areas over all batches."""
        return areas(torch.cat(self._logits), torch.cat(self._targets))
