"""Random search with weight sharing, the control that every strategy is compared with
(Li & Talwalkar, "Random Search and Reproducibility for NAS", UAI 2019, arXiv 1902.07638)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome, SearchStrategy

MAX_DRAWS = 2000


class RandomStrategy(SearchStrategy):
    """Trains one random architecture a step; proposes random ones that keep the budget.

    Args:
        space: the search space.
        seed: of the draws.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.draws = 0

    def ask(self) -> Mixture:
        self.draws += 1
        return self.space.one_hot(self._draw(self.draws))

    def _draw(self, index: int) -> Architecture:
        return self.space.sample(np.random.default_rng([self.seed, index]))

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        """Nothing is learned: that is the point of a control."""

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """Uniform draws among the feasible; where these are rare, the nearest to random scores."""
        found: dict[Architecture, None] = {}
        for index in range(1, MAX_DRAWS + 1):
            architecture = self._draw(self.draws + index)
            if decoder.is_feasible(architecture):
                found[architecture] = None
            if len(found) == k:
                return list(found)
        rng = np.random.default_rng([self.seed, self.draws])
        return list(found) + decoder.best(rng.gumbel(size=self.space.mask.shape), k - len(found))

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = int(state["draws"])
