"""Mean average precision of detections, as COCO counts it: Lin et al., "Microsoft COCO: Common
Objects in Context", ECCV 2014 (arXiv 1405.0312), with the rules of its evaluation server.

Boxes are (left, top, right, bottom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which a detection counts as right; the average is taken over all."""
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Detections:
    """What was found in an image: boxes (D, 4), scores (D,), classes (D,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Objects:
    """What is in an image: boxes (B, 4), classes (B,)."""

    boxes: np.ndarray
    classes: np.ndarray


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union (D, B) of boxes (D, 4) and (B, 4)."""
    corners = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(0, opposite - corners), axis=2)
    areas = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second))
    of_first, of_second = areas
    return common / np.maximum(of_first[:, None] + of_second[None] - common, 1e-12)


def average_precisions(
    found: Sequence[Detections], truth: Sequence[Objects], class_: int
) -> np.ndarray | None:
    """Average precision of a class at each of `THRESHOLDS`, or None if no image has it."""
    scores, right, total = [], [], 0
    for detections, objects in zip(found, truth, strict=True):
        own = detections.classes == class_
        order = np.argsort(-detections.scores[own], kind="stable")
        boxes = objects.boxes[objects.classes == class_]
        total += len(boxes)
        shared = overlaps(detections.boxes[own][order], boxes)
        right.append(np.stack([_matched(shared, threshold) for threshold in THRESHOLDS]))
        scores.append(detections.scores[own][order])
    if not total:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right, axis=1)[:, order]
    return np.array([_average_precision(row, total) for row in hits])


def _matched(shared: np.ndarray, threshold: float) -> np.ndarray:
    """(D,) bool: which detections are right; each takes the free object that it covers best."""
    free = np.ones(shared.shape[1], bool)
    right = np.zeros(len(shared), bool)
    for index, row in enumerate(shared):
        candidates = np.where(free, row, -1)
        if len(candidates) and candidates.max() >= threshold:
            # Of equally good ones the last, as in COCO's own code.
            best = len(row) - 1 - int(np.argmax(candidates[::-1]))
            right[index], free[best] = True, False
    return right


def _average_precision(right: np.ndarray, total: int) -> float:
    """Mean over `RECALLS` of the best precision at that recall or a higher one."""
    hits = np.cumsum(right)
    recall = hits / total
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(best, 0.0)[np.minimum(places, len(best))].mean())
