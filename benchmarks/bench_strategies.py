"""Claim: what black-box strategies find on NAS-Bench-201, with and without latency budgets.

    python benchmarks/bench_strategies.py accuracy STRATEGY [--dataset cifar100] [--evaluations 150]
        [--seeds 500] [--set key=value ...]
    HWNAS_DATA=... python benchmarks/bench_strategies.py budgets STRATEGY [--evaluations 100]
        [--seeds 5]

A strategy sees 12-epoch validation accuracies; what it chose is judged by the 200-epoch test
accuracy. `budgets` searches on each of 19 published devices at the latencies that 10, 25, 50, 75
and 90 % of the cells keep; regret is to the best cell within the budget. `largest` and `random`
are the controls. Rows of `budgets` have standard errors of the means over devices and over seeds.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import append_row

from hwnas.config import read_overrides
from hwnas.studies.nasbench201 import Benchmark, bench_strategy

BENCHMARK, BUDGETED = "strategies", "budgeted_strategies"
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("accuracy", "budgets"))
    parser.add_argument("strategy")
    parser.add_argument("--dataset", default="cifar100", choices=("cifar10", "cifar100"))
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--dry", action="store_true", help="print the row, write nothing")
    arguments = parser.parse_args()
    settings = read_overrides(arguments.set)
    started = time.monotonic()
    bench = bench_accuracy if arguments.which == "accuracy" else bench_budgets
    figures, searches = bench(arguments, settings)
    row: dict[str, Any] = {
        "case": arguments.which,
        "strategy": " ".join([arguments.strategy, *arguments.set]),
        "dataset": arguments.dataset,
        "evaluations": arguments.evaluations,
        "seeds": arguments.seeds,
        **figures,
        "seconds_per_search": (time.monotonic() - started) / searches,
    }
    if arguments.dry:
        print(row)
    else:
        append_row(BENCHMARK if arguments.which == "accuracy" else BUDGETED, row)


def bench_accuracy(
    arguments: argparse.Namespace, settings: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """Without a budget."""
    found = bench_strategy(
        Benchmark(arguments.dataset),
        arguments.strategy,
        evaluations=arguments.evaluations,
        seeds=range(arguments.seeds),
        settings=settings,
    )
    regret = float(np.mean([record["regret"] for record in found["seeds"]]))
    return _figures(found["mean"], found["std"], regret, 0), arguments.seeds


def bench_budgets(
    arguments: argparse.Namespace, settings: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """On every device at every budget."""
    path = Path(os.environ["HWNAS_DATA"]) / "help_nb201_latency_ms.npz"
    with np.load(path, allow_pickle=False) as file:
        latencies_ms, devices = file["latency_ms"].astype(np.float64), file["devices"]
    records = []
    for device, latency_ms in zip(devices, latencies_ms.T, strict=True):
        of_device = []
        for quantile in QUANTILES:
            budget_ms = float(np.quantile(latency_ms, quantile))
            found = bench_strategy(
                Benchmark(arguments.dataset, latency_ms, budget_ms),
                arguments.strategy,
                evaluations=arguments.evaluations,
                seeds=range(arguments.seeds),
                settings=settings,
            )
            of_device += found["seeds"]
        records += of_device
        print(f"{device}: regret {np.mean([r['regret'] for r in of_device]):.2f}", flush=True)
    regrets = np.array([record["regret"] for record in records])
    regrets = regrets.reshape(len(devices), len(QUANTILES), arguments.seeds)
    by_device, by_seed = regrets.mean(axis=(1, 2)), regrets.mean(axis=(0, 1))
    weights = [r["size_weight"] for r in records if r["size_weight"] is not None]
    figures = {
        "regret": float(regrets.mean()),
        "error_of_devices": _standard_error(by_device),
        "error_of_seeds": _standard_error(by_seed),
        "worst_regret": float(regrets.max()),
        "violations": sum(record["violated"] for record in records),
        "size_weight": float(np.mean(weights)) if weights else "",
        "by_device": " ".join(f"{d}:{r:.2f}" for d, r in zip(devices, by_device, strict=True)),
    }
    return figures, len(records)


def _standard_error(means: np.ndarray) -> float | str:
    """Of the mean of these means; nothing for a single one."""
    return float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else ""


def _figures(mean: float, std: float, regret: float, violations: int) -> dict[str, Any]:
    return {
        "test_accuracy": mean,
        "std": std,
        "regret": regret,
        "violations": violations,
    }


if __name__ == "__main__":
    main()
