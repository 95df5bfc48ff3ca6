"""The latency gate, the stopping rule of measurements, and the Lagrangian objective."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwnas.budget.gate import (
    NetworkLatency,
    Session,
    is_decided,
    judge,
    measure_network,
    measure_together,
)
from hwnas.budget.objectives import dual, updated_multiplier
from hwnas.budget.speed import RecordedSpeed
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu, Runtime, create_runtime
from hwnas.latency_tables.statistics import SESSION_SPREAD

POSITIVE = st.floats(1e-3, 1e3)


@given(POSITIVE, POSITIVE, POSITIVE)
def test_gate_is_inconclusive_only_for_budgets_inside_the_interval(
    a: float, b: float, budget: float
) -> None:
    low, high = min(a, b), max(a, b)
    status = judge(low, high, budget)
    assert status == ("pass" if high <= budget else "fail" if low > budget else "inconclusive")


def sessions_of(*values_ms: float, reference_ms: float | None = None) -> list[Session]:
    """Sessions of 40 rounds that take exactly the given times."""
    beside = () if reference_ms is None else (reference_ms,) * 40
    return [Session((value_ms,) * 40, beside) for value_ms in values_ms]


def latency_of(
    *values_ms: float, reference_ms: float | None = None, recorded_ms: float | None = None
) -> NetworkLatency:
    occasions = () if recorded_ms is None else (recorded_ms,)
    return NetworkLatency.of_sessions(
        sessions_of(*values_ms, reference_ms=reference_ms),
        "p10",
        "onnxruntime-cpu",
        RecordedSpeed(occasions, occasions),
    )


def test_interval_contains_what_sessions_are_assumed_to_differ_by() -> None:
    one, four = latency_of(1.0), latency_of(1.0, 1.0, 1.0, 1.0)
    assert one.ci_high_ms == pytest.approx(1 + 1.96 * SESSION_SPREAD)
    assert one.ci_low_ms == pytest.approx(1 - 1.96 * SESSION_SPREAD)
    assert four.ci_high_ms - 1 < (one.ci_high_ms - 1) / 2


def test_sessions_that_differ_widen_the_interval_and_their_median_is_the_value() -> None:
    alike, different = latency_of(1.0, 1.0, 1.01), latency_of(0.8, 1.0, 1.2)
    assert alike.value_ms == different.value_ms == 1.0
    assert different.spread > 2 * alike.spread
    assert different.ci_high_ms > alike.ci_high_ms


def test_narrow_margin_is_inconclusive_in_one_session_and_passes_in_several() -> None:
    assert latency_of(1.0).gate(1.02) == "inconclusive"
    assert latency_of(*[1.0] * 12).gate(1.02) == "pass"


@pytest.mark.parametrize(
    "reference_ms, expected", [(0.10, "fail"), (0.11, "inconclusive"), (0.09, "fail")]
)
def test_network_over_the_budget_fails_only_if_a_slow_machine_does_not_explain_it(
    reference_ms: float, expected: str
) -> None:
    latency = latency_of(1.15, 1.15, 1.15, reference_ms=reference_ms, recorded_ms=0.10)
    assert latency.gate(1.0) == expected


def test_network_far_over_the_budget_fails_on_a_slow_machine_too() -> None:
    assert latency_of(3.0, 3.0, 3.0, reference_ms=0.15, recorded_ms=0.10).gate(1.0) == "fail"


@pytest.mark.parametrize("reference_ms, expected", [(0.10, "pass"), (0.08, "inconclusive")])
def test_network_passes_only_if_it_would_at_the_recorded_speed(
    reference_ms: float, expected: str
) -> None:
    latency = latency_of(0.9, 0.9, 0.9, reference_ms=reference_ms, recorded_ms=0.10)
    assert latency.gate(1.0) == expected


def test_slow_machine_does_not_take_a_pass_away() -> None:
    assert latency_of(0.9, 0.9, 0.9, reference_ms=0.2, recorded_ms=0.1).gate(1.0) == "pass"


def test_network_does_not_fail_while_one_session_is_within_the_budget() -> None:
    latency = latency_of(0.99, *[1.3] * 20)
    assert judge(latency.ci_low_ms, latency.ci_high_ms, 1.0) == "fail"
    assert latency.gate(1.0) == "inconclusive"


@pytest.mark.parametrize(
    "latency, words",
    [
        (latency_of(0.9, 0.9, reference_ms=0.08, recorded_ms=0.1), "20% faster than recorded"),
        (latency_of(1.15, 1.15, reference_ms=0.12, recorded_ms=0.1), "20% slower than recorded"),
        (latency_of(1.0), "1 session"),
        (latency_of(0.9), None),
    ],
)
def test_inconclusive_verdict_says_why(latency: NetworkLatency, words: str | None) -> None:
    found = latency.explanation(1.0)
    assert found is None if words is None else words in (found or "")


def test_latency_is_read_as_it_was_written_and_from_files_without_sessions() -> None:
    latency = latency_of(1.0, 1.1, reference_ms=0.1, recorded_ms=0.2)
    written = json.loads(json.dumps(latency.to_json()))
    assert NetworkLatency.from_json(written) == latency
    older = {k: v for k, v in written.items() if k not in ("sessions_ms", "spread", "speed")}
    found = NetworkLatency.from_json(older)
    assert (found.sessions_ms, found.speed) == ((), None)
    assert found.gate(2.0) == "pass"
    assert found.gate(0.5) == "fail"


def fixed(value_ms: Callable[[], float], reference_ms: float = 0.1) -> Runtime:
    """A runtime whose network and speed reference take the given times."""

    class Fixed(OnnxRuntimeCpu):
        def prepare_onnx(self, model: object, feeds: object) -> Callable[[], None]:
            return reference

        def time_block(self, call: Callable[[], None], calls: int) -> float:
            time.sleep(1e-5)
            return (reference_ms if call is reference else value_ms()) * calls

    def reference() -> None:
        pass

    return Fixed(1)


@pytest.mark.parametrize("budget_ms, expected", [(1e4, "pass"), (1e-7, "fail")])
def test_measured_call_passes_a_large_budget_and_fails_a_tiny_one(
    budget_ms: float, expected: str
) -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    latency = measure_network(
        lambda: lambda: sum(range(1000)) and None,
        runtime,
        budget_ms=budget_ms,
        seconds=60.0,
    )
    assert latency.gate(budget_ms) == expected
    assert len(latency.sessions_ms) == 3
    assert latency.rounds == 300
    assert latency.ci_low_ms <= latency.value_ms <= latency.ci_high_ms
    assert latency.statistic == "p10"
    assert latency.speed is not None
    assert latency.speed.drift is None


def test_each_session_prepares_the_network_anew() -> None:
    prepared = []

    def prepare() -> Callable[[], None]:
        prepared.append(len(prepared))
        return lambda: None

    latency = measure_network(prepare, fixed(lambda: 1.0), budget_ms=None, seconds=60.0)
    assert len(prepared) == len(latency.sessions_ms) == 3


def test_undecided_network_is_measured_again_after_a_pause() -> None:
    latency = measure_network(
        lambda: lambda: None, fixed(lambda: 0.985), budget_ms=1.0, seconds=60.0
    )
    assert latency.gate(1.0) == "pass"
    assert len(latency.sessions_ms) == 6


def test_measuring_ends_in_time_when_nothing_decides() -> None:
    recorded = RecordedSpeed((0.05,), (0.05,))
    started = time.monotonic()
    latency = measure_network(
        lambda: lambda: None, fixed(lambda: 1.2), budget_ms=1.0, seconds=2.0, recorded=recorded
    )
    assert latency.gate(1.0) == "inconclusive"
    assert time.monotonic() - started < 20


def test_networks_measured_together_have_the_same_rounds() -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    calls = {"short": lambda: sum(range(500)), "long": lambda: sum(range(5000))}
    found = measure_together(calls, runtime, seconds=60.0)
    assert list(found) == ["short", "long"]
    assert len(found["short"]) == len(found["long"]) == 300
    slower = [a < b for a, b in zip(found["short"], found["long"], strict=True)]
    assert sum(slower) > 0.9 * len(slower)


@pytest.mark.parametrize(
    "value_ms, statistic, time_share, expected",
    [
        (0.8, "p10", 0.0, True),
        (1.0, "p10", 0.9, False),
        (1.4, "p10", 0.3, False),
        (1.4, "p10", 0.4, True),
        (2.5, "p10", 0.0, True),
        (1.4, "median", 0.0, True),
    ],
)
def test_narrow_failure_on_a_cpu_is_decided_after_a_third_of_the_time(
    value_ms, statistic, time_share, expected
) -> None:
    latency = replace(latency_of(value_ms, value_ms, value_ms), statistic=statistic)
    assert is_decided(latency, 1.0, time_share) == expected


def test_narrow_failure_is_measured_for_a_third_of_the_time() -> None:
    started = time.monotonic()
    latency = measure_network(
        lambda: lambda: None,
        fixed(lambda: random.uniform(1.3, 1.4)),
        budget_ms=1.0,
        seconds=6.0,
    )
    assert latency.gate(1.0) == "fail"
    assert len(latency.sessions_ms) > 3
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
