"""The latency gate, the stopping rule of measurements, and the Lagrangian objective."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwnas.budget.gate import is_decided, judge, measure_network, measure_together
from hwnas.budget.objectives import dual, updated_multiplier
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu, create_runtime
from hwnas.latency_tables.statistics import Summary

POSITIVE = st.floats(1e-3, 1e3)


@given(POSITIVE, POSITIVE, POSITIVE)
def test_gate_is_inconclusive_only_for_budgets_inside_the_interval(
    a: float, b: float, budget: float
) -> None:
    low, high = min(a, b), max(a, b)
    status = judge(low, high, budget)
    assert status == ("pass" if high <= budget else "fail" if low > budget else "inconclusive")


@pytest.mark.parametrize("budget_ms, expected", [(1e4, "pass"), (1e-7, "fail")])
def test_measured_call_passes_a_large_budget_and_fails_a_tiny_one(
    budget_ms: float, expected: str
) -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    latency = measure_network(lambda: sum(range(1000)), runtime, budget_ms=budget_ms, seconds=60.0)
    assert latency.gate(budget_ms) == expected
    assert latency.rounds >= 300
    assert latency.ci_low_ms <= latency.value_ms <= latency.ci_high_ms
    assert latency.statistic == "p10"
    assert latency.value_ms == pytest.approx(latency.p10_ms)


def test_networks_measured_together_have_the_same_rounds() -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    calls = {"short": lambda: sum(range(500)), "long": lambda: sum(range(5000))}
    found = measure_together(calls, runtime, budget_ms=1e4, seconds=60.0)
    assert list(found) == ["short", "long"]
    assert len(found["short"]) == len(found["long"]) >= 300
    slower = [a < b for a, b in zip(found["short"], found["long"], strict=True)]
    assert sum(slower) > 0.9 * len(slower)


@pytest.mark.parametrize(
    "low_ms, high_ms, statistic, time_share, expected",
    [
        (0.8, 0.9, "p10", 0.0, True),
        (0.9, 1.1, "p10", 0.9, False),
        (1.4, 1.5, "p10", 0.3, False),
        (1.4, 1.5, "p10", 0.4, True),
        (2.1, 2.2, "p10", 0.0, True),
        (1.4, 1.5, "median", 0.0, True),
    ],
)
def test_narrow_failure_on_a_cpu_is_decided_after_a_third_of_the_time(
    low_ms, high_ms, statistic, time_share, expected
) -> None:
    summary = Summary(2.0, high_ms, 3.0, high_ms, low_ms, high_ms, rounds=300)
    assert is_decided(summary, 1.0, statistic, time_share) == expected


def test_narrow_failure_is_measured_for_a_third_of_the_time() -> None:
    class Slow(OnnxRuntimeCpu):
        def time_block(self, call: Callable[[], None], calls: int) -> float:
            time.sleep(1e-4)
            return random.uniform(1.3, 1.4) * calls

    started = time.monotonic()
    latency = measure_network(lambda: None, Slow(1), budget_ms=1.0, seconds=6.0)
    assert latency.gate(1.0) == "fail"
    assert latency.rounds > 300
    assert time.monotonic() - started > 2.0


def test_multiplier_rises_over_the_budget_and_falls_under_it() -> None:
    assert updated_multiplier(0.5, 2.0, 0.1) == pytest.approx(0.6)
    assert updated_multiplier(0.5, 0.5, 0.1) == pytest.approx(0.45)
    assert updated_multiplier(0.01, 0.5, 0.1) == 0.0


def test_dual_objective_adds_the_weighted_excess_of_latency() -> None:
    loss, ratio = torch.tensor(2.0), torch.tensor(1.5, requires_grad=True)
    value = dual(loss, ratio, multiplier=0.5)
    assert value.item() == pytest.approx(2.25)
    value.backward()
    assert ratio.grad.item() == pytest.approx(0.5)
