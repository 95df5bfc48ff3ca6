"""Selection by measurement, on a simulated device whose true latencies are known."""

from __future__ import annotations

import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.limit import Limit
from hwnas.budget.selection import (
    BudgetError,
    FurtherBudgets,
    NetworkCosts,
    Selection,
    UndecidedError,
)
from hwnas.errors import InputError
from hwnas.runs.run_folder import RunFolder
from hwnas.strategies import build_strategy
from hwnas.strategies.size_prior import largest_networks


def latency(value_ms: float, half_width: float = 0.01) -> NetworkLatency:
    low, high = value_ms * (1 - half_width), value_ms * (1 + half_width)
    return NetworkLatency(
        value_ms, value_ms, value_ms, "p10", value_ms, low, high, 50, "ok", "onnxruntime-cpu"
    )


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()
    return run_folder


class Device:
    """A simulated device that is slower than the latency table by a constant factor."""

    def __init__(self, cost: CostModel, factor: float) -> None:
        self.cost = cost
        self.factor = factor
        self.measured: list[Architecture] = []

    def true_ms(self, architecture: Architecture) -> float:
        return self.factor * self.cost.latency_ms(architecture)

    def measure(self, architecture: Architecture) -> NetworkCosts:
        """Networks take 30 MB and 10 MB in turn; an inference takes 2 mJ per millisecond."""
        self.measured.append(architecture)
        true_ms = self.true_ms(architecture)
        memory_mb = 30.0 if len(self.measured) % 2 else 10.0
        return NetworkCosts(latency(true_ms), memory_mb, 2 * true_ms)


def selection(
    folder: RunFolder,
    factor: float,
    share: float = 0.5,
    limit: int = 8,
    further: FurtherBudgets | None = None,
    size_weight: float = 0.0,
):
    space = tiny_space("darts")
    cost = CostModel(space, table_of(space, "torch-cpu"))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    budget_ms = fastest_ms + share * (slowest_ms - fastest_ms)
    device = Device(cost, factor)
    strategy = build_strategy("darts", space, 0, {}, Decoder([Limit(cost, budget_ms)]))

    def rank(architectures: list[Architecture]) -> list[float]:
        """Slower networks are more accurate, so the budget is the active constraint."""
        return [device.true_ms(a) / 1000 for a in architectures]

    loop = Selection(
        strategy,
        [Limit(cost, budget_ms)],
        rank,
        device.measure,
        folder,
        further,
        candidates=4,
        max_measured=limit,
        size_weight=size_weight,
    )
    return loop, device, budget_ms


@pytest.mark.parametrize("factor", [0.6, 0.95, 1.0, 1.1, 1.4])
def test_measurements_correct_a_biased_table_until_the_budget_is_kept(
    folder, factor: float
) -> None:
    loop, device, budget_ms = selection(folder, factor)
    chosen = loop.run()
    assert device.true_ms(chosen.architecture) * 1.01 <= budget_ms
    learned_ms = loop.corrected.latency_ms(chosen.architecture)
    assert learned_ms == pytest.approx(device.true_ms(chosen.architecture) * 1.01, rel=0.02)
    assert loop.limits[0].cost is device.cost
    assert len(device.measured) <= 3


def test_recorded_measurements_are_not_repeated(folder) -> None:
    first, device, _ = selection(folder, 1.3)
    chosen = first.run()
    again, second_device, _ = selection(folder, 1.3)
    assert again.run() == chosen
    assert device.measured
    assert not second_device.measured


def test_budget_error_if_every_measured_network_is_too_slow(folder) -> None:
    loop, _, _ = selection(folder, 30.0, limit=3)
    with pytest.raises(BudgetError) as error:
        loop.run()
    assert error.value.exit_code == 1


def test_chosen_network_keeps_the_memory_budget_too(folder) -> None:
    loop, device, budget_ms = selection(folder, 1.0, further=FurtherBudgets(memory_mb=20))
    chosen = loop.run()
    assert chosen.costs.memory_mb == 10
    assert chosen.latency.ci_high_ms <= budget_ms
    assert len(device.measured) >= 2
    again, second_device, _ = selection(folder, 1.0, further=FurtherBudgets(memory_mb=20))
    assert again.run() == chosen
    assert not second_device.measured


