"""From a finished search to one architecture that keeps the budget on the device.

The k most promising feasible architectures are ranked with the supernet; the best is exported and
measured end to end; what is measured corrects the cost model, and the search is decoded again with
the corrected model, until an architecture passes the budget's gate and the model has no more than
a few percent to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
SETTLED = 0.03
"""The correction is settled when a measurement moves its network's prediction by no more."""


class BudgetError(HwnasError):
    """No candidate kept the budget when it was measured (exit code 1)."""

    exit_code = 1


class UndecidedError(HwnasError):
    """No measured candidate is clearly within the budget, some are not clearly over it (3)."""

    exit_code = 3


@dataclass(frozen=True)
class Measured:
    """A candidate whose exported network was measured."""

    architecture: Architecture
    predicted_ms: float
    accuracy: float
    latency: NetworkLatency

    def to_json(self) -> dict[str, Any]:
        """A record of the history."""
        return {
            "event": EVENT,
            "choices": dict(self.architecture.options),
            "predicted_ms": self.predicted_ms,
            "supernet_accuracy": self.accuracy,
            "measured": self.latency.to_json(),
        }


def read_measurements(folder: RunFolder, space: str) -> list[Measured]:
    """Candidates that were measured before, from the run's history."""
    return [
        Measured(
            Architecture.of(space, record["choices"]),
            record["predicted_ms"],
            record["supernet_accuracy"],
            NetworkLatency(**record["measured"]),
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
        measure: latency of an architecture's exported network.
        folder: of the run.
        candidates: how many decodings are ranked.
        max_measured: how many measurements are made at most.
    """

    def __init__(
        self,
        strategy: SearchStrategy,
        limits: Sequence[Limit],
        rank: Callable[[list[Architecture]], list[float]],
        measure: Callable[[Architecture], NetworkLatency],
        folder: RunFolder,
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
        self.candidates = candidates
        self.max_measured = max_measured
        self.accuracies: dict[Architecture, float] = {}
        self.measured: dict[Architecture, Measured] = {}
        self.recorded = {
            m.architecture: m
            for m in read_measurements(folder, self.cost.space.name)
            if m.latency.gate(self.budget_ms) != "inconclusive"
        }

    def run(self) -> Measured:
        """The most accurate candidate that keeps the budget.

        Raises:
            InputError: when no architecture is predicted to keep the budget.
            BudgetError: when none of the measured candidates keeps it.
            UndecidedError: when noise hides whether one does; a repeated call measures again.
            Interrupted: after a signal; the measurements so far are in the history.
        """
        settled = False
        while len(self.measured) < self.max_measured and not settled:
            candidate = self._next_candidate()
            if candidate is None:
                break
            settled = self._measure(candidate)
        kept = [m for m in self.measured.values() if self._keeps_budget(m)]
        if not kept:
            closest = min(self.measured.values(), key=lambda m: m.latency.ci_high_ms)
            undecided = any(
                m.latency.gate(self.budget_ms) == "inconclusive" for m in self.measured.values()
            )
            raise (UndecidedError if undecided else BudgetError)(
                "no candidate keeps the budget when it is measured",
                expected=f"at most {self.budget_ms:.4g} ms",
                actual=f"{closest.latency.ci_high_ms:.4g} ms at the best of {len(self.measured)}",
                mend="raise the budget, or measure longer (latency.measure_seconds)",
            )
        return max(kept, key=lambda m: m.accuracy)

    def _next_candidate(self) -> Architecture | None:
        """The best ranked decoding that was not measured."""
        try:
            first, *others = self.limits
            decoder = Decoder([first.with_cost(self.corrected), *others])
            decoded = self.strategy.best(decoder, self.candidates)
        except InputError:
            if not self.measured:
                raise
            # The corrected model leaves nothing: what was measured has to do.
            return None
        new = [a for a in decoded if a not in self.accuracies]
        self.accuracies.update(zip(new, self.rank(new), strict=True) if new else [])
        left = [a for a in decoded if a not in self.measured]
        return max(left, key=lambda a: self.accuracies[a], default=None)

    def _measure(self, architecture: Architecture) -> bool:
        """Measure, correct the model; whether the candidate ends the search."""
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
        before_ms = self.corrected.latency_ms(architecture)
        self.corrected = self.cost.corrected(
            list(self.measured), [m.latency.ci_high_ms for m in self.measured.values()]
        )
        moved = abs(self.corrected.latency_ms(architecture) / before_ms - 1)
        return self._keeps_budget(known) and moved <= SETTLED

    def _keeps_budget(self, candidate: Measured) -> bool:
        return candidate.latency.gate(self.budget_ms) == "pass"
