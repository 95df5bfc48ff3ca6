"""A latency budget on one device; a search may have to keep several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.coefficients import architecture_features
from hwnas.budget.cost import CostModel
from hwnas.budget.gate import TOLERANCE


@dataclass(frozen=True)
class Limit:
    """`latency <= budget_ms` on the device of a cost model.

    Attributes:
        cost: predicts latencies.
        budget_ms: what is not to be exceeded.
        confidence: probability with which the budget is to be kept; None compares the expected
            latency alone.
    """

    cost: CostModel
    budget_ms: float = np.inf
    confidence: float | None = None

    @property
    def deviations(self) -> float:
        """How many standard deviations stand between the expected latency and the budget."""
        return 0.0 if self.confidence is None else NormalDist().inv_cdf(self.confidence)

    def ratio(self, mixture: Mixture) -> Tensor:
        """Expected latency over budget, differentiable."""
        return self.cost(mixture) / self.budget_ms

    def bound_ms(self, architecture: Architecture) -> float:
        """Latency that is compared with the budget: expected, plus the confidence's margin."""
        expected_ms, std_ms = self.cost.predict([architecture])
        return float(expected_ms[0] + self.deviations * std_ms[0])

    def is_kept(self, architecture: Architecture) -> bool:
        """Whether the architecture is predicted to keep the budget."""
        return self.bound_ms(architecture) <= self.budget_ms * (1 + TOLERANCE)

    def probability(self, architecture: Architecture) -> float:
        """Predicted probability that the architecture keeps the budget."""
        expected_ms, std_ms = self.cost.predict([architecture])
        distance_ms = self.budget_ms - float(expected_ms[0])
        return NormalDist().cdf(distance_ms / max(float(std_ms[0]), 1e-12))

    def with_cost(self, cost: CostModel) -> Limit:
        """The same budget under a corrected cost model."""
        return replace(self, cost=cost)

    def margin(self, architecture: Architecture) -> tuple[np.ndarray, float]:
        """The margin's gradient by the coefficients' features, and its value there, in ms.

        The standard deviation is convex in the features, so its tangent at any architecture is a
        lower bound everywhere.
        """
        row = architecture_features(self.cost.space, [architecture], self.cost.edges)
        known = self.cost.coefficients
        std_ms = float(known.std_ms(row)[0])
        slope = known.covariance @ row[0] + known.noise**2 * (row[0] @ known.mean) * known.mean
        gradient = self.deviations * slope / max(std_ms, 1e-12)
        return gradient, self.deviations * std_ms - float(gradient @ row[0])


def largest_ratio(limits: Sequence[Limit], mixture: Mixture) -> Tensor:
    """The largest of the devices' ratios of expected latency to budget."""
    return torch.stack([limit.ratio(mixture) for limit in limits]).max()
