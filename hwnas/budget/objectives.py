"""Search objectives that combine the loss with the latency constraint."""

from __future__ import annotations

from torch import Tensor


def dual(loss: Tensor, ratio: Tensor, multiplier: float) -> Tensor:
    """Return the Lagrangian of `min loss subject to latency / budget <= 1`.

    It is loss + multiplier (ratio - 1); `updated_multiplier` updates the multiplier.

    Args:
        loss: the loss of the task.
        ratio: expected latency / budget.
        multiplier: the Lagrange multiplier.
    """
    return loss + multiplier * (ratio - 1)


def updated_multiplier(multiplier: float, ratio: float, rate: float) -> float:
    """Return the Lagrange multiplier after a step of projected dual ascent.

    It rises while the latency exceeds the budget, falls while it does not, and is never negative.

    Args:
        multiplier: the multiplier before the step.
        ratio: expected latency / budget.
        rate: step size.
    """
    return max(0.0, multiplier + rate * (ratio - 1))
