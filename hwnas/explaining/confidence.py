"""Whether a classifier's probabilities can be taken at their word.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv 1706.04599): samples are
sorted into bins by the probability of their predicted class. A calibrated network is right as often
as it says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.tasks.proportions import wilson_interval

BINS = 15
"""Bins of equal width between 0 and 1, as in the paper."""
DRAWS = 200
"""Simulated test sets of a perfectly calibrated network."""


@dataclass(frozen=True)
class Bin:
    """The samples whose confidence lies in one bin.

    Attributes:
        samples: their number, at least 1.
        confidence: their mean confidence.
        accuracy: the share that was predicted correctly.
        low, high: 95 % confidence interval of the accuracy (Wilson).
    """

    samples: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy differ.

    Attributes:
        bins: the bins that have samples, by ascending confidence.
        expected_error: expected calibration error, the mean distance between confidence and
            accuracy of the bins, weighted by their samples; 0 to 1.
        by_chance: the same error of a perfectly calibrated network on as many samples, the mean and
            the 95th percentile. It is not 0, since the accuracy of few samples varies.
        overconfidence: mean confidence minus accuracy; negative if the network is too cautious.
    """

    bins: tuple[Bin, ...]
    expected_error: float
    by_chance: tuple[float, float]
    overconfidence: float


def calibration(confidence: np.ndarray, is_right: np.ndarray, seed: int = 0) -> Calibration:
    """Compare the confidence of predictions with their accuracy.

    Args:
        confidence: (N,), the probability of the predicted class, 0 to 1.
        is_right: (N,), whether the prediction was correct.
        seed: of the simulated networks.
    """
    confidence = confidence.astype(np.float64)
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, weights=confidence, minlength=BINS)
    right = np.bincount(places, weights=is_right.astype(np.float64), minlength=BINS)
    bins = []
    for samples, total, correct in zip(counts.tolist(), sums, right, strict=True):
        if samples:
            share = float(correct / samples)
            low, high = wilson_interval(share, samples)
            bins.append(Bin(samples, float(total / samples), share, low, high))
    rng = np.random.default_rng(seed)
    draws = rng.random((DRAWS, len(confidence))) < confidence
    simulated = [np.abs(sums - np.bincount(places, weights=d, minlength=BINS)).sum() for d in draws]
    chance = np.array(simulated) / len(confidence)
    return Calibration(
        tuple(bins),
        float(np.abs(sums - right).sum() / len(confidence)),
        (float(chance.mean()), float(np.quantile(chance, 0.95))),
        float(confidence.mean() - is_right.mean()),
    )
