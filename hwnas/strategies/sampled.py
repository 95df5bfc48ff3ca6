"""The base class of strategies that propose single architectures instead of soft mixtures."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome, SearchStrategy, Settings

MAX_DRAWS = 100
"""Number of proposals after which architectures are decoded from random scores instead."""
RECENT = 50
"""Number of latest proposals from which the strategy's probabilities are estimated."""


class SampledStrategy(SearchStrategy):
    """Proposes architectures that keep the budgets; a subclass defines `propose` and `learn`.

    Attributes:
        records: (architecture, objective) of all lasting outcomes, in order.
        suggested: architectures to propose first, in order.
        draws: number of random generators used so far; each is seeded by its number.
        recent: the latest proposals.
    """

    def __init__(self, space: SearchSpace, seed: int, settings: Settings, decoder: Decoder) -> None:
        super().__init__(space, seed, settings, decoder)
        self.records: list[tuple[Architecture, float]] = []
        self.suggested: list[Architecture] = []
        self.draws = 0
        self.recent: deque[Architecture] = deque(maxlen=RECENT)

    def skip(self, architecture: Architecture) -> None:
        """Do not propose a suggested architecture, since another process evaluates it."""
        if architecture in self.suggested:
            self.suggested.remove(architecture)

    @abstractmethod
    def propose(self, rng: np.random.Generator) -> Architecture:
        """A new architecture, which need not keep the budgets."""

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        """Learn from an outcome; by default nothing is learned beyond the records."""

    def ranked(self) -> list[Architecture]:
        """Architectures from best to worst, by default the records by their objective."""
        ordered = sorted(self.records, key=lambda record: record[1])
        return list(dict.fromkeys(architecture for architecture, _ in ordered))

    def ask(self) -> Mixture:
        if self.suggested:
            return self.space.one_hot(self.suggested[0])
        architecture = self.draw_feasible(self._generator(), self.propose)
        self.recent.append(architecture)
        return self.space.one_hot(architecture)

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        architecture = self.space.most_likely(mixture)
        if architecture in self.suggested:
            self.suggested.remove(architecture)
        if outcome.lasting:
            self.records.append((architecture, outcome.objective))
        self.learn(architecture, outcome)

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """The best feasible architectures so far, filled up with new proposals."""
        found: dict[Architecture, None] = {}
        for architecture in self.ranked():
            if len(found) == k:
                break
            if decoder.is_feasible(architecture):
                found[architecture] = None
        rng = np.random.default_rng([self.seed, self.draws, k])
        for _ in range(MAX_DRAWS):
            if len(found) == k:
                break
            architecture = self.propose(rng)
            if architecture not in found and decoder.is_feasible(architecture):
                found[architecture] = None
        if len(found) < k:
            random = decoder.best(rng.gumbel(size=self.space.mask.shape), k)
            found.update(dict.fromkeys(random))
        return list(found)[:k]

    def _generator(self) -> np.random.Generator:
        self.draws += 1
        return np.random.default_rng([self.seed, self.draws])

    def draw_feasible(
        self, rng: np.random.Generator, draw: Callable[[np.random.Generator], Architecture]
    ) -> Architecture:
        """Draw until an architecture keeps the budgets.

        If none of `MAX_DRAWS` does, one is decoded from random scores.
        """
        for _ in range(MAX_DRAWS):
            architecture = draw(rng)
            if self.decoder.is_feasible(architecture):
                return architecture
        return self.decoder.best(rng.gumbel(size=self.space.mask.shape))[0]

    def probabilities(self) -> Tensor | None:
        """The relative frequency of each option among the latest proposals."""
        return self.space.one_hots(self.recent).mean(dim=0) if self.recent else None

    def state_dict(self) -> dict[str, Any]:
        return {
            "draws": self.draws,
            "records": self.space.to_rows(self.records),
            "suggested": [self.space.chosen(architecture) for architecture in self.suggested],
            "recent": [self.space.chosen(architecture) for architecture in self.recent],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = int(state["draws"])
        self.suggested = [self.space.architecture(list(row)) for row in state["suggested"]]
        self.records = self.space.from_rows(state["records"])
        self.recent.clear()
        self.recent.extend(
            self.space.architecture([int(option) for option in chosen])
            for chosen in state["recent"]
        )
