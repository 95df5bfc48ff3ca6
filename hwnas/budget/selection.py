"""Selection of architectures from a finished search, by measuring candidates on the device.

The candidates are the best architectures that are predicted to keep the budget or to exceed it
slightly; the supernet estimates their accuracy. The candidate with the largest expected gain is
exported and measured end to end. Its expected gain is the probability that it keeps the budget
times the amount by which its accuracy exceeds that of the best measured network. The measurement
corrects the cost model, the search is decoded again under the corrected model, and so on. Memory
and energy are not predicted, so their budgets are checked by measurement only.

Where several architectures are wanted, as finalists that will be trained, the best candidates and
the largest networks within the budget are measured in turn until so many keep it.

The criterion is the constrained expected improvement of Gardner et al., "Bayesian Optimization
with Inequality Constraints", ICML 2014, with the accuracy treated as known and the latency as
uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any, Protocol

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.limit import Limit
from hwnas.errors import HwnasError, InputError
from hwnas.runs import interruption
from hwnas.runs.run_folder import RunFolder
from hwnas.strategies.size_prior import largest_networks

EVENT = "measurement"
SELECTED = "selected"
"""The event that names the finalists, so that a resumed run trains the same."""
OPTIMISM = 1.0
"""Candidates are also decoded under a budget raised by this many standard deviations."""
MIN_GAIN = 0.002
"""Measuring ends when no candidate has an expected gain in accuracy (0 to 1) of this size."""


class BudgetError(HwnasError):
    """No measured candidate keeps the budget (exit code 1)."""

    exit_code = 1


class UndecidedError(HwnasError):
    """The measurements are too noisy to tell whether a candidate keeps the budget (exit code 3)."""

    exit_code = 3


@dataclass(frozen=True)
class NetworkCosts:
    """Measured costs of an exported network.

    Attributes:
        latency: latency of one inference.
        memory_mb: peak memory of a session; None if there is no budget for it or the device
            cannot measure it.
        energy_mj: energy of one inference; None in the same cases.
    """

    latency: NetworkLatency
    memory_mb: float | None = None
    energy_mj: float | None = None


@dataclass(frozen=True)
class FurtherBudgets:
    """Budgets in addition to the latency budget.

    Attributes:
        memory_mb: largest allowed peak memory; None for no budget.
        energy_mj: largest allowed energy per inference; None for no budget.
    """

    memory_mb: float | None = None
    energy_mj: float | None = None

    def kept_by(self, costs: NetworkCosts) -> bool:
        """Return whether no measured cost exceeds its budget."""
        return all(found is None or found <= most for found, most in self._asked(costs))

    def known_by(self, costs: NetworkCosts) -> bool:
        """Return whether every cost with a budget was measured."""
        return all(found is not None for found, _ in self._asked(costs))

    def _asked(self, costs: NetworkCosts) -> list[tuple[float | None, float]]:
        """Return pairs of measured cost and budget for the costs that have a budget."""
        pairs = ((costs.memory_mb, self.memory_mb), (costs.energy_mj, self.energy_mj))
        return [(found, most) for found, most in pairs if most is not None]

    def in_words(self, costs: NetworkCosts | FurtherBudgets) -> str:
        """Format the costs, or the budgets themselves, for which there is a budget."""
        names = [("memory_mb", "MB"), ("energy_mj", "mJ")]
        asked = [(name, unit) for name, unit in names if getattr(self, name) is not None]
        return ", ".join(f"{getattr(costs, name):.4g} {unit}" for name, unit in asked)


@dataclass(frozen=True)
class Measured:
    """A candidate whose exported network was measured.

    Attributes:
        architecture: the candidate.
        predicted_ms: latency that the uncorrected cost model predicts.
        accuracy: accuracy that the supernet estimates, 0 to 1.
        costs: the measured costs.
    """

    architecture: Architecture
    predicted_ms: float
    accuracy: float
    costs: NetworkCosts

    @property
    def latency(self) -> NetworkLatency:
        """Measured latency of one inference."""
        return self.costs.latency

    @classmethod
    def from_json(cls, record: dict[str, Any], space: str) -> Measured:
        """Read what `to_json` returned, of a space with this name."""
        costs = NetworkCosts(
            NetworkLatency.from_json(record["measured"]),
            record.get("memory_mb"),
            record.get("energy_mj"),
        )
        architecture = Architecture.of(space, record["choices"])
        return cls(architecture, record["predicted_ms"], record["supernet_accuracy"], costs)

    def to_json(self) -> dict[str, Any]:
        """Return a record for the run's history."""
        return {
            "event": EVENT,
            "choices": dict(self.architecture.options),
            "predicted_ms": self.predicted_ms,
            "supernet_accuracy": self.accuracy,
            "measured": self.latency.to_json(),
            "memory_mb": self.costs.memory_mb,
            "energy_mj": self.costs.energy_mj,
        }


