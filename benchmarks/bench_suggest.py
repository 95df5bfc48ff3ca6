"""Claim: architectures suggested from CIFAR-10 searches alone are near the best of CIFAR-100.

    HWNAS_DATA=... python benchmarks/bench_suggest.py [--base random] [--bases 5] [--searches 3]
        [--confidence 0.9]

NAS-Bench-201. A base has searches on CIFAR-10 without a budget (100 evaluations each, accuracies
after 12 epochs). For each of 19 published devices, known by its shipped table, and for the budgets
that 10, 25, 50, 75 and 90 % of the cells keep, ten cells are suggested for CIFAR-100 with a
confidence; nothing is evaluated. Regret is the test accuracy after 200 epochs of the best
cell that keeps the budget less that of the best suggestion, and of the first one, that keep it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from bench_transfer import SPACE, experience
from results import append_row

from hwnas.budget.cost import CostModel
from hwnas.budget.limit import Limit
from hwnas.latency_tables.shipped import load_shipped
from hwnas.pipeline.suggest import CONFIDENCE, suggestions
from hwnas.studies.nasbench201 import Benchmark

COUNT = 10
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bases", type=int, default=5)
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--base", default="random", help="strategy of the base's searches")
    parser.add_argument("--confidence", type=float, default=CONFIDENCE)
    parser.set_defaults(shuffled=False)
    arguments = parser.parse_args()
    path = Path(os.environ["HWNAS_DATA"]) / "help_nb201_latency_ms.npz"
    with np.load(path, allow_pickle=False) as file:
        latencies_ms, devices = file["latency_ms"].astype(np.float64), file["devices"]
    source, target = Benchmark("cifar10"), Benchmark("cifar100")
    test = target.accuracy("test", 200)
    bases = [experience(source, arguments, seed) for seed in range(arguments.bases)]
    records, seconds = [], []
    for number, (device, latency_ms) in enumerate(zip(devices, latencies_ms.T, strict=True)):
        cost = CostModel(SPACE, load_shipped(f"nasbench201-{device}"))
        for quantile in QUANTILES:
            budget_ms = float(np.quantile(latency_ms, quantile))
            started = time.process_time()
            found = suggestions(
                SPACE,
                bases[(number + len(records)) % len(bases)],
                Limit(cost, budget_ms, arguments.confidence),
                COUNT,
                np.random.default_rng(number),
            )
            seconds.append(time.process_time() - started)
            places = np.array([target.index[one.architecture] for one in found])
            kept = latency_ms[places] <= budget_ms
            best = test[latency_ms <= budget_ms].max()
            regrets = best - test[places[kept]]
            records.append((regrets.min(), regrets[0], 1 - kept.mean()))
    best_of, first, broken = np.array(records).T
    append_row(
        "suggest",
        {
            "devices": len(devices),
            "budgets": len(QUANTILES),
            "base": f"{arguments.searches} {arguments.base}",
            "bases": arguments.bases,
            "suggested": COUNT,
            "confidence": arguments.confidence,
            "regret_of_best": float(best_of.mean()),
            "error": float(best_of.std(ddof=1) / len(best_of) ** 0.5),
            "worst_regret_of_best": float(best_of.max()),
            "regret_of_first": float(first.mean()),
            "share_over_budget": float(broken.mean()),
            "worst_share_over_budget": float(broken.max()),
            "cpu_seconds": float(np.mean(seconds)),
        },
    )


if __name__ == "__main__":
    main()
