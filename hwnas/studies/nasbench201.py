"""Strategies on NAS-Bench-201, where every cell's accuracy is known.

A strategy sees the 12-epoch validation accuracy of the cells that it evaluates, and latencies;
what it chose is judged by the test accuracy after 200 epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.calibration.make import all_cells
from hwnas.calibration.networks import read_measurements
from hwnas.data.nasbench201 import load_nasbench201
from hwnas.errors import InputError
from hwnas.evaluators.accuracy_table import AccuracyTable, TableDecoder
from hwnas.spaces import build_space
from hwnas.studies.lookups import for_each_seed, look_up, require_evaluations

PREFIXES = {"cifar10": "c10", "cifar100": "c100"}


@dataclass(frozen=True)
class Benchmark:
    """NAS-Bench-201 on one data set, with the latencies of a device or without.

    Attributes:
        dataset: `cifar10` or `cifar100`.
        latency_ms: (15625,) in the benchmark's order, or None.
        budget_ms: the largest latency allowed.
    """

    dataset: str
    latency_ms: np.ndarray | None = None
    budget_ms: float = np.inf

    @cached_property
    def cells(self) -> list[Architecture]:
        """All cells in the benchmark's order."""
        return all_cells(build_space("nasbench201"))

    @cached_property
    def index(self) -> dict[Architecture, int]:
        """Where each cell stands."""
        return {cell: i for i, cell in enumerate(self.cells)}

    @cached_property
    def fitness(self) -> dict[Architecture, float]:
        """What strategies see."""
        return dict(zip(self.cells, self.accuracy("val", 12).tolist(), strict=True))

    @cached_property
    def latencies(self) -> dict[Architecture, float]:
        """Milliseconds of each cell's network; empty without a device."""
        if self.latency_ms is None:
            return {}
        return dict(zip(self.cells, self.latency_ms.tolist(), strict=True))

    @cached_property
    def decoder(self) -> TableDecoder:
        """Knows which cells keep the budget."""
        space = build_space("nasbench201")
        return TableDecoder(space, self.cells, self.latency_ms, self.budget_ms)

    @cached_property
    def optimum(self) -> float:
        """The best test accuracy of a cell that keeps the budget."""
        test = self.accuracy("test", 200)
        return float(max(test[self.index[cell]] for cell in self.decoder.kept))

    def accuracy(self, split: str, epochs: int) -> np.ndarray:
        """(15625,) in percent."""
        table = load_nasbench201().accuracy
        return table[f"{PREFIXES[self.dataset]}_{split}_{epochs}"].astype(np.float64)


def bench_strategy(
    benchmark: Benchmark,
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
        evaluations: cells that may be looked up.
        seeds: one search each.
        settings: of the strategy.
        progress: told the seeds done, all seeds, and the accuracy.

    Returns:
        `strategy`, `dataset`, `evaluations`, `seeds` (one record each), and `mean` and `std` of
        the test accuracy in percent.

    Raises:
        InputError: for an unknown strategy or one that needs a supernet.
    """
    require_evaluations(strategy)
    found = for_each_seed(
        lambda seed: _search(benchmark, strategy, evaluations, seed, settings or {}),
        "test_accuracy",
        seeds,
        progress,
        " %",
    )
    return {
        "strategy": strategy,
        "dataset": benchmark.dataset,
        "evaluations": evaluations,
        "budget_ms": benchmark.budget_ms if benchmark.latency_ms is not None else None,
        **found,
    }


def _search(
    benchmark: Benchmark, name: str, evaluations: int, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    decoder = benchmark.decoder
    space = build_space("nasbench201")
    table = AccuracyTable(benchmark.fitness, benchmark.latencies, benchmark.budget_ms)
    chosen, strategy = look_up(
        space, table, decoder, name, evaluations=evaluations, seed=seed, settings=settings
    )
    index = benchmark.index[chosen]
    latency_ms = benchmark.latencies.get(chosen)
    test_accuracy = float(benchmark.accuracy("test", 200)[index])
    return {
        "seed": seed,
        "architecture": space.to_genotype(chosen),
        "fitness": benchmark.fitness[chosen],
        "validation_accuracy": float(benchmark.accuracy("val", 200)[index]),
        "test_accuracy": test_accuracy,
        "latency_ms": latency_ms,
        "violated": latency_ms is not None and latency_ms > benchmark.budget_ms,
        "regret": benchmark.optimum - test_accuracy,
        "size_weight": strategy.size_weight(),
        "evaluations": len(table.evaluated),
    }


def read_latencies(path: Path) -> np.ndarray:
    """(15625,) ms of all cells from a file with the columns `arch,latency_ms`.

    Raises:
        InputError: when the file is malformed, or cells are missing.
    """
    space = build_space("nasbench201")
    cells = all_cells(space)
    networks, latency_ms = read_measurements(path, space)
    known = dict(zip(networks, latency_ms.tolist(), strict=True))
    missing = [cell for cell in cells if cell not in known]
    if missing:
        raise InputError(
            "cells are missing",
            where=str(path),
            expected=f"{len(cells)} cells",
            actual=f"{len(cells) - len(missing)}",
        )
    return np.array([known[cell] for cell in cells])
