"""Strategies on any table of architectures and scores, of one task or of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.calibration.networks import LATENCY_MS, read_columns
from hwnas.data.nasbench101 import SUFFIX, Records, read_records
from hwnas.errors import InputError, did_you_mean
from hwnas.evaluators.accuracy_table import AccuracyTable, KnownDecoder, TableDecoder
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.nasbench101 import NasBench101Space
from hwnas.strategies import STRATEGIES, build_strategy

Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, text: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Graphs(Mapping[Architecture, int]):
    """Where architectures of `nasbench101` stand in a record file, whatever their vertices' order.

    Attributes:
        space: the search space.
        places: of each hash.
    """

    space: SearchSpace
    places: Mapping[str, int]

    def __getitem__(self, architecture: Architecture) -> int:
        return self.places[str(self.space.identity(architecture))]

    def __iter__(self) -> Iterator[Architecture]:
        raise TypeError("the architectures of a record file are not listed")

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Column(Mapping[Architecture, float]):
    """A column of a table.

    Attributes:
        places: where each architecture stands.
        figures: (architectures,).
    """

    places: Mapping[Architecture, int]
    figures: np.ndarray

    def __getitem__(self, architecture: Architecture) -> float:
        return float(self.figures[self.places[architecture]])

    def __iter__(self) -> Iterator[Architecture]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class TableBenchmark:
    """A table of architectures, of which a strategy sees one column and is judged by others.

    Attributes:
        space: the search space of the architectures.
        places: where each architecture of the table stands; they need not be all of the space.
        fitness: (architectures,) what strategies see.
        scores: (architectures,) by name, what the choice is judged by, such as several tasks. The
            first one is compared between seeds.
        minimise: whether small numbers of all of them are good, such as errors and losses.
        latency_ms: (architectures,) latencies; None without a budget.
        budget_ms: the largest latency allowed.
        perfect: the fitness that counts as 100 %; None for its largest magnitude in the table.
    """

    space: SearchSpace
    places: Mapping[Architecture, int]
    fitness: np.ndarray
    scores: Mapping[str, np.ndarray]
    minimise: bool = False
    latency_ms: np.ndarray | None = None
    budget_ms: float = np.inf
    perfect: float | None = None

    @classmethod
    def read(
        cls,
        path: Path,
        space: SearchSpace,
        fitness: str,
        scores: Sequence[str],
        *,
        minimise: bool = False,
        budget_ms: float | None = None,
        progress: Progress = silent,
    ) -> TableBenchmark:
        """Read a CSV file with a column `arch` and columns of numbers, or NAS-Bench-101's records.

        Args:
            path: the file.
            space: the search space of the architectures.
            fitness: the column that strategies see.
            scores: the columns that the choice is judged by.
            minimise: whether small numbers are good.
            budget_ms: the largest value of the column `latency_ms`; None for no budget.
            progress: told what was read of a record file.

        Raises:
            InputError: when the file is malformed, or a column is missing.
        """
        names = [fitness, *scores, *([] if budget_ms is None else [LATENCY_MS])]
        places: Mapping[Architecture, int]
        if path.suffix == SUFFIX:
            places, columns = _read_graphs(path, space, list(dict.fromkeys(names)), progress)
        else:
            architectures, columns = read_columns(path, space, list(dict.fromkeys(names)))
            places = {architecture: place for place, architecture in enumerate(architectures)}
            if len(places) < len(architectures):
                raise InputError(
                    "an architecture stands in two lines",
                    where=str(path),
                    expected=f"{len(architectures)} different ones",
                    actual=len(places),
                )
        return cls(
            space,
            places,
            columns[fitness],
            {name: columns[name] for name in scores},
            minimise,
            None if budget_ms is None else columns[LATENCY_MS],
            np.inf if budget_ms is None else budget_ms,
        )

    @cached_property
    def percent(self) -> Mapping[Architecture, float]:
        """The fitness in percent of what is perfect; large numbers are good."""
        shares = self.fitness / (self.perfect or np.abs(self.fitness).max() or 1.0)
        return Column(self.places, 100 * (1 - shares if self.minimise else shares))

    @cached_property
    def latencies(self) -> Mapping[Architecture, float]:
        """Milliseconds of each network; empty without a budget."""
        return {} if self.latency_ms is None else Column(self.places, self.latency_ms)

    @cached_property
    def decoder(self) -> TableDecoder | KnownDecoder:
        """Knows which architectures are in the table and keep the budget."""
        if isinstance(self.places, Graphs):
            return KnownDecoder(self.space, self.places)
        return TableDecoder(self.space, list(self.places), self.latency_ms, self.budget_ms)

    @cached_property
    def best(self) -> dict[str, float]:
        """The best of each score of an architecture that keeps the budget."""
        kept = np.full(len(self.fitness), True)
        if self.latency_ms is not None:
            kept = self.latency_ms <= self.budget_ms
        choose = np.min if self.minimise else np.max
        return {name: float(choose(values[kept])) for name, values in self.scores.items()}


def _read_graphs(
    path: Path, space: SearchSpace, names: Sequence[str], progress: Progress
) -> tuple[Graphs, dict[str, np.ndarray]]:
    """The graphs of a record file that are in the space and have all columns, and these columns.

    Raises:
        InputError: for another space, a malformed file, or a column that it does not have.
    """
    if not isinstance(space, NasBench101Space):
        raise InputError(
            "a record file has graphs of nasbench101",
            where="--space",
            expected=NasBench101Space.name,
            actual=space.name,
        )
    records = read_records(path, progress)
    for name in names:
        if name not in records.columns:
            known = [name for name in records.columns if not name[-2:].startswith("_")]
            raise InputError(
                f"missing column {name}",
                where=str(path),
                expected=f"one of {', '.join(known)}",
                mend=did_you_mean(name, records.columns),
            )
    kept = _are_in(space, records)
    for name in names:
        kept = kept & np.isfinite(records.columns[name])
    if not kept.any():
        raise InputError("no graph of the space has these columns", where=str(path))
    place_of = np.cumsum(kept) - 1
    places = {name: int(place_of[at]) for name, at in records.places.items() if kept[at]}
    return Graphs(space, places), {name: records.columns[name][kept] for name in names}


def _are_in(space: NasBench101Space, records: Records) -> np.ndarray:
    """Whether each graph of a record file is as small as those of the space, (graphs,)."""
    sizes = np.array([[len(matrix), matrix.count("1")] for matrix, _ in records.graphs])
    most = np.array([space.options.vertices**2, space.options.max_edges])
    return np.asarray((sizes <= most).all(axis=1))


def bench_table(
    benchmark: TableBenchmark,
    strategy: str,
    *,
    evaluations: int,
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Search once for each seed.

    Args:
        benchmark: what is searched.
        strategy: of `STRATEGIES`; one that needs no gradient.
        evaluations: architectures that may be looked up.
        seeds: one search each.
        settings: of the strategy.
        progress: told the seeds done, all seeds, and the first score.

    Returns:
        `strategy`, `evaluations`, `architectures` (their number), `scores` (of each one the `best`
        of the table, and `mean` and `std` of what was chosen) and `seeds` (one record each).

    Raises:
        InputError: for an unknown strategy or one that needs a supernet.
    """
    if strategy in STRATEGIES and STRATEGIES[strategy].uses_gradient:
        able = [name for name, known in STRATEGIES.items() if not known.uses_gradient]
        raise InputError(
            "needs the gradient of a supernet, and a table has none",
            where=f"--strategy {strategy}",
            expected=f"one of {', '.join(able)}",
        )
    first, *_ = benchmark.scores
    records: list[dict[str, Any]] = []
    for seed in seeds:
        records.append(_search(benchmark, strategy, evaluations, seed, settings or {}))
        progress(len(records), len(seeds), f"{records[-1]['scores'][first]:.4g}")
    reached = {name: [r["scores"][name] for r in records] for name in benchmark.scores}
    return {
        "strategy": strategy,
        "evaluations": evaluations,
        "architectures": len(benchmark.places),
        "scores": {
            name: {"best": best, "mean": float(np.mean(of)), "std": float(np.std(of))}
            for (name, best), of in zip(benchmark.best.items(), reached.values(), strict=True)
        },
        "seeds": records,
    }


def _search(
    benchmark: TableBenchmark, name: str, evaluations: int, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of one search."""
    space, decoder = benchmark.space, benchmark.decoder
    table = AccuracyTable(benchmark.percent, benchmark.latencies, benchmark.budget_ms)
    strategy = build_strategy(name, space, seed, settings, decoder)
    for done in range(evaluations):
        mixture = strategy.ask()
        outcome = table(space.most_likely(mixture))
        strategy.tell(mixture, outcome, (done + 1) / evaluations)
    (chosen,) = strategy.best(decoder, 1)
    place = benchmark.places[chosen]
    scores = {name: float(values[place]) for name, values in benchmark.scores.items()}
    return {
        "seed": seed,
        "architecture": space.to_genotype(chosen),
        "fitness": float(benchmark.fitness[place]),
        "scores": scores,
        "regrets": {name: abs(benchmark.best[name] - scores[name]) for name in scores},
        "latency_ms": benchmark.latencies.get(chosen),
        "size_weight": strategy.size_weight(),
        "evaluations": len(table.evaluated),
    }
