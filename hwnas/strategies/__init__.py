"""Search strategies by name."""

from __future__ import annotations

from collections.abc import Callable

from hwnas.config import SearchConfig
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Outcome, SearchStrategy
from hwnas.strategies.differentiable import DartsStrategy
from hwnas.strategies.random_search import RandomStrategy


def _darts(space: SearchSpace, seed: int, config: SearchConfig) -> SearchStrategy:
    return DartsStrategy(
        space,
        seed,
        learning_rate=config.alpha_learning_rate,
        weight_decay=config.alpha_weight_decay,
        beta_decay=config.beta_decay,
    )


def _random(space: SearchSpace, seed: int, config: SearchConfig) -> SearchStrategy:
    return RandomStrategy(space, seed)


STRATEGIES: dict[str, Callable[[SearchSpace, int, SearchConfig], SearchStrategy]] = {
    "darts": _darts,
    "random": _random,
}

__all__ = ["STRATEGIES", "Outcome", "SearchStrategy"]
