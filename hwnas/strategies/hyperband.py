"""Successive halving and Hyperband: many short evaluations, and longer ones of the best.

Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
AISTATS 2016, and Li et al., "Hyperband", JMLR 18(185), 2018 (arXiv 1603.06560), algorithm 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome
from hwnas.strategies.sampled import SampledSettings, SampledStrategy


class HyperbandSettings(SampledSettings):
    """The paper's ratio; the lowest fidelity is `ratio ** -halvings` of a complete evaluation."""

    ratio: int = Field(
        3,
        ge=2,
        le=100,
        description="ratio of the architectures that start a rung to those that reach the next one",
    )
    halvings: int = Field(2, ge=1, le=10, description="number of rungs above the lowest")


class HyperbandStrategy(SampledStrategy):
    """A cycle of brackets, from many architectures at a low fidelity to few at a high one.

    Attributes:
        bracket: number of finished brackets.
        rung: of the current bracket, starting at 0.
        waiting: architectures that were promoted to this rung and are not evaluated yet.
        judged: architectures that were evaluated at this rung, with their objectives.
        highest: the highest fidelity at which each architecture was evaluated, and the objective
            there.
    """

    name = "hyperband"
    paper = (
        "Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, "
        "JMLR 2018, arXiv 1603.06560"
    )
    settings_model = HyperbandSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: HyperbandSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.ratio, self.halvings = settings.ratio, settings.halvings
        self.bracket = self.rung = 0
        self.waiting: list[Architecture] = []
        self.judged: list[tuple[Architecture, float]] = []
        self.highest: dict[Architecture, tuple[float, float]] = {}

    def rungs_above(self) -> int:
        """The number of rungs above the lowest of the current bracket; s in the paper."""
        return self.halvings - self.bracket % (self.halvings + 1)

    def starters(self) -> int:
        """The number of architectures at the lowest rung of the current bracket; n in the paper."""
        above = self.rungs_above()
        count: int = -(-(self.halvings + 1) * self.ratio**above // (above + 1))
        return count

    @property
    def fidelity(self) -> float:
        return float(self.ratio) ** (self.rung - self.rungs_above())

    @property
    def takes_suggestions(self) -> bool:
        """Only at the lowest rung of a bracket; the others evaluate what was promoted."""
        return not self.waiting

    def propose(self, rng: np.random.Generator) -> Architecture:
        return self.waiting[0] if self.waiting else self.draw_large(rng)

    def skip(self, architecture: Architecture) -> None:
        super().skip(architecture)
        if architecture in self.waiting:
            self.waiting.remove(architecture)
            self.waiting.append(architecture)

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        fidelity = self.fidelity if outcome.fidelity is None else outcome.fidelity
        if fidelity >= self.highest.get(architecture, (0.0, 0.0))[0]:
            self.highest[architecture] = fidelity, outcome.objective
        # Another process may have evaluated an architecture that is not in this bracket.
        starts = not self.rung and fidelity == self.fidelity
        if not starts and architecture not in self.waiting:
            return
        self.judged.append((architecture, outcome.objective))
        if self.waiting:
            self.waiting.remove(architecture)
        if not self.waiting and (self.rung or len(self.judged) == self.starters()):
            self._promote()

    def _promote(self) -> None:
        """Promote the best of the rung to the next one, or start the next bracket."""
        if self.rung < self.rungs_above():
            promoted = max(1, len(self.judged) // self.ratio)
            ordered = sorted(self.judged, key=lambda record: record[1])
            self.waiting = [architecture for architecture, _ in ordered[:promoted]]
            self.rung += 1
        else:
            self.bracket += 1
            self.rung = 0
        self.judged = []

    def ranked(self) -> list[Architecture]:
        """All evaluated architectures, by the highest fidelity and then by the objective there."""
        return sorted(self.highest, key=lambda a: (-self.highest[a][0], self.highest[a][1]))

    def state_dict(self) -> dict[str, Any]:
        highest = self.highest.items()
        return super().state_dict() | {
            "position": [self.bracket, self.rung],
            "waiting": [self.space.chosen(architecture) for architecture in self.waiting],
            "judged": self.space.to_rows(self.judged),
            "highest": self.space.to_rows((a, objective) for a, (_, objective) in highest),
            "fidelities": [fidelity for _, (fidelity, _) in highest],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.bracket, self.rung = state["position"]
        self.waiting = [self.space.architecture(list(chosen)) for chosen in state["waiting"]]
        self.judged = self.space.from_rows(state["judged"])
        highest = zip(self.space.from_rows(state["highest"]), state["fidelities"], strict=True)
        self.highest = {a: (float(fidelity), value) for (a, value), fidelity in highest}


class SuccessiveHalvingStrategy(HyperbandStrategy):
    """Repeat the bracket that starts with the largest number of architectures."""

    name = "successive-halving"
    paper = (
        "Jamieson & Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter "
        "Optimization, AISTATS 2016, arXiv 1502.07943"
    )

    def rungs_above(self) -> int:
        return self.halvings
