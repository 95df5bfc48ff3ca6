"""Average precision of object detections as defined by COCO.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014 (arXiv 1405.0312), and
the matching rules of its evaluation code. Boxes are (left, top, right, bottom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.inference.boxes import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Minimum intersection over union with an object for a detection to be correct."""
RECALLS = np.linspace(0, 1, 101)
"""Recalls at which the precision is averaged."""


@dataclass(frozen=True)
class Objects:
    """Ground truth of an image: boxes (B, 4), classes (B,)."""

    boxes: np.ndarray
    classes: np.ndarray


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union (D, B) of boxes (D, 4) and (B, 4)."""
    corners = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(0, opposite - corners), axis=2)
    areas = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second))
    of_first, of_second = areas
    union = of_first[:, None] + of_second[None] - common
    iou: np.ndarray = common / np.maximum(union, 1e-12)
    return iou


def average_precisions(
    found: Sequence[Detections], truth: Sequence[Objects], class_: int
) -> np.ndarray | None:
    """Return the average precision of a class at each of `THRESHOLDS`.

    Args:
        found: the detections in each image.
        truth: the objects in each image.
        class_: index of the class.

    Returns:
        (thresholds,) in 0..1, or None if no image has an object of the class.
    """
    scores, correct, total = [], [], 0
    for detections, objects in zip(found, truth, strict=True):
        own = detections.classes == class_
        order = np.argsort(-detections.scores[own], kind="stable")
        boxes = objects.boxes[objects.classes == class_]
        total += len(boxes)
        iou = box_iou(detections.boxes[own][order], boxes)
        correct.append(np.stack([_matched(iou, threshold) for threshold in THRESHOLDS]))
        scores.append(detections.scores[own][order])
    if not total:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    by_score = np.concatenate(correct, axis=1)[:, order]
    return np.array([_average_precision(row, total) for row in by_score])


def _matched(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Match detections to objects and return which detections are correct, (D,) bool.

    Each detection is matched to the unmatched object with the highest intersection over union.

    Args:
        iou: (D, B), the detections in descending order of their scores.
        threshold: minimum intersection over union of a match.
    """
    unmatched = np.ones(iou.shape[1], bool)
    correct = np.zeros(len(iou), bool)
    for index, row in enumerate(iou):
        candidates = np.where(unmatched, row, -1)
        if len(candidates) and candidates.max() >= threshold:
            # Ties go to the last object, as in COCO's evaluation code.
            best = len(row) - 1 - int(np.argmax(candidates[::-1]))
            correct[index], unmatched[best] = True, False
    return correct


def _average_precision(correct: np.ndarray, total: int) -> float:
    """Return the mean over `RECALLS` of the highest precision at that or a higher recall.

    Args:
        correct: (D,) bool, the detections in descending order of their scores.
        total: number of objects.
    """
    hits = np.cumsum(correct)
    recall = hits / total
    precision = hits / np.arange(1, len(correct) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(best, 0.0)[np.minimum(places, len(best))].mean())
