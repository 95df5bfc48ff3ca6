"""Search with tables of accuracies (and latencies) in place of training and measurements."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.decode import Decoder, spread, standardised_sizes
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Outcome


@dataclass
class AccuracyTable:
    """Evaluates the architectures of a benchmark by look-up, and records which were evaluated.

    Attributes:
        accuracy: accuracies in percent.
        latency_ms: latencies of the same architectures; empty without a budget.
        budget_ms: largest allowed latency.
        evaluated: the evaluated architectures in order.
    """

    accuracy: Mapping[Architecture, float]
    latency_ms: Mapping[Architecture, float] = field(default_factory=dict)
    budget_ms: float = np.inf
    evaluated: list[Architecture] = field(default_factory=list)

    def __call__(self, architecture: Architecture) -> Outcome:
        """Return the outcome of an architecture; its objective is the error rate, 0 to 1.

        Raises:
            InputError: the architecture is not in the table.
        """
        if architecture not in self.accuracy:
            raise InputError("an architecture is not in the table", actual=dict(architecture))
        self.evaluated.append(architecture)
        error = 1 - self.accuracy[architecture] / 100
        ratio = self.latency_ms.get(architecture, 0.0) / self.budget_ms
        return Outcome(error, error, ratio, lasting=True)


@dataclass
class TabledAccuracy:
    """An `hwnas.evaluators.loop.Evaluator` that looks accuracies up in a user's table.

    Attributes:
        space: the search space.
        accuracy: accuracies by architecture, 0 to 1.
        where: name of the table in error messages.
        known: the accuracies that were looked up.
        perfect: the highest possible accuracy.
    """

    space: SearchSpace
    accuracy: Mapping[Architecture, float]
    where: str
    known: dict[Architecture, float] = field(default_factory=dict)
    perfect: float = 1.0

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """Return the accuracy of an architecture; the table has a single fidelity.

        Raises:
            InputError: the architecture is not in the table.
        """
        if architecture not in self.accuracy:
            raise InputError(
                "an architecture is not in the table of accuracies",
                where=self.where,
                actual=self.space.to_genotype(architecture),
            )
        self.known[architecture] = self.accuracy[architecture]
        return self.known[architecture]

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Return the accuracies; -inf for architectures that are not in the table."""
        return [self.accuracy.get(architecture, -math.inf) for architecture in architectures]


class TableDecoder:
    """Decodes by enumerating the architectures of a table.

    Args:
        space: the search space.
        architectures: all architectures of the table.
        latency_ms: (architectures,) latencies; None without a budget.
        budget_ms: largest allowed latency.
        size_weight: what size adds to the score of an architecture, as in
            `hwnas.budget.decode.Decoder`.

    Raises:
        InputError: no architecture keeps the budget; the message states the possible range.
    """

    def __init__(
        self,
        space: SearchSpace,
        architectures: Sequence[Architecture],
        latency_ms: np.ndarray | None = None,
        budget_ms: float = np.inf,
        size_weight: float = 0.0,
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
                expected=f"a budget from {latency_ms.min():.4g} to {latency_ms.max():.4g} ms",
                actual=f"{budget_ms:.4g} ms",
            )
        self.space = space
        self.known = set(self.kept)
        self.options = np.array([space.chosen(a) for a in self.kept])
        self.size_weight = size_weight

    def is_feasible(self, architecture: Architecture) -> bool:
        """Return whether the architecture is in the table and keeps the budget."""
        return architecture in self.known

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """Return the k architectures of highest total score that keep the budget, best first.

        Args:
            scores: (choices, max_options).
            k: number of architectures.
        """
        totals = scores[np.arange(scores.shape[0]), self.options].sum(axis=1)
        if self.size_weight:
            live, chosen = self._parts
            of_parts = standardised_sizes(self.space)[1 : self.space.first_shared]
            useless = (chosen - live) @ of_parts > 0
            totals += self.size_weight * spread(self.space, scores) * (chosen @ of_parts)
            totals[useless] = -np.inf
        order = np.argsort(-totals, kind="stable")[:k]
        return [self.kept[i] for i in order]

    def largest(
        self, sizes: np.ndarray, rng: np.random.Generator | None = None
    ) -> Iterator[Architecture]:
        """Yield the architectures that keep the budget in descending order of size.

        Architectures with weights that have no influence on the output are left out.

        Args:
            sizes: (coefficients,), the size of each part, such as a column of
                `space.coefficient_params_and_macs`.
            rng: breaks ties; without it they are in the order of the table.
        """
        live, chosen = self._parts
        sizes_of_parts = sizes[1 : self.space.first_shared]
        totals = chosen @ sizes_of_parts
        order = np.arange(len(self.kept)) if rng is None else rng.permutation(len(self.kept))
        useful = order[((chosen - live) @ sizes_of_parts)[order] <= 0]
        for i in useful[np.argsort(-totals[useful], kind="stable")]:
            yield self.kept[i]

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Which parts have an influence on the output, and which are chosen, (kept, parts)."""
        one_hots = self.space.one_hots(self.kept)
        live = self.space.run_probability(one_hots, "live").flatten(start_dim=1).numpy()
        chosen = self.space.run_probability(one_hots, "all").flatten(start_dim=1).numpy()
        return live, chosen


class KnownDecoder(Decoder):
    """Decodes the architectures of a space that a table knows, for tables of most of a space.

    They are decoded in order, and those that the table does not know are passed over. So nothing of
    the size of the table is computed.

    Args:
        space: the search space.
        known: the architectures of the table.
    """

    def __init__(self, space: SearchSpace, known: Container[Architecture]) -> None:
        super().__init__((), space=space)
        self.known = known

    def is_feasible(self, architecture: Architecture) -> bool:
        """Return whether the architecture is in the table."""
        return architecture in self.known

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """Return the k architectures of highest total score in the table, best first.

        Raises:
            InputError: the table has no architecture of the space.
        """
        found = list(islice(filter(self.is_feasible, self.ranked(scores)), k))
        if not found:
            raise InputError("the table has no architecture of the space", where=self.space.name)
        return found

    def largest(
        self, sizes: np.ndarray, rng: np.random.Generator | None = None
    ) -> Iterator[Architecture]:
        """Yield the architectures of the table in descending order of size."""
        return filter(self.is_feasible, super().largest(sizes, rng))
