"""Regularised evolution, alone or after the training of a single-path supernet.

Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019 (arXiv
1802.01548), and Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform
Sampling", ECCV 2020 (arXiv 1904.00420).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from pydantic import Field

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome
from hwnas.strategies.sampled import SampledSettings, SampledStrategy
from hwnas.strategies.size_prior import MUTANTS


class EvolutionSettings(SampledSettings):
    """Sizes of population and tournament; the defaults are those used for NAS-Bench-201."""

    population: int = Field(
        10, ge=2, le=10_000, description="number of architectures in the population"
    )
    tournament: int = Field(
        3, ge=1, le=10_000, description="number of members that compete to be the parent"
    )
    crossover: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the proposals that take each choice from one of two parents; the "
        "others are mutants of one",
    )


class EvolutionStrategy(SampledStrategy):
    """The best of a few random members of the population is mutated, and the oldest is removed.

    Children of two such members may be proposed in place of mutants, as in Guo et al. (ECCV 2020).
    """

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
        self.tournament, self.crossover = settings.tournament, settings.crossover
        self.population: deque[tuple[Architecture, float]] = deque(maxlen=settings.population)

    def propose(self, rng: np.random.Generator) -> Architecture:
        if len(self.population) < (self.population.maxlen or 0):
            return self.draw_large(rng)
        parent = self._parent(rng)
        crossed = self.crossover and rng.random() < self.crossover
        other = self._parent(rng) if crossed else None
        return self.draw_large(rng, lambda rng: self._child(parent, other, rng), MUTANTS)

    def _child(
        self, parent: Architecture, other: Architecture | None, rng: np.random.Generator
    ) -> Architecture:
        """A mutant of the parent, or a child of both that is neither of them."""
        if other is None:
            return self.space.mutate(parent, rng)
        child = self.space.cross(parent, other, rng)
        return self.space.mutate(child, rng) if child in (parent, other) else child

    def _parent(self, rng: np.random.Generator) -> Architecture:
        """The best of a few random members."""
        size = min(self.tournament, len(self.population))
        drawn = rng.choice(len(self.population), size=size, replace=False)
        parent, _ = min((self.population[i] for i in drawn), key=lambda member: member[1])
        return parent

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        self.population.append((architecture, outcome.objective))

    def ranked(self) -> list[Architecture]:
        """The records, or the population if outcomes are not lasting, by their objective."""
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
    """The paper's sizes, and the share of the search in which only the supernet is trained."""

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
    """Train the supernet on uniformly drawn single paths, then search it by evolution.

    Unlike in the paper, the supernet continues to be trained on the architectures that evolution
    proposes.
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

    @property
    def takes_suggestions(self) -> bool:
        """Only evolution does, since the supernet is trained on uniformly drawn paths."""
        return self.progress >= self.train

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
