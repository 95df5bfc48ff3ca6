"""Claim: a budget is kept on devices that are known by few measured networks, at little loss.

    HWNAS_DATA=... python benchmarks/bench_budget_regret.py [--seeds 5]

On each of the published devices, with the tables of other families as the only prior, and at the
budgets that 10, 25, 50, 75 and 90 % of the cells keep: a table is fitted to a few designed
networks, and the selection measures candidates, ten networks in all. Accuracies are the
benchmark's, so that what is lost is lost to latency alone. Regret is the CIFAR-100 test accuracy of
the best cell that really keeps the budget less that of the cell chosen.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from results import append_row

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.coefficients import architecture_features
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.limit import Limit
from hwnas.budget.selection import BudgetError, Selection
from hwnas.calibration.design import design
from hwnas.calibration.make import all_cells, fitted_table
from hwnas.calibration.prior import Prior, from_devices
from hwnas.data.nasbench201 import load_nasbench201
from hwnas.latency_tables.calibration import EDGE_RULES
from hwnas.latency_tables.shipped import load_shipped
from hwnas.latency_tables.table import LatencyTable
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces import build_space
from hwnas.strategies.base import Outcome, SearchStrategy

LOOK_UPS = 10
DESIGNED = 6
CANDIDATES = 50
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
ACCURACY = "c100_test_200"


class Exhaustive(SearchStrategy):
    """Knows every cell's accuracy; proposes the best that are predicted to keep the budget."""

    def __init__(self, cells: list[Architecture], accuracy: np.ndarray) -> None:
        self.cells = cells
        self.accuracy = accuracy
        self.order = np.argsort(-accuracy)
        self.index = {cell: i for i, cell in enumerate(cells)}
        space = build_space("nasbench201", {})
        self.rows = {edges: architecture_features(space, cells, edges) for edges in EDGE_RULES}

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """The k most accurate cells among the feasible."""
        feasible = np.ones(len(self.cells), dtype=bool)
        for limit in decoder.limits:
            rows = self.rows[limit.cost.edges]
            feasible &= limit.cost.coefficients.latency_ms(rows) <= limit.budget_ms
        return [self.cells[i] for i in self.order[feasible[self.order]][:k]]

    def ask(self) -> Mixture:
        raise NotImplementedError("nothing is trained")

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        """Nothing is learned."""

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """There is no state."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    path = Path(os.environ["HWNAS_DATA"]) / "help_nb201_latency_ms.npz"
    with np.load(path, allow_pickle=False) as file:
        latencies_ms, devices = file["latency_ms"].astype(float), [str(d) for d in file["devices"]]
    space = build_space("nasbench201", {})
    strategy = Exhaustive(all_cells(space), load_nasbench201().accuracy[ACCURACY].astype(float))
    regrets: dict[str, list[float]] = {}
    violated = failed = 0
    for column, device in enumerate(devices):
        family = device.split("_")[0]
        others = [load_shipped(f"nasbench201-{d}") for d in devices if d.split("_")[0] != family]
        prior = from_devices(space, others)
        latency_ms = latencies_ms[:, column]
        for seed in range(arguments.seeds):
            cost = CostModel(space, table_of(device, latency_ms, strategy, prior, seed))
            for quantile in QUANTILES:
                budget_ms = float(np.quantile(latency_ms, quantile))
                chosen = search(Limit(cost, budget_ms), strategy, latency_ms)
                if chosen is None:
                    failed += 1
                    continue
                violated += latency_ms[chosen] > budget_ms
                best = strategy.accuracy[latency_ms <= budget_ms].max()
                regrets.setdefault(device, []).append(float(best - strategy.accuracy[chosen]))
    regret = np.concatenate(list(regrets.values()))
    append_row(
        "budget_regret",
        {
            "devices": len(devices),
            "budgets": len(QUANTILES),
            "seeds": arguments.seeds,
            "look_ups": LOOK_UPS,
            "designed": DESIGNED,
            "violations": violated,
            "nothing_found": failed,
            "mean_regret_c100": float(np.mean(regret)),
            "p95_regret_c100": float(np.quantile(regret, 0.95)),
            "worst_regret_c100": float(np.max(regret)),
            "by_device": " ".join(f"{d}:{np.mean(v):.2f}" for d, v in regrets.items()),
        },
    )


def table_of(
    device: str, latency_ms: np.ndarray, strategy: Exhaustive, prior: Prior, seed: int
) -> LatencyTable:
    """The table of a device that is known by the designed networks only."""
    space = build_space("nasbench201", {})
    measured = design(space, prior, DESIGNED, seed=seed)
    taken = [strategy.index[network] for network in measured]
    return fitted_table(space, prior, measured, latency_ms[taken], device)


def search(limit: Limit, strategy: Exhaustive, latency_ms: np.ndarray) -> int | None:
    """The chosen cell's index after the remaining look-ups; None when none keeps the budget."""

    def rank(networks: list[Architecture]) -> list[float]:
        return [float(strategy.accuracy[strategy.index[a]]) / 100 for a in networks]

    def measure(network: Architecture) -> NetworkLatency:
        return NetworkLatency.stated(float(latency_ms[strategy.index[network]]), "file")

    with tempfile.TemporaryDirectory() as folder:
        selection = Selection(
            strategy,
            [limit],
            rank,
            measure,
            RunFolder(Path(folder)),
            candidates=CANDIDATES,
            max_measured=LOOK_UPS - DESIGNED,
        )
        try:
            return strategy.index[selection.run().architecture]
        except BudgetError:
            return None


if __name__ == "__main__":
    main()
