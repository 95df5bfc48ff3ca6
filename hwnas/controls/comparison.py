"""Differences of accuracy between networks that were tested on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.tasks.proportions import Z_95


@dataclass(frozen=True)
class Difference:
    """A difference of two scores, 0 to 1, with the ends of its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


def paired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """How much more often the first network is right than the second, on the same samples.

    The interval is that of the mean of the paired differences. It says how far the difference could
    be off on other samples of the same kind, and does not include the variation between trainings.

    Args:
        first: (n,) for each sample whether the network is right; or its share of right answers
            among several networks.
        second: (n,) the same of the other network.
    """
    differences = first.astype(float) - second.astype(float)
    value = float(differences.mean())
    reach = Z_95 * float(differences.std()) / math.sqrt(len(differences))
    return Difference(value, value - reach, value + reach)


def best_of(right: Sequence[np.ndarray], count: int) -> float:
    """The expected accuracy of the best of some of the networks.

    The best one is picked by one half of the samples and scored on the other, and the other way
    round, so that picking does not flatter it.

    Args:
        right: for each network (n,) whether it is right on each sample, in random order.
        count: number of networks, drawn at random, of which the best is picked; at most all.

    Returns:
        The accuracy, 0 to 1.
    """
    answers = np.stack(right).astype(float)
    networks, count = len(answers), min(count, len(answers))
    # The probability that the network of rank i is the best of those drawn.
    chances = [
        math.comb(networks - 1 - rank, count - 1) / math.comb(networks, count)
        for rank in range(networks)
    ]
    scores = []
    for picked_by in (0, 1):
        ranks = np.argsort(-answers[:, picked_by::2].mean(axis=1), kind="stable")
        scored = answers[ranks, 1 - picked_by :: 2].mean(axis=1)
        scores.append(float(np.dot(chances, scored)))
    return float(np.mean(scores))
