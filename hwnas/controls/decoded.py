"""The networks that a search has to beat: the largest ones within the budget, and random ones.

They are exact, need no training and exist for every space and every budget. As strategies with the
same interface as all others they are `largest` and `random`, so that a benchmark compares them in
the same loop.
"""

from __future__ import annotations

import numpy as np

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Settings
from hwnas.strategies.random_search import RandomStrategy
from hwnas.strategies.size_prior import By, largest_networks


def most_parameters(space: SearchSpace, decoder: Decoder) -> Architecture:
    """Return the architecture with the most parameters of those within the budgets.

    Raises:
        InputError: when no architecture keeps the budgets.
    """
    return _largest(space, decoder, "parameters")


def most_macs(space: SearchSpace, decoder: Decoder) -> Architecture:
    """Return the architecture with the most multiply-accumulates of those within the budgets.

    Raises:
        InputError: when no architecture keeps the budgets.
    """
    return _largest(space, decoder, "macs")


def random_architectures(
    space: SearchSpace, decoder: Decoder, count: int, seed: int
) -> list[Architecture]:
    """Return random architectures within the budgets, which may repeat.

    They are drawn uniformly and kept if they are within the budgets. Where such architectures are
    too rare to be drawn, they are decoded from random scores.

    Args:
        space: the search space.
        decoder: knows the budgets.
        count: number of architectures.
        seed: of the draws.

    Raises:
        InputError: when no architecture keeps the budgets.
    """
    strategy = RandomStrategy(space, seed, Settings(), decoder)
    return [space.most_likely(strategy.ask()) for _ in range(count)]


def _largest(space: SearchSpace, decoder: Decoder, by: By) -> Architecture:
    found = next(largest_networks(space, decoder, by), None)
    # An exact decoder says in its error which budgets are possible.
    return decoder.best(np.zeros(space.mask.shape))[0] if found is None else found
