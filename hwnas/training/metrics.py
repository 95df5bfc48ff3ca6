"""Classification metrics from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts (true class, predicted class) from integer arrays (N,)."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def classification_metrics(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, and precision, recall and F1 a class and as unweighted means over classes.

    A ratio without cases (a class never predicted, say) counts as 0.

    Args:
        confusion: (classes, classes), rows are true classes.
        names: of the classes.
    """
    hits = np.diag(confusion).astype(float)
    precision = _ratio(hits, confusion.sum(axis=0))
    recall = _ratio(hits, confusion.sum(axis=1))
    f1 = _ratio(2 * precision * recall, precision + recall)
    per_class = [
        {
            "class": name,
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "n": int(confusion[i].sum()),
        }
        for i, name in enumerate(names)
    ]
    return {
        "accuracy": float(hits.sum() / max(confusion.sum(), 1)),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "per_class": per_class,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(
        numerator, denominator, out=np.zeros_like(numerator, dtype=float), where=denominator > 0
    )
