"""Costs and decoding of small spaces, against an enumeration of all architectures.

`chosen` is (architectures, choices), the option indices of every architecture; `latencies` is
(architectures,), the sum of its operators' latencies.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit


def assert_predicted(cost: CostModel, chosen: np.ndarray, latencies: np.ndarray) -> None:
    """Predicted latencies are those of the operators, and so is their range."""
    architectures = [cost.space.architecture(row) for row in chosen.tolist()]
    np.testing.assert_allclose(cost.predict(architectures)[0], latencies, rtol=1e-12)
    assert latency_range_ms(cost) == pytest.approx((latencies.min(), latencies.max()))


def assert_expected(cost: CostModel, chosen: np.ndarray, latencies: np.ndarray) -> None:
    """The cost of a mixture is the expectation over all architectures."""
    space = cost.space
    torch.manual_seed(0)
    weights = torch.rand(space.mask.shape, dtype=torch.float64) * space.mask
    odds = (weights / weights.sum(dim=1, keepdim=True)).numpy()
    of_choices = odds[np.arange(len(space.choices)), chosen]
    for row, options in enumerate(chosen.tolist()):
        of_choices[row, list(space.idle(options))] = 1
    probabilities = of_choices.prod(axis=1)
    assert probabilities.sum() == pytest.approx(1.0)
    assert cost(Mixture(weights)).item() == pytest.approx(float(probabilities @ latencies))


def assert_best(
    cost: CostModel, chosen: np.ndarray, k: int, seed: int, confidence: float | None
) -> None:
    """The decoder finds the k feasible architectures with the largest sums of scores.

    An even seed takes the costs of the table, an odd one random costs and covariances.
    """
    space, rng = cost.space, np.random.default_rng(seed)
    if seed % 2:
        size = len(cost.coefficients.mean)
        factors = rng.normal(scale=0.01, size=(4, size))
        cost = copy(cost)
        cost.coefficients = replace(
            cost.coefficients, mean=rng.uniform(size=size), covariance=factors.T @ factors
        )
    architectures = [space.architecture(row) for row in chosen.tolist()]
    limit = Limit(cost, confidence=confidence)
    bounds = np.array([limit.bound_ms(architecture) for architecture in architectures])
    limit = replace(limit, budget_ms=float(np.quantile(bounds, rng.uniform(0.05, 0.9))))
    scores = rng.normal(size=space.mask.shape)
    highest = np.where(space.mask, scores, -np.inf).max(axis=1)
    of_choices = scores[np.arange(len(space.choices)), chosen]
    for row, options in enumerate(chosen.tolist()):
        idle = list(space.idle(options))
        of_choices[row, idle] = highest[idle]
    totals = of_choices.sum(axis=1)
    feasible = [i for i, a in enumerate(architectures) if limit.is_kept(a)]
    best = sorted(feasible, key=lambda i: -totals[i])[:k]
    assert Decoder([limit]).best(scores, k=k) == [architectures[i] for i in best]
