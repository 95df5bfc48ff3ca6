"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import ClassCounter, mean, ratio


class SegmentationMeter(ClassCounter):
    """Intersection over union of each class and its mean, and the share of right pixels.

    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2015, section 4.3; all
    pixels of all images count together. The mean leaves out classes that neither are there nor
    were said to be.
    """

    def compute(self) -> dict[str, Any]:
        """The metrics by name."""
        counts = self.counts()
        seen = [c for c in counts if c.support or c.false]
        return {
            "mean_iou": mean([c.intersection_over_union for c in seen]),
            "pixel_accuracy": ratio(sum(c.found for c in counts), sum(c.support for c in counts)),
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

    def meter(self) -> Meter:
        return SegmentationMeter(self.dataset.classes)