def read_measurements(folder: RunFolder, space: str) -> list[Measured]:
    """Read the candidates that were measured before from the run's history."""
    return [
        Measured.from_json(record, space)
        for record in folder.read_history()
        if record["event"] == EVENT
    ]


class Proposer(Protocol):
    """Proposes candidates, as every search strategy does."""

    @property
    def seed(self) -> int:
        """Of all random decisions."""

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """Up to k architectures that keep the decoder's budgets, the most promising first."""


class Selection:
    """The loop that measures candidates and corrects the cost model.

    Measurements are recorded in the run's history and not repeated when the run is resumed.

    Args:
        strategy: proposes candidates, such as a finished search.
        limits: the latency budgets. The first is that of the device that measures; its cost model
            is corrected.
        rank: returns the supernet's accuracy estimates of architectures.
        measure: exports and measures the network of an architecture.
        folder: folder of the run.
        further: budgets in addition to the latency budgets.
        candidates: number of architectures per decoding.
        max_measured: largest number of measurements.
        size_weight: what size adds to the strategy's scores, as in `Decoder`. With 0, no finalist
            is chosen for its size.
        earlier: candidates that were measured before for another budget; they correct the cost
            model too.
    """

    def __init__(
        self,
        strategy: Proposer,
        limits: Sequence[Limit],
        rank: Callable[[list[Architecture]], list[float]],
        measure: Callable[[Architecture], NetworkCosts],
        folder: RunFolder,
        further: FurtherBudgets | None = None,
        *,
        candidates: int,
        max_measured: int,
        size_weight: float = 0.0,
        earlier: Sequence[Measured] = (),
    ) -> None:
        self.strategy = strategy
        self.limits = tuple(limits)
        self.cost = limits[0].cost
        self.budget_ms = limits[0].budget_ms
        self.measured: dict[Architecture, Measured] = {}
        self.earlier = {m.architecture: m for m in earlier}
        self.corrected = self._corrected()
        self.rank = rank
        self.measure = measure
        self.folder = folder
        self.further = further or FurtherBudgets()
        self.candidates = candidates
        self.max_measured = max_measured
        self.size_weight = size_weight
        self.accuracies: dict[Architecture, float] = {}
        self.recorded = {
            m.architecture: m
            for m in [*earlier, *read_measurements(folder, self.cost.space.name)]
            if m.latency.gate(self.budget_ms) != "inconclusive" and self.further.known_by(m.costs)
        }

    def run(self) -> Measured:
        """Return the most accurate measured candidate that keeps the budgets.

        Raises:
            InputError: no architecture is predicted to keep the budget.
            BudgetError: none of the measured candidates keeps it.
            UndecidedError: the measurements are too noisy to tell; resuming the run measures the
                undecided candidates again.
            Interrupted: a signal was received; the measurements so far are in the history.
        """
        while len(self.measured) < self.max_measured:
            candidate = self._next_candidate()
            if candidate is None:
                break
            self._measure(candidate)
        kept = self._kept()
        if not kept:
            raise self._failure()
        return max(kept, key=lambda m: m.accuracy)

    def finalists(self, count: int) -> list[Measured]:
        """Return measured candidates that keep the budgets, fewer than `count` if no more do.

        Two are measured before the others are decoded, since measurements correct the cost model.
        With a size weight, every second one is one of the largest networks. Finalists that the
        run's history names are returned as they are.

        Raises:
            InputError: no architecture is predicted to keep the budget.
            BudgetError: none of the measured candidates keeps it.
            UndecidedError: the measurements are too noisy to tell.
            Interrupted: a signal was received; the measurements so far are in the history.
        """
        if selected := self._selected_before():
            return selected
        while len(self._kept()) < count and len(self.measured) < self.max_measured:
            wanted = min(count, 2 if not self.measured else count) - len(self._kept())
            new = self._pool(count)[: min(wanted, self.max_measured - len(self.measured))]
            if not new:
                break
            for architecture in new:
                self._measure(architecture)
        kept = self._kept()
        if not kept:
            raise self._failure()
        names = [dict(m.architecture.options) for m in kept]
        self.folder.append_history({"event": SELECTED, "finalists": names})
        return kept

    def _selected_before(self) -> list[Measured]:
        """Return the finalists that the history names; none before they were selected."""
        space = self.cost.space.name
        records = [r for r in self.folder.read_history() if r["event"] == SELECTED]
        measured = {m.architecture: m for m in read_measurements(self.folder, space)}
        names = records[-1]["finalists"] if records else []
        return [measured[Architecture.of(space, choices)] for choices in names]

    def _pool(self, count: int) -> list[Architecture]:
        """Return unmeasured candidates under the corrected model, the most promising first."""
        limit = self.limits[0].with_cost(self.corrected)
        try:
            best = self._decoded(limit)
        except InputError:
            if not self.measured:
                raise
            return []
        sizes: list[Architecture] = []
        if self.size_weight:
            decoder = Decoder([limit, *self.limits[1:]])
            ranking = largest_networks(self.cost.space, decoder, seed=self.strategy.seed)
            sizes = list(islice(ranking, count))
        self._rank([*best, *sizes])
        best.sort(key=lambda a: -self.accuracies[a])
        pairs = zip_longest(best, sizes)
        pool = dict.fromkeys(a for pair in pairs for a in pair if a is not None)
        return [a for a in pool if a not in self.measured and math.isfinite(self.accuracies[a])]

    def _failure(self) -> HwnasError:
        """Return the error that explains why no measured candidate keeps the budgets."""
        gates = {a: m.latency.gate(self.budget_ms) for a, m in self.measured.items()}
        undecided = any(
            gates[a] == "inconclusive" and self.further.kept_by(m.costs)
            for a, m in self.measured.items()
        )
        fast = [m for a, m in self.measured.items() if gates[a] == "pass"]
        if fast and not undecided:
            return BudgetError(
                "no candidate that keeps the latency budget keeps the others",
                expected=f"at most {self.further.in_words(self.further)}",
                actual=f"{self.further.in_words(fast[0].costs)} for the first of {len(fast)}",
                mend="raise budget.memory_mb or budget.energy_mj, or lower the latency budget",
            )
        closest = min(self.measured.values(), key=lambda m: m.latency.ci_high_ms)
        if undecided:
            cause = "the measurements do not settle whether a candidate keeps the latency budget"
            mend = "measure longer (latency.measure_seconds), or while the machine is less busy"
        else:
            cause = "no measured candidate keeps the latency budget"
            mend = "raise the budget, or measure longer (latency.measure_seconds)"
        return (UndecidedError if undecided else BudgetError)(
            cause,
            expected=f"at most {self.budget_ms:.4g} ms",
            actual=f"{closest.latency.ci_high_ms:.4g} ms for the fastest of {len(self.measured)}",
            mend=mend,
        )

    def _next_candidate(self) -> Architecture | None:
        """Return the unmeasured candidate with the largest expected gain; None to stop."""
        limit = self.limits[0].with_cost(self.corrected)
        try:
            decoded = self._decoded(limit)
        except InputError:
            if not self.measured:
                raise
            # Under the corrected model no architecture keeps the budget.
            return None
        if limit.confidence is None:
            spread_ms = OPTIMISM * float(self.corrected.predict(decoded[:1])[1][0])
            decoded += self._decoded(replace(limit, budget_ms=limit.budget_ms + spread_ms))
        self._rank(decoded)
        best = max((m.accuracy for m in self._kept()), default=None)
        gains = {
            a: limit.probability(a) * (self.accuracies[a] - (best or 0.0))
            for a in decoded
            if a not in self.measured and math.isfinite(self.accuracies[a])
        }
        if not gains and not self.measured:
            raise InputError(
                "no candidate within the budget has a known accuracy",
                expected="candidates that are in the table of accuracies",
                actual=f"{len(decoded)} candidates, none of them in the table",
                mend="raise the budget or provide a larger table",
            )
        if not gains or (best is not None and max(gains.values()) < MIN_GAIN):
            return None
        return max(gains, key=lambda a: gains[a])

    def _rank(self, architectures: Sequence[Architecture]) -> None:
        """Estimate the accuracies that are not known yet."""
        new = list(dict.fromkeys(a for a in architectures if a not in self.accuracies))
        self.accuracies.update(zip(new, self.rank(new), strict=True) if new else [])

    def _decoded(self, limit: Limit) -> list[Architecture]:
        """Return the best candidates under this limit and those of the other devices."""
        decoder = Decoder([limit, *self.limits[1:]], self.size_weight)
        return self.strategy.best(decoder, self.candidates)

    def _measure(self, architecture: Architecture) -> None:
        """Measure a candidate, unless its measurement is recorded, and correct the cost model."""
        interruption.stop_if_requested()
        known = self.recorded.get(architecture)
        if known is None:
            known = Measured(
                architecture,
                self.cost.latency_ms(architecture),
                self.accuracies[architecture],
                self.measure(architecture),
            )
            self.folder.append_history(known.to_json())
        self.measured[architecture] = known
        self.corrected = self._corrected()

    def _corrected(self) -> CostModel:
        """Return the cost model conditioned on everything that was measured."""
        known = self.earlier | self.measured
        if not known:
            return self.cost
        return self.cost.corrected(list(known), [m.latency.ci_high_ms for m in known.values()])

    def _kept(self) -> list[Measured]:
        """Return the measured candidates that keep the budgets."""
        return [
            m
            for m in self.measured.values()
            if m.latency.gate(self.budget_ms) == "pass" and self.further.kept_by(m.costs)
        ]
