"""The widest network of a hand-made family that keeps a budget."""

from __future__ import annotations

from collections.abc import Callable

from hwnas.controls.handmade import Family
from hwnas.spaces.networks import Network
from hwnas.spaces.options import SpaceOptions

FIRST, LAST = 8, 1024
"""The first number of steps of the width that is tried, and the largest."""


def widest_within(
    family: Family, options: SpaceOptions, keeps: Callable[[Network], bool]
) -> int | None:
    """Find the largest width of a family whose network keeps a budget.

    A width is doubled until the network no longer keeps the budget, then bisected; so a network of
    the found width was judged to keep it.

    Args:
        family: the family.
        options: inputs and head, those of a search space.
        keeps: judges a network in evaluation mode, usually by measuring it.

    Returns:
        The width, or None if the narrowest network exceeds the budget.

    Raises:
        InputError: for inputs that the family cannot read.
    """

    def fits(steps: int) -> bool:
        return keeps(family.build(options, steps * family.step).eval())

    low, high = 0, FIRST
    while high <= LAST and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * family.step or None
