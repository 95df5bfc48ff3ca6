"""Semantic segmentation: one class per pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import ClassCounter, largest_share, mean, ratio


class SegmentationMeter(ClassCounter):
    """Intersection over union per class, its mean, and the pixel accuracy.

    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2015, section 4.3. The
    pixels of all images are pooled. The mean excludes classes that occur neither in the targets
    nor in the predictions.
    """

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        counts = self.counts()
        occurring = [c for c in counts if c.support or c.false_positives]
        return {
            "mean_iou": mean([c.intersection_over_union for c in occurring]),
            "pixel_accuracy": ratio(
                sum(c.true_positives for c in counts), sum(c.support for c in counts)
            ),
            "per_class": [
                {"class": c.name, "iou": c.intersection_over_union, "n": c.support} for c in counts
            ],
        }


class Segmentation(Task):
    """Images (N, C, H, W) to logits (N, classes, H, W)."""

    name = "segmentation"
    metric = "mean_iou"
    head = "upsampled"
    tells_classes = True

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the mean IoU of answering the largest class everywhere.

        The IoU of that class is its share of the pixels, and that of all others is 0.
        """
        return largest_share(targets) / max(len(np.unique(targets)), 1)

    def meter(self) -> Meter:
        return SegmentationMeter(self.dataset.classes)
