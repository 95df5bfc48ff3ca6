"""Strategies on NAS-Bench-201, where every cell's accuracy is known.

A strategy sees the 12-epoch validation accuracy of the cells that it evaluates, and latencies;
what it chose is judged by the test accuracy after 200 epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from hwnas.spaces import build_space
from hwnas.studies.tables import Progress, TableBenchmark, bench_table, silent

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
    def table(self) -> TableBenchmark:
        """The benchmark as a table: what strategies see, and what they are judged by."""
        return TableBenchmark(
            build_space("nasbench201"),
            self.index,
            self.accuracy("val", 12),
            {
                "test_accuracy": self.accuracy("test", 200),
                "validation_accuracy": self.accuracy("val", 200),
            },
            latency_ms=self.latency_ms,
            budget_ms=self.budget_ms,
            perfect=100.0,
        )

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
    progress: Progress = silent,
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
    found = bench_table(
        benchmark.table,
        strategy,
        evaluations=evaluations,
        seeds=seeds,
        settings=settings,
        progress=progress,
    )
    reached = found["scores"]["test_accuracy"]
    return {
        "strategy": strategy,
        "dataset": benchmark.dataset,
        "evaluations": evaluations,
        "budget_ms": benchmark.budget_ms if benchmark.latency_ms is not None else None,
        "seeds": [_judged(record, benchmark.budget_ms) for record in found["seeds"]],
        "mean": reached["mean"],
        "std": reached["std"],
    }


def _judged(record: dict[str, Any], budget_ms: float) -> dict[str, Any]:
    """The record of a search, with the test accuracy as what it is judged by."""
    latency_ms = record["latency_ms"]
    plain = {name: value for name, value in record.items() if name not in ("scores", "regrets")}
    return {
        **plain,
        **record["scores"],
        "violated": latency_ms is not None and latency_ms > budget_ms,
        "regret": record["regrets"]["test_accuracy"],
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
