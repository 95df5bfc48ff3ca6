"""What a larger budget would change first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwnas.architecture import Architecture

BISECTIONS = 5
"""The budget of the first change is known to within 1 / 2**5 of the range that is searched."""


@dataclass(frozen=True)
class BudgetChange:
    """The first change of the best architecture as the budget grows.

    Attributes:
        factor: the budget at which it changes, divided by the present one; at most so much.
        before, after: the best architectures below and at that budget.
    """

    factor: float
    before: Architecture
    after: Architecture


def first_change(
    best: Callable[[float], Architecture], largest: float = 1.1
) -> BudgetChange | None:
    """Find the smallest growth of the budget that changes the best architecture.

    Args:
        best: maps a factor of the budget to the best architecture within it.
        largest: factor up to which is searched.

    Returns:
        The change, or None if the best architecture is the same at the largest factor.
    """
    before, after = best(1.0), best(largest)
    if after == before:
        return None
    low, high = 1.0, largest
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = best(middle)
        if found == before:
            low = middle
        else:
            high, after = middle, found
    return BudgetChange(high, before, after)
