"""Strategies on any table of architectures and scores, of one task or of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.calibration.networks import LATENCY_MS, read_columns
from hwnas.errors import InputError
from hwnas.evaluators.accuracy_table import AccuracyTable, TableDecoder
from hwnas.spaces.base import SearchSpace
from hwnas.studies.lookups import for_each_seed, look_up, require_evaluations


@dataclass(frozen=True)
class TableBenchmark:
    """A table of architectures, of which a strategy sees one column and is judged by another.

    Attributes:
        space: the search space of the architectures.
        architectures: those of the table, which need not be all of the space.
        fitness: (architectures,) what strategies see.
        score: (architectures,) what the choice is judged by.
        minimise: whether small numbers of both are good, such as errors and losses.
        latency_ms: (architectures,) latencies; None without a budget.
        budget_ms: the largest latency allowed.
    """

    space: SearchSpace
    architectures: Sequence[Architecture]
    fitness: np.ndarray
    score: np.ndarray
    minimise: bool = False
    latency_ms: np.ndarray | None = None
    budget_ms: float = np.inf

    @classmethod
    def read(
        cls,
        path: Path,
        space: SearchSpace,
        fitness: str,
        score: str,
        *,
        minimise: bool = False,
        budget_ms: float | None = None,
    ) -> TableBenchmark:
        """Read a CSV file with a column `arch` and columns of numbers.

        Args:
            path: the file.
            space: the search space of the architectures.
            fitness: the column that strategies see.
            score: the column that the choice is judged by.
            minimise: whether small numbers are good.
            budget_ms: the largest value of the column `latency_ms`; None for no budget.

        Raises:
            InputError: when the file is malformed, or a column is missing.
        """
        names = [fitness, score, *([] if budget_ms is None else [LATENCY_MS])]
        architectures, columns = read_columns(path, space, list(dict.fromkeys(names)))
        if len(set(architectures)) < len(architectures):
            raise InputError(
                "an architecture stands in two lines",
                where=str(path),
                expected=f"{len(architectures)} different ones",
                actual=len(set(architectures)),
            )
        latency_ms = None if budget_ms is None else columns[LATENCY_MS]
        most = np.inf if budget_ms is None else budget_ms
        return cls(
            space, architectures, columns[fitness], columns[score], minimise, latency_ms, most
        )

    @cached_property
    def index(self) -> dict[Architecture, int]:
        """Where each architecture stands."""
        return {architecture: i for i, architecture in enumerate(self.architectures)}

    @cached_property
    def percent(self) -> dict[Architecture, float]:
        """The fitness in percent of its largest magnitude; large numbers are good."""
        shares = self.fitness / (np.abs(self.fitness).max() or 1.0)
        shares = 1 - shares if self.minimise else shares
        return dict(zip(self.architectures, (100 * shares).tolist(), strict=True))

    @cached_property
    def latencies(self) -> dict[Architecture, float]:
        """Milliseconds of each network; empty without a budget."""
        if self.latency_ms is None:
            return {}
        return dict(zip(self.architectures, self.latency_ms.tolist(), strict=True))

    @cached_property
    def decoder(self) -> TableDecoder:
        """Knows which architectures are in the table and keep the budget."""
        return TableDecoder(self.space, self.architectures, self.latency_ms, self.budget_ms)

    @cached_property
    def best(self) -> float:
        """The best score of an architecture that keeps the budget."""
        kept = self.score[[self.index[a] for a in self.decoder.kept]]
        return float(kept.min() if self.minimise else kept.max())


def bench_table(
    benchmark: TableBenchmark,
    strategy: str,
    *,
    evaluations: int,
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> dict[str, Any]:
    """Search once for each seed.

    Args:
        benchmark: what is searched.
        strategy: of `STRATEGIES`; one that needs no gradient.
        evaluations: architectures that may be looked up.
        seeds: one search each.
        settings: of the strategy.
        progress: told the seeds done, all seeds, and the score.

    Returns:
        `strategy`, `evaluations`, `architectures` (their number), `best` (score of the table),
        `seeds` (one record each), and `mean` and `std` of the score of what was chosen.

    Raises:
        InputError: for an unknown strategy or one that needs a supernet.
    """
    require_evaluations(strategy)

    def search(seed: int) -> dict[str, Any]:
        table = AccuracyTable(benchmark.percent, benchmark.latencies, benchmark.budget_ms)
        chosen, _ = look_up(
            benchmark.space,
            table,
            benchmark.decoder,
            strategy,
            evaluations=evaluations,
            seed=seed,
            settings=settings or {},
        )
        place = benchmark.index[chosen]
        score = float(benchmark.score[place])
        return {
            "seed": seed,
            "architecture": benchmark.space.to_genotype(chosen),
            "fitness": float(benchmark.fitness[place]),
            "score": score,
            "regret": abs(benchmark.best - score),
            "latency_ms": benchmark.latencies.get(chosen),
            "evaluations": len(table.evaluated),
        }

    return {
        "strategy": strategy,
        "evaluations": evaluations,
        "architectures": len(benchmark.architectures),
        "best": benchmark.best,
        **for_each_seed(search, "score", seeds, progress),
    }
