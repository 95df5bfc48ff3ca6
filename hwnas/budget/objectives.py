"""How latency enters the search's objective: one function an objective."""

from __future__ import annotations

from torch import Tensor


def dual(loss: Tensor, ratio: Tensor, multiplier: float) -> Tensor:
    """Lagrangian of `min loss subject to latency / budget <= 1`.

    loss + multiplier (ratio - 1); the multiplier is moved by `updated_multiplier`.
    """
    return loss + multiplier * (ratio - 1)


def updated_multiplier(multiplier: float, ratio: float, rate: float) -> float:
    """Projected dual ascent: up while over the budget, down while under it, never below zero."""
    return max(0.0, multiplier + rate * (ratio - 1))
