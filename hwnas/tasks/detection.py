"""Object detection: each object by the place of its centre.

Zhou, Wang & Krähenbühl, "Objects as Points", 2019 (arXiv 1904.07850), without its Gaussians, and
with the focal loss of Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017 (arXiv
1708.02002). The last features are a grid of cells; a cell that has the centre of an object gives
its class, its centre as an offset from the cell's middle, and the logarithms of width and height,
all in cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.data import Dataset
from hwnas.tasks.average_precision import Detections, Objects, average_precisions
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import mean

FOCUS, BALANCE = 2.0, 0.25
"""gamma and alpha of the focal loss."""
BOX_WEIGHT = 0.5
MOST_DETECTIONS = 100
"""In an image, as COCO counts them."""
LARGEST_LOG = 6.0
"""Of a width or height in cells, so that an untrained network's boxes are finite."""


class DetectionMeter:
    """Average precision at overlaps from 0.5 to 0.95, at 0.5, and of each class."""

    def __init__(self, task: Detection) -> None:
        self._task = task
        self._found: list[Detections] = []
        self._truth: list[Objects] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take maps (N, K + 4, h, w) and boxes (N, B, 5)."""
        self._found += self._task.detections(outputs)
        for boxes in targets.numpy():
            present = boxes[boxes[:, 0] >= 0]
            self._truth.append(Objects(present[:, 1:], present[:, 0].astype(int)))

    def compute(self) -> dict[str, Any]:
        """The metrics by name; means are over the classes that are there."""
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
    """Images (N, C, H, W) to maps (N, K + 4, h, w): logits of classes, offsets, log sizes."""

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
        logits, geometry = outputs.split((self.classes, 4), dim=1)
        image, class_, row, column, wanted = self._positives(targets.to(outputs), outputs)
        truth = torch.zeros_like(logits)
        truth[image, class_, row, column] = 1
        count = max(1, len(image))
        chance = logits.sigmoid()
        right = torch.where(truth > 0, chance, 1 - chance)
        weight = torch.where(truth > 0, BALANCE, 1 - BALANCE) * (1 - right) ** FOCUS
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        focal = (weight * losses).sum() / count
        distance = (geometry[image, :, row, column] - wanted).abs().sum() / count
        return focal + BOX_WEIGHT * distance

    def _positives(
        self, targets: Tensor, outputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Image, class, row and column (M,) of each object's cell, and its geometry (M, 4)."""
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
        """Width and height of a cell in pixels."""
        _, height, width = self.dataset.input_shape
        sizes = [width / outputs.shape[3], height / outputs.shape[2]]
        return torch.tensor(sizes, device=outputs.device, dtype=outputs.dtype)

    def detections(self, outputs: Tensor) -> list[Detections]:
        """Objects in each image: cells that are the most probable among their neighbours."""
        logits, geometry = outputs.split((self.classes, 4), dim=1)
        chance = logits.sigmoid()
        is_peak = F.max_pool2d(chance, 3, stride=1, padding=1) == chance
        scores, places = (
            (chance * is_peak).flatten(1).topk(min(MOST_DETECTIONS, chance[0].numel()), dim=1)
        )
        cells = chance.shape[2] * chance.shape[3]
        class_, place = places // cells, places % cells
        column, row = place % chance.shape[3], place // chance.shape[3]
        own = geometry.flatten(2).gather(2, place[:, None].expand(-1, 4, -1)).transpose(1, 2)
        middle = torch.stack((column, row), dim=2) + 0.5
        cell = self._cell(outputs)
        centre = (middle + own[..., :2]) * cell
        half = own[..., 2:].clamp_max(LARGEST_LOG).exp() * cell / 2
        boxes = torch.cat((centre - half, centre + half), dim=2)
        arrays = (boxes.numpy().astype(np.float64), scores.numpy(), class_.numpy())
        return [Detections(*found) for found in zip(*arrays, strict=True)]

    def meter(self) -> Meter:
        return DetectionMeter(self)
