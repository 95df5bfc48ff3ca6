"""From a finished search to one architecture that keeps the budget on the device.

The most promising architectures that are predicted to keep the budget, or to exceed it by little,
are ranked with the supernet. The one with the largest expected gain, the probability that it keeps
the budget times what its accuracy adds to the best so far, is exported and measured end to end;
the measurement corrects the cost model, and the search is decoded again. Budgets of memory and
energy are kept by measuring alone. (Expected constrained
improvement: Gardner et al., "Bayesian Optimization with Inequality Constraints", ICML 2014, where
here the accuracy counts as known and the latency as uncertain.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwnas.architecture import Architecture
from hwnas.budget.decode import Decoder
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.limit import Limit
from hwnas.errors import HwnasError, InputError
from hwnas.runs import interruption
from hwnas.runs.run_folder import RunFolder
from hwnas.strategies.base import SearchStrategy

EVENT = "measurement"
OPTIMISM = 1.0
"""Candidates are also decoded under a budget that is larger by so many standard deviations."""
LEAST_GAIN = 0.002
"""Measuring ends when no candidate is expected to gain so much accuracy, 0 to 1."""


class BudgetError(HwnasError):
    """No candidate kept the budget when it was measured (exit code 1)."""

    exit_code = 1


class UndecidedError(HwnasError):
    """No measured candidate is clearly within the budget, some are not clearly over it (3)."""

    exit_code = 3


@dataclass(frozen=True)
class NetworkCosts:
    """What an exported network takes.

    Attributes:
        latency: of an inference.
        memory_mb: peak of a session; None where no budget names it, or nothing tells it.
        energy_mj: of an inference; the same.
    """

    latency: NetworkLatency
    memory_mb: float | None = None
    energy_mj: float | None = None


@dataclass(frozen=True)
class FurtherBudgets:
    """Budgets beside that of the latency; None for those that were not asked for."""

    memory_mb: float | None = None
    energy_mj: float | None = None

    def kept_by(self, costs: NetworkCosts) -> bool:
        """Whether none is exceeded, as far as it was measured."""
        return all(found is None or found <= most for found, most in self._asked(costs))

    def known_by(self, costs: NetworkCosts) -> bool:
        """Whether all that is asked for was measured."""
        return all(found is not None for found, _ in self._asked(costs))

    def _asked(self, costs: NetworkCosts) -> list[tuple[float | None, float]]:
        """What was measured, and the budget, of those that were asked for."""
        pairs = ((costs.memory_mb, self.memory_mb), (costs.energy_mj, self.energy_mj))
        return [(found, most) for found, most in pairs if most is not None]

    def in_words(self, costs: NetworkCosts | FurtherBudgets) -> str:
        """The figures of those that are asked for."""
        names = [("memory_mb", "MB"), ("energy_mj", "mJ")]
        asked = [(name, unit) for name, unit in names if getattr(self, name) is not None]
        return ", ".join(f"{getattr(costs, name):.4g} {unit}" for name, unit in asked)


@dataclass(frozen=True)
class Measured:
    """A candidate whose exported network was measured."""

    architecture: Architecture
    predicted_ms: float
    accuracy: float
    costs: NetworkCosts

    @property
    def latency(self) -> NetworkLatency:
        """Of an inference."""
        return self.costs.latency

    def to_json(self) -> dict[str, Any]:
        """A record of the history."""
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
    """Candidates that were measured before, from the run's history."""
    return [
        Measured(
            Architecture.of(space, record["choices"]),
            record["predicted_ms"],
            record["supernet_accuracy"],
            NetworkCosts(
                NetworkLatency(**record["measured"]),
                record.get("memory_mb"),
                record.get("energy_mj"),
            ),
        )
        for record in folder.read_history()
        if record["event"] == EVENT
    ]


