"""Regularised evolution (Real et al., "Regularized Evolution for Image Classifier Architecture
Search", AAAI 2019, arXiv 1802.01548), and the same after single paths trained a supernet.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from pydantic import Field

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome, Settings
from hwnas.strategies.sampled import SampledStrategy


class EvolutionSettings(Settings):
    """The defaults are those of NAS-Bench-201's comparison."""

    population: int = Field(
        10, ge=2, le=10_000, description="number of architectures in the population"
    )
    tournament: int = Field(
        3, ge=1, le=10_000, description="number of members that compete to be the parent"
    )


class EvolutionStrategy(SampledStrategy):
    """A population as a queue: the best of a few drawn members has a child, the oldest dies."""

    name = "evolution"
    paper = (
        "Real et al., Regularized Evolution for Image Classifier Architecture Search, "
        "AAAI 2019, arXiv 1802.01548"
    )
    settings_model = EvolutionSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: EvolutionSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.tournament = settings.tournament
        self.population: deque[tuple[Architecture, float]] = deque(maxlen=settings.population)

    def propose(self, rng: np.random.Generator) -> Architecture:
        if len(self.population) < (self.population.maxlen or 0):
            return self.space.sample(rng)
        size = min(self.tournament, len(self.population))
        drawn = rng.choice(len(self.population), size=size, replace=False)
        parent, _ = min((self.population[i] for i in drawn), key=lambda member: member[1])
        return self.space.mutate(parent, rng)

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        self.population.append((architecture, outcome.objective))

    def ranked(self) -> list[Architecture]:
        """The records, or the living where evaluations do not last."""
        if self.records:
            return super().ranked()
        return [a for a, _ in sorted(self.population, key=lambda member: member[1])]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"population": self.space.to_rows(self.population)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.population.clear()
        self.population.extend(self.space.from_rows(state["population"]))


class SposSettings(EvolutionSettings):
    """With the share of the search that trains the supernet alone; the paper's population."""

    population: int = Field(
        50, ge=2, le=10_000, description="number of architectures in the population"
    )
    tournament: int = Field(
        10, ge=1, le=10_000, description="number of members that compete to be the parent"
    )
    train: float = Field(
        0.7, ge=0, lt=1, description="share of the search that trains uniformly drawn single paths"
    )


class SposStrategy(EvolutionStrategy):
    """Uniform single paths train the supernet; then evolution searches.

    Unlike in the paper the weights go on training, on what evolution proposes.
    """

    name = "spos"
    paper = (
        "Guo et al., Single Path One-Shot Neural Architecture Search with Uniform Sampling, "
        "ECCV 2020, arXiv 1904.00420"
    )
    settings_model = SposSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: SposSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.train = settings.train
        self.progress = 0.0

    def propose(self, rng: np.random.Generator) -> Architecture:
        return self.space.sample(rng) if self.progress < self.train else super().propose(rng)

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        self.progress = progress
        super().tell(mixture, outcome, progress)

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        if self.progress >= self.train:
            super().learn(architecture, outcome)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"progress": self.progress}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.progress = float(state["progress"])
