"""Boxes of objects from the maps that a detection model puts out; `hwnas.tasks.detection`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_DETECTIONS = 100
"""Largest number of detections per image, as in the COCO evaluation."""
MAX_LOG_SIZE = 6.0
"""Upper bound of a predicted log width or height; without it, untrained boxes can be infinite."""


class Detections(NamedTuple):
    """The objects that were detected in one image, the most probable first.

    Attributes:
        boxes: left, top, right and bottom in pixels, (M, 4) float64.
        scores: probability of each, (M,) float32.
        classes: class of each, (M,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def decode_boxes(maps: np.ndarray, size: tuple[int, int]) -> list[Detections]:
    """The boxes in a model's outputs.

    A cell is a detection of a class if no neighbouring cell has a higher probability of it.

    Args:
        maps: (N, K + 4, h, w): for each cell the logits of K classes, the offset of the object's
            centre from the middle of the cell along x and y, and the logarithms of its width and
            height; the unit of length is the cell.
        size: height and width of the image in pixels.

    Returns:
        The boxes of each image.
    """
    logits, geometry = maps[:, :-4], maps[:, -4:].astype(np.float64)
    probability = sigmoid(logits)
    height, width = maps.shape[2:]
    padded = np.pad(probability, ((0, 0), (0, 0), (1, 1), (1, 1)))
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    peaks = np.where(around.max(axis=(4, 5)) == probability, probability, 0)
    flat = peaks.reshape(len(maps), -1)
    cell = np.array([size[1] / width, size[0] / height])
    found = []
    for scores, places in zip(flat, geometry, strict=True):
        best = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
        classes, place = np.divmod(best, height * width)
        row, column = np.divmod(place, width)
        own = places[:, row, column].T
        centre = (np.stack((column, row), axis=1) + 0.5 + own[:, :2]) * cell
        half = np.exp(np.minimum(own[:, 2:], MAX_LOG_SIZE)) * cell / 2
        boxes = np.concatenate((centre - half, centre + half), axis=1)
        found.append(Detections(boxes, scores[best], classes))
    return found


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, without overflow."""
    small = np.exp(-np.abs(logits))
    probabilities: np.ndarray = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities
