"""The budgets of one device; a search can have such a limit for each of several devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.coefficients import architecture_features
from hwnas.budget.cost import CostModel
from hwnas.budget.gate import TOLERANCE
from hwnas.budget.sizes import SizeLimits


@dataclass(frozen=True)
class Limit:
    """The constraint `latency <= budget_ms` on the device of a cost model, and its exact sizes.

    Attributes:
        cost: predicts latencies on the device.
        budget_ms: largest allowed latency.
        confidence: probability with which the budget has to be kept; with None, the expected
            latency is compared with the budget.
        sizes: exact limits of memory and work on the same device, if it has any.
    """

    cost: CostModel
    budget_ms: float = np.inf
    confidence: float | None = None
    sizes: SizeLimits | None = None

    @property
    def deviations(self) -> float:
        """Margin between expected latency and budget, in standard deviations."""
        return 0.0 if self.confidence is None else NormalDist().inv_cdf(self.confidence)

    def ratio(self, mixture: Mixture) -> Tensor:
        """Return expected latency / budget of a mixture, differentiable."""
        return self.cost(mixture) / self.budget_ms

    def describe_step(self, record: dict[str, Any]) -> str:
        """Return a short text about the record of a search step, with its expected latency."""
        text = f"loss {record['loss']:.3f}"
        if "latency_ms" not in record:
            return text
        return f"{text}, expected {record['latency_ms']:.3g} of {self.budget_ms:.3g} ms"

    def bound_ms(self, architecture: Architecture) -> float:
        """Return the expected latency plus the margin, which is compared with the budget."""
        expected_ms, std_ms = self.cost.predict([architecture])
        return float(expected_ms[0] + self.deviations * std_ms[0])

    def is_kept(self, architecture: Architecture) -> bool:
        """Return whether the architecture is predicted to keep the budget, and keeps the sizes."""
        return self.fits(architecture) and self.is_fast_enough(architecture)

    def fits(self, architecture: Architecture) -> bool:
        """Return whether the architecture keeps the limits of memory and work."""
        return self.sizes is None or self.sizes.is_kept(self.cost.space.chosen(architecture))

    def is_fast_enough(self, architecture: Architecture) -> bool:
        """Return whether the architecture is predicted to keep the latency budget."""
        return self.bound_ms(architecture) <= self.budget_ms * (1 + TOLERANCE)

    def probability(self, architecture: Architecture) -> float:
        """Return the predicted probability that the architecture keeps the budget."""
        expected_ms, std_ms = self.cost.predict([architecture])
        distance_ms = self.budget_ms - float(expected_ms[0])
        return NormalDist().cdf(distance_ms / max(float(std_ms[0]), 1e-12))

    def with_cost(self, cost: CostModel) -> Limit:
        """Return the same budget with another cost model."""
        return replace(self, cost=cost)

    def margin(self, architecture: Architecture) -> tuple[np.ndarray, float]:
        """Linearise the margin in the features at an architecture.

        The standard deviation is convex in the features, so its tangent at any architecture is a
        lower bound everywhere.

        Returns:
            Gradient (coefficients,) and constant in ms of the tangent
            `gradient @ features + constant`.
        """
        row = architecture_features(self.cost.space, [architecture], self.cost.edges)
        known = self.cost.coefficients
        std_ms = float(known.std_ms(row)[0])
        slope = known.covariance @ row[0] + known.noise**2 * (row[0] @ known.mean) * known.mean
        gradient = self.deviations * slope / max(std_ms, 1e-12)
        return gradient, self.deviations * std_ms - float(gradient @ row[0])


def largest_ratio(limits: Sequence[Limit], mixture: Mixture) -> Tensor:
    """Return the largest ratio of expected latency to budget over all devices."""
    return torch.stack([limit.ratio(mixture) for limit in limits]).max()