class Selection:
    """The repair loop; what it measured is in the history and is not measured again.

    Args:
        strategy: a finished search.
        limits: the budgets; the first is of the device that measures, and its model is corrected.
        rank: supernet accuracies of architectures.
        measure: what an architecture's exported network takes.
        folder: of the run.
        further: budgets beside that of the latency.
        candidates: how many decodings are ranked.
        max_measured: how many measurements are made at most.
    """

    def __init__(
        self,
        strategy: SearchStrategy,
        limits: Sequence[Limit],
        rank: Callable[[list[Architecture]], list[float]],
        measure: Callable[[Architecture], NetworkCosts],
        folder: RunFolder,
        further: FurtherBudgets | None = None,
        *,
        candidates: int,
        max_measured: int,
    ) -> None:
        self.strategy = strategy
        self.limits = tuple(limits)
        self.cost = limits[0].cost
        self.budget_ms = limits[0].budget_ms
        self.corrected = self.cost
        self.rank = rank
        self.measure = measure
        self.folder = folder
        self.further = further or FurtherBudgets()
        self.candidates = candidates
        self.max_measured = max_measured
        self.accuracies: dict[Architecture, float] = {}
        self.measured: dict[Architecture, Measured] = {}
        self.recorded = {
            m.architecture: m
            for m in read_measurements(folder, self.cost.space.name)
            if m.latency.gate(self.budget_ms) != "inconclusive" and self.further.known_by(m.costs)
        }

    def run(self) -> Measured:
        """The most accurate candidate that keeps the budget.

        Raises:
            InputError: when no architecture is predicted to keep the budget.
            BudgetError: when none of the measured candidates keeps it.
            UndecidedError: when noise hides whether one does; a repeated call measures again.
            Interrupted: after a signal; the measurements so far are in the history.
        """
        while len(self.measured) < self.max_measured:
            candidate = self._next_candidate()
            if candidate is None:
                break
            self._measure(candidate)
        kept = self._kept()
        if not kept:
            raise self._nothing_kept()
        return max(kept, key=lambda m: m.accuracy)

    def _nothing_kept(self) -> HwnasError:
        gates = {a: m.latency.gate(self.budget_ms) for a, m in self.measured.items()}
        undecided = any(
            gates[a] == "inconclusive" and self.further.kept_by(m.costs)
            for a, m in self.measured.items()
        )
        in_time = [m for a, m in self.measured.items() if gates[a] == "pass"]
        if in_time and not undecided:
            return BudgetError(
                "no candidate that keeps the budget of latency keeps the others",
                expected=f"at most {self.further.in_words(self.further)}",
                actual=f"{self.further.in_words(in_time[0].costs)} at the first of {len(in_time)}",
                mend="raise budget.memory_mb or budget.energy_mj, or lower the budget of latency",
            )
        closest = min(self.measured.values(), key=lambda m: m.latency.ci_high_ms)
        return (UndecidedError if undecided else BudgetError)(
            "no candidate keeps the budget when it is measured",
            expected=f"at most {self.budget_ms:.4g} ms",
            actual=f"{closest.latency.ci_high_ms:.4g} ms at the best of {len(self.measured)}",
            mend="raise the budget, or measure longer (latency.measure_seconds)",
        )

    def _next_candidate(self) -> Architecture | None:
        """The decoding with the largest expected gain that was not measured; None when done."""
        limit = self.limits[0].with_cost(self.corrected)
        try:
            decoded = self._decoded(limit)
        except InputError:
            if not self.measured:
                raise
            # The corrected model leaves nothing: what was measured has to do.
            return None
        if limit.confidence is None:
            spread_ms = OPTIMISM * float(self.corrected.predict(decoded[:1])[1][0])
            decoded += self._decoded(replace(limit, budget_ms=limit.budget_ms + spread_ms))
        new = list(dict.fromkeys(a for a in decoded if a not in self.accuracies))
        self.accuracies.update(zip(new, self.rank(new), strict=True) if new else [])
        best = max((m.accuracy for m in self._kept()), default=None)
        gains = {
            a: limit.probability(a) * (self.accuracies[a] - (best or 0.0))
            for a in decoded
            if a not in self.measured and math.isfinite(self.accuracies[a])
        }
        if not gains and not self.measured:
            raise InputError(
                "none of the candidates can be judged",
                expected="some that the table of accuracies has",
                actual=f"{len(decoded)} others within the budget",
                mend="raise the budget or give a larger table",
            )
        if not gains or (best is not None and max(gains.values()) < LEAST_GAIN):
            return None
        return max(gains, key=lambda a: gains[a])

    def _decoded(self, limit: Limit) -> list[Architecture]:
        """The k best under this limit and those of the other devices."""
        return self.strategy.best(Decoder([limit, *self.limits[1:]]), self.candidates)

    def _measure(self, architecture: Architecture) -> None:
        """Measure, unless it was recorded, and correct the model."""
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
        self.corrected = self.cost.corrected(
            list(self.measured), [m.latency.ci_high_ms for m in self.measured.values()]
        )

    def _kept(self) -> list[Measured]:
        """What was measured and keeps the budgets."""
        return [
            m
            for m in self.measured.values()
            if m.latency.gate(self.budget_ms) == "pass" and self.further.kept_by(m.costs)
        ]
