"""The largest networks within the budget: the control that a search has to beat."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Settings
from hwnas.strategies.sampled import SampledStrategy
from hwnas.strategies.size_prior import By, largest_networks

MOST = 100
"""Number of networks that are decoded in order of size; large random ones are proposed after."""


class LargestSettings(Settings):
    """How size is counted."""

    by: By = Field(
        "both", description="what is to be large: the parameters, the MACs, or both in turn"
    )


class LargestStrategy(SampledStrategy):
    """Proposes the largest networks that keep the budget, the largest first.

    With evaluations of lasting validity (short trainings, a table) the most accurate of them is
    chosen, and otherwise the largest.
    """

    name = "largest"
    paper = "No paper: a control, the largest networks that keep the budget, by exact decoding"
    settings_model = LargestSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: LargestSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.starts, self.by = MOST, settings.by

    def propose(self, rng: np.random.Generator) -> Architecture:
        return self.draw_large(rng)

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """The best records within the budgets, followed by the largest other networks."""
        found = [a for a in self.ranked() if decoder.is_feasible(a)][:k]
        exact = largest_networks(self.space, decoder, self.by)
        if len(found) < k:
            found += [a for a in [next(exact)] if a not in found]
        if len(found) < k:
            others = largest_networks(self.space, decoder, self.by, self.seed)
            found += [a for a, _ in zip(others, range(2 * k), strict=False) if a not in found]
        return found[:k]
