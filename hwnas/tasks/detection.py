"""Object detection that predicts each object at the grid cell of its centre.

This follows Zhou, Wang & Krähenbühl, "Objects as Points", 2019 (arXiv 1904.07850), without its
Gaussian targets and with the focal loss of Lin et al., "Focal Loss for Dense Object Detection",
ICCV 2017 (arXiv 1708.02002). The output is a grid of h x w cells over the image. The cell that
contains the centre of an object predicts its class, the offset of its centre from the middle of
the cell, and the logarithms of its width and height; the unit of length is the cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.data import Dataset
from hwnas.inference.boxes import Detections, decode_boxes
from hwnas.tasks.average_precision import Objects, average_precisions
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import mean

FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25
"""gamma and alpha of the focal loss."""
BOX_WEIGHT = 0.5
"""Weight of the L1 loss of the boxes, relative to the focal loss of the classes."""


class DetectionMeter:
    """Mean average precision at IoU 0.5 to 0.95 and at IoU 0.5, and the average per class."""

    def __init__(self, task: Detection) -> None:
        self._task = task
        self._found: list[Detections] = []
        self._truth: list[Objects] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of maps (N, K + 4, h, w) and boxes (N, B, 5)."""
        self._found += self._task.detections(outputs)
        for boxes in targets.numpy():
            present = boxes[boxes[:, 0] >= 0]
            self._truth.append(Objects(present[:, 1:], present[:, 0].astype(int)))

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name; means are over the classes that occur in the targets."""
        rows, at_half, averages = [], [], []
        for index, name in enumerate(self._task.dataset.classes):
            count = sum(int((objects.classes == index).sum()) for objects in self._truth)
            found = average_precisions(self._found, self._truth, index)
            if found is not None:
                at_half.append(float(found[0]))
                averages.append(float(found.mean()))
                rows.append({"class": name, "average_precision": averages[-1], "n": count})
        return {
            "mean_average_precision": mean(averages),
            "mean_average_precision_50": mean(at_half),
            "per_class": rows,
        }


class Detection(Task):
    """Images (N, C, H, W) to maps (N, K + 4, h, w): class logits, x and y offsets, log sizes."""

    name = "detection"
    metric = "mean_average_precision"
    head = "dense"
    output_name = "maps"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.classes = len(dataset.classes)

    @property
    def outputs(self) -> int:
        return self.classes + 4

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        logits, geometry = torch.split(outputs, [self.classes, 4], dim=1)
        image, class_, row, column, wanted = self._positives(targets.to(outputs), outputs)
        truth = torch.zeros_like(logits)
        truth[image, class_, row, column] = 1
        count = max(1, len(image))
        probability = logits.sigmoid()
        of_truth = torch.where(truth > 0, probability, 1 - probability)
        balance = torch.where(truth > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
        weight = balance * (1 - of_truth) ** FOCAL_GAMMA
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        focal: Tensor = (weight * losses).sum() / count
        distance = (geometry[image, :, row, column] - wanted).abs().sum() / count
        return focal + BOX_WEIGHT * distance

    def _positives(
        self, targets: Tensor, outputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the cells that should predict the M objects of a batch.

        Args:
            targets: boxes (N, B, 5) in pixels.
            outputs: (N, K + 4, h, w), for their shape.

        Returns:
            Index of the image, class, row and column of each object, (M,) each, and the offsets
            and log sizes that its cell should predict, (M, 4).
        """
        cell = self._cell(outputs)
        image, place = (targets[..., 0] >= 0).nonzero(as_tuple=True)
        boxes = targets[image, place]
        centre = (boxes[:, 1:3] + boxes[:, 3:5]) / 2 / cell
        size = (boxes[:, 3:5] - boxes[:, 1:3]) / cell
        limits = torch.tensor([outputs.shape[3] - 1, outputs.shape[2] - 1], device=boxes.device)
        column, row = torch.minimum(centre.long().clamp_min(0), limits).unbind(1)
        middle = torch.stack((column, row), dim=1) + 0.5
        wanted = torch.cat((centre - middle, size.log()), dim=1)
        return image, boxes[:, 0].long(), row, column, wanted

    def _cell(self, outputs: Tensor) -> Tensor:
        """Return the width and height of a cell in pixels, (2,)."""
        _, height, width = self.dataset.input_shape
        sizes = [width / outputs.shape[3], height / outputs.shape[2]]
        return torch.tensor(sizes, device=outputs.device, dtype=outputs.dtype)

    def detections(self, outputs: Tensor) -> list[Detections]:
        """Decode output maps (N, K + 4, h, w) into the detections of each image."""
        size = self.dataset.input_shape[1], self.dataset.input_shape[2]
        return decode_boxes(outputs.numpy(), size)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return 0, the average precision of detecting nothing."""
        return 0.0

    def meter(self) -> Meter:
        return DetectionMeter(self)
