"""How latency enters the search's objective: one function an objective."""

from __future__ import annotations

from torch import Tensor


def dual(loss: Tensor, latency_ms: Tensor, budget_ms: float, multiplier: float) -> Tensor:
    """Lagrangian of `min loss subject to latency <= budget`.

    loss + multiplier (latency / budget - 1); the multiplier is moved by `updated_multiplier`.
    """
    return loss + multiplier * (latency_ms / budget_ms - 1)


def updated_multiplier(
    multiplier: float, latency_ms: float, budget_ms: float, rate: float
) -> float:
    """Projected dual ascent: up while over the budget, down while under it, never below zero."""
    return max(0.0, multiplier + rate * (latency_ms / budget_ms - 1))
