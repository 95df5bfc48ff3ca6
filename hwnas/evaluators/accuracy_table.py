"""A table of accuracies in place of training, with latencies in place of a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Outcome


@dataclass
class AccuracyTable:
    """Looks architectures up, and counts what it was asked.

    Attributes:
        accuracy: in percent; what a strategy sees.
        latency_ms: of the same architectures; empty without a budget.
        budget_ms: the largest latency allowed.
        evaluated: what was looked up, in order.
    """

    accuracy: Mapping[Architecture, float]
    latency_ms: Mapping[Architecture, float] = field(default_factory=dict)
    budget_ms: float = np.inf
    evaluated: list[Architecture] = field(default_factory=list)

    def __call__(self, architecture: Architecture) -> Outcome:
        """The error as a share, to be minimised.

        Raises:
            InputError: when the table does not have the architecture.
        """
        if architecture not in self.accuracy:
            raise InputError("the table does not have an architecture", actual=dict(architecture))
        self.evaluated.append(architecture)
        error = 1 - self.accuracy[architecture] / 100
        ratio = self.latency_ms.get(architecture, 0.0) / self.budget_ms
        return Outcome(error, error, ratio, lasting=True)


@dataclass
class TabledAccuracy:
    """Accuracies from a user's table in place of training.

    Attributes:
        space: the search space.
        accuracy: by architecture, 0 to 1.
        where: names the table in errors.
        known: what was looked up.
        perfect: the accuracy that cannot be surpassed.
    """

    space: SearchSpace
    accuracy: Mapping[Architecture, float]
    where: str
    known: dict[Architecture, float] = field(default_factory=dict)
    perfect: float = 1.0

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """The table's figure, for which there is one fidelity only.

        Raises:
            InputError: when the table does not have the architecture.
        """
        if architecture not in self.accuracy:
            raise InputError(
                "the table does not have an architecture",
                where=self.where,
                actual=self.space.to_genotype(architecture),
            )
        self.known[architecture] = self.accuracy[architecture]
        return self.known[architecture]

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """The table's figures; -inf for what it does not have, which is no candidate."""
        return [self.accuracy.get(architecture, -math.inf) for architecture in architectures]


class TableDecoder:
    """Feasibility and decoding by looking at every architecture of a table.

    Args:
        space: the search space.
        architectures: all that there are.
        latency_ms: (architectures,), or None where nothing limits them.
        budget_ms: the largest latency allowed.

    Raises:
        InputError: when none keeps the budget; names the range.
    """

    def __init__(
        self,
        space: SearchSpace,
        architectures: Sequence[Architecture],
        latency_ms: np.ndarray | None = None,
        budget_ms: float = np.inf,
    ) -> None:
        if latency_ms is None:
            self.kept = list(architectures)
        else:
            self.kept = [
                a for a, ms in zip(architectures, latency_ms, strict=True) if ms <= budget_ms
            ]
        if not self.kept and latency_ms is not None:
            raise InputError(
                "no architecture keeps the budget",
                where="--budget-ms",
                expected=f"{latency_ms.min():.4g} to {latency_ms.max():.4g} ms",
                actual=f"{budget_ms:.4g} ms",
            )
        self.known = set(self.kept)
        self.options = np.array([space.chosen(a) for a in self.kept])

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether the architecture is in the table and keeps the budget."""
        return architecture in self.known

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """The k of highest total score (choices, max_options) that keep the budget."""
        totals = scores[np.arange(scores.shape[0]), self.options].sum(axis=1)
        order = np.argsort(-totals, kind="stable")[:k]
        return [self.kept[i] for i in order]