@pytest.mark.parametrize("further", [FurtherBudgets(memory_mb=5), FurtherBudgets(energy_mj=1e-6)])
def test_budget_error_if_only_the_latency_budget_can_be_kept(folder, further) -> None:
    loop, device, _ = selection(folder, 1.0, limit=3, further=further)
    with pytest.raises(BudgetError, match="keeps the others"):
        loop.run()
    assert len(device.measured) == 3


def test_noise_leaves_a_search_undecided_only_if_the_other_budgets_are_kept(folder) -> None:
    for further, error in (
        (FurtherBudgets(memory_mb=50), UndecidedError),
        (FurtherBudgets(memory_mb=5), BudgetError),
    ):
        loop, _, budget_ms = selection(folder, 1.0, limit=2, further=further)
        noisy = latency(budget_ms, half_width=0.5)
        loop.measure = lambda a, noisy=noisy: NetworkCosts(noisy, 20.0)
        with pytest.raises(error):
            loop.run()


def test_recorded_measurement_without_a_budgeted_cost_is_repeated(folder) -> None:
    loop, device, _ = selection(folder, 1.0)
    loop.measure = lambda a: NetworkCosts(latency(device.true_ms(a)))
    loop.run()
    again, device, _ = selection(folder, 1.0, further=FurtherBudgets(memory_mb=100))
    again.run()
    assert device.measured


def test_unreachable_budget_is_refused_before_measuring(folder) -> None:
    loop, device, _ = selection(folder, 1.0, share=-0.01)
    with pytest.raises(InputError, match="no architecture keeps the budget"):
        loop.run()
    assert not device.measured


def test_finalists_keep_the_budget_on_the_device_and_use_it(folder) -> None:
    """The table says that networks are slower than they are: the budget allows larger ones."""
    loop, device, budget_ms = selection(folder, 0.7, share=0.15, limit=12, size_weight=2.0)
    kept = loop.finalists(5)
    assert len(kept) == 5
    assert all(device.true_ms(m.architecture) * 1.01 <= budget_ms for m in kept)
    space = device.cost.space
    sizes = [space.params_and_macs(m.architecture)[0] for m in kept]
    uncorrected = next(largest_networks(space, Decoder(loop.limits), "parameters"))
    assert max(sizes) > space.params_and_macs(uncorrected)[0]


def test_every_second_finalist_is_one_of_the_largest_unless_size_has_no_weight(folder) -> None:
    loop, device, _ = selection(folder, 1.0, size_weight=2.0)
    ranking = largest_networks(device.cost.space, Decoder(loop.limits), seed=0)
    pool = loop._pool(4)
    assert pool[1::2][:4] == [next(ranking) for _ in range(4)]
    plain, _, _ = selection(folder, 1.0)
    assert set(plain._pool(4)) == set(plain._decoded(plain.limits[0]))


def test_candidates_are_larger_with_a_size_weight(folder) -> None:
    sizes = {}
    for weight in (0.0, 2.0):
        loop, device, _ = selection(folder, 1.0, size_weight=weight)
        decoded = loop._decoded(loop.limits[0])
        sizes[weight] = [device.cost.space.params_and_macs(a)[0] for a in decoded]
    assert min(sizes[2.0]) > max(sizes[0.0])


def test_no_finalist_keeps_the_budget_of_a_device_that_is_far_too_slow(folder) -> None:
    loop, device, _ = selection(folder, 30.0, limit=3)
    with pytest.raises(BudgetError):
        loop.finalists(2)
    assert len(device.measured) <= 3


def test_finalists_that_were_measured_are_not_measured_again(folder) -> None:
    first, _, _ = selection(folder, 0.9)
    kept = first.finalists(4)
    again, device, _ = selection(folder, 0.9)
    assert again.finalists(4) == kept
    assert not device.measured


def test_finalists_stay_the_same_when_a_run_is_resumed_on_another_day(folder) -> None:
    """A candidate that noise left undecided would be measured again, and the others change."""
    first, _, _ = selection(folder, 0.9)
    kept = first.finalists(3)
    slower, device, _ = selection(folder, 1.5)
    slower.recorded = {}
    assert slower.finalists(3) == kept
    assert not device.measured
