"""Semantic segmentation: one class per pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hwnas.data.formats import SEGMENTATION, VOID
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import ClassCounter, largest_share, mean, share_right


class SegmentationMeter(ClassCounter):
    """Intersection over union per class, its mean, and the pixel accuracy.

    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2015, section 4.3. The
    pixels of all images are pooled, but for those that are void, whatever is predicted there. The
    mean excludes classes that occur neither in the targets nor in the predictions.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__(classes, ignored=VOID)

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        counts = self.counts()
        occurring = [c for c in counts if c.support or c.false_positives]
        return {
            "mean_iou": mean([c.intersection_over_union for c in occurring]),
            "pixel_accuracy": share_right(counts),
            "per_class": [
                {"class": c.name, "iou": c.intersection_over_union, "n": c.support} for c in counts
            ],
        }


def labelled_cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """The mean cross-entropy over the pixels or positions that have a label.

    Args:
        outputs: logits (N, K, ...).
        targets: classes (N, ...), `VOID` where there is no label.
        label_smoothing: see `Task.loss`.
    """
    total = F.cross_entropy(
        outputs, targets, ignore_index=VOID, reduction="sum", label_smoothing=label_smoothing
    )
    # At least 1, because the mean over a batch without labels is not a number.
    return total / (targets != VOID).sum().clamp(min=1)


class Segmentation(Task):
    """Images (N, C, H, W) to logits (N, classes, H, W); void pixels of the targets are ignored."""

    name = SEGMENTATION
    metric = "mean_iou"
    head = "upsampled"
    tells_classes = True

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return labelled_cross_entropy(outputs, targets, label_smoothing)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the mean IoU of answering the largest class everywhere.

        The IoU of that class is its share of the labelled pixels, and that of all others is 0.
        """
        labelled = targets[targets != VOID]
        return largest_share(labelled) / max(len(np.unique(labelled)), 1)

    def meter(self) -> Meter:
        return SegmentationMeter(self.dataset.classes)
