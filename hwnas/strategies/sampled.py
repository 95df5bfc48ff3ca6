"""The base class of strategies that propose single architectures instead of soft mixtures."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Experience, Outcome, SearchStrategy, Settings
from hwnas.strategies.size_prior import DRAWS, START, By, largest_networks, largest_of

MAX_DRAWS = 100
"""Number of proposals after which architectures are decoded from random scores instead."""
RECENT = 50
"""Number of latest proposals from which the strategy's probabilities are estimated."""


class SampledSettings(Settings):
    """What strategies of single architectures have in common."""

    size_prior: bool = Field(
        True,
        description="propose the largest networks within the budget first, and prefer large ones "
        "among later proposals",
    )


class SampledStrategy(SearchStrategy):
    """Proposes architectures that keep the budgets; a subclass defines `propose` and `learn`.

    Attributes:
        taken: number of architectures that are proposed first from what earlier searches predict.
        starts: number of the largest networks within the budget that are proposed first.
        by: how their size is counted.
        started: number of them that were proposed so far.
        records: (architecture, objective) of all lasting outcomes, in order.
        suggested: architectures to propose first, in order.
        draws: number of random generators used so far; each is seeded by its number.
        recent: the latest proposals.
    """

    taken: ClassVar[int] = 10

    def __init__(self, space: SearchSpace, seed: int, settings: Settings, decoder: Decoder) -> None:
        super().__init__(space, seed, settings, decoder)
        self.size_prior = isinstance(settings, SampledSettings) and settings.size_prior
        self.starts, self.started = START if self.size_prior else 0, 0
        self.by: By = "both"
        self._largest: Iterator[Architecture] | None = None
        self.records: list[tuple[Architecture, float]] = []
        self.suggested: list[Architecture] = []
        self.draws = 0
        self.recent: deque[Architecture] = deque(maxlen=RECENT)

    def begin_from(self, experience: Experience) -> None:
        """Propose the best of what earlier searches predict first, in place of as many others."""
        rng = np.random.default_rng([self.seed, self.taken])
        self.suggested = experience.start(self.decoder, self.taken, rng)
        self.starts = max(0, self.starts - len(self.suggested))

    def skip(self, architecture: Architecture) -> None:
        """Do not propose a suggested architecture, since another process evaluates it."""
        if architecture in self.suggested:
            self.suggested.remove(architecture)

    @property
    def takes_suggestions(self) -> bool:
        """Whether the next proposal may be a suggested architecture or one of the largest."""
        return True

    @abstractmethod
    def propose(self, rng: np.random.Generator) -> Architecture:
        """A new architecture, which need not keep the budgets."""

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        """Learn from an outcome; by default nothing is learned beyond the records."""

    def learn_suggestion(self, architecture: Architecture, outcome: Outcome) -> None:
        """Learn from the outcome of a suggested architecture, by default as from any other."""
        self.learn(architecture, outcome)

    def ranked(self) -> list[Architecture]:
        """Architectures from best to worst, by default the records by their objective."""
        ordered = sorted(self.records, key=lambda record: record[1])
        return list(dict.fromkeys(architecture for architecture, _ in ordered))

    def ask(self) -> Mixture:
        architecture = self.suggestion() if self.takes_suggestions else None
        if architecture is None:
            architecture = self.proposal()
        self.recent.append(architecture)
        return self.space.one_hot(architecture)

    def suggestion(self) -> Architecture | None:
        """The next suggested architecture or, after those, the next of the largest."""
        if not self.suggested and self.started < self.starts:
            if self._largest is None:
                ranking = largest_networks(self.space, self.decoder, self.by, self.seed)
                self._largest = islice(ranking, self.started, self.starts)
            self.suggested = list(islice(self._largest, 1))
            self.started = self.started + 1 if self.suggested else self.starts
        return self.suggested[0] if self.suggested else None

    def proposal(self) -> Architecture:
        """A new architecture within the budgets."""
        return self.draw_feasible(self._generator(), self.propose)

    def draw_large(
        self,
        rng: np.random.Generator,
        draw: Callable[[np.random.Generator], Architecture] | None = None,
        count: int = DRAWS,
    ) -> Architecture:
        """The largest of several drawn architectures within the budgets.

        Without the size prior it is the first one that is drawn.

        Args:
            rng: the random generator.
            draw: draws one architecture, by default uniformly.
            count: number of draws.

        Returns:
            An architecture, which is outside the budgets if all draws are.
        """
        draw = draw or self.space.sample
        drawn = [draw(rng) for _ in range(count if self.size_prior else 1)]
        feasible = [a for a in drawn if self.decoder.is_feasible(a)] if len(drawn) > 1 else drawn
        return largest_of(self.space, feasible) if len(feasible) > 1 else (feasible or drawn)[0]

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        architecture = self.space.most_likely(mixture)
        if outcome.lasting:
            self.records.append((architecture, outcome.objective))
        if architecture in self.suggested:
            self.suggested.remove(architecture)
            self.learn_suggestion(architecture, outcome)
        else:
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
            "started": self.started,
            "records": self.space.to_rows(self.records),
            "suggested": [self.space.chosen(architecture) for architecture in self.suggested],
            "recent": [self.space.chosen(architecture) for architecture in self.recent],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = int(state["draws"])
        self._load_started(state)
        self.suggested = [self.space.architecture(list(row)) for row in state["suggested"]]
        self.records = self.space.from_rows(state["records"])
        self.recent.clear()
        self.recent.extend(
            self.space.architecture([int(option) for option in chosen])
            for chosen in state["recent"]
        )

    def _load_started(self, state: dict[str, Any]) -> None:
        self.started, self._largest = int(state["started"]), None
