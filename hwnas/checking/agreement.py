"""How many samples two models give the same class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RELATIVE_TOLERANCE, SCALED_TOLERANCE = 1e-3, 1e-4
"""Tolerances of a single value relative to itself, and to the largest value of its output."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of one output of two models.

    Attributes:
        share: share of samples with the same class, or of equal values for outputs of integers,
            truth values or texts. Classes whose scores are tied count as the same.
        is_map: whether an output has several classes for each sample, as a map of classes of an
            image has. The scores that they were chosen by are not known then, so that ties cannot
            be told from errors.
    """

    share: float
    is_map: bool


def agreement_of(
    outputs: Sequence[tuple[np.ndarray, np.ndarray]], least_sqnr_db: float, unmatched: int = 0
) -> Agreement | None:
    """Compare the classes in one output of two models.

    Args:
        outputs: arrays of the reference and of the model, with equal shapes.
        least_sqnr_db: signal-to-noise ratio in dB that the model's number format allows. Scores of
            the reference that differ by less than such noise are tied.
        unmatched: number of values that only one of the models has, none of which agrees.

    Returns:
        None for an output without classes or without values.
    """
    # Two scores have errors, so that their difference has sqrt(2) times the deviation of one.
    noise = math.sqrt(2) * 10 ** (-least_sqnr_db / 20)
    same = [found for a, b in outputs if (found := _is_same_class(a, b, noise)) is not None]
    if not same and (outputs or not unmatched):
        return None
    total = sum(found.size for found in same) + unmatched
    if not total:
        return None
    is_map = any(a.dtype.kind != "f" and a.size > len(a) for a, _ in outputs if a.ndim > 1)
    return Agreement(sum(int(found.sum()) for found in same) / total, is_map)


def classes_of(output: np.ndarray) -> np.ndarray | None:
    """The class of each sample: the largest of K >= 2 scores (N, K), or an integer or string.

    Returns:
        Classes, or None for floating-point outputs of another shape.
    """
    if output.dtype.kind != "f":
        return output
    return output.argmax(axis=1) if output.ndim == 2 and output.shape[1] > 1 else None


def _is_same_class(a: np.ndarray, b: np.ndarray, noise: float) -> np.ndarray | None:
    """Whether each class is the same in the reference and in the model, or tied.

    Args:
        a: output of the reference.
        b: output of the model.
        noise: allowed standard deviation of the error of a difference between two scores,
            relative to the standard deviation of the scores.
    """
    classes, others = classes_of(a), classes_of(b)
    if classes is None or others is None:
        return None
    same = np.asarray(classes == others).ravel()
    if a.dtype.kind != "f" or same.all():
        return same
    scores = a.astype(np.float64)
    rows = np.arange(len(scores))
    best, other = scores[rows, classes], scores[rows, others]
    finite = scores[np.isfinite(scores)]
    scale = np.abs(finite).max(initial=0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        allowed = RELATIVE_TOLERANCE * np.abs(best) + SCALED_TOLERANCE * scale
        if finite.size and scale:
            allowed = np.maximum(allowed, noise * scale * np.std(finite / scale))
        is_tied = best - other <= allowed
    # A model whose scores are not finite has chosen no class.
    return np.asarray(same | (is_tied & np.isfinite(b).all(axis=1)))
