"""Gates are evaluated from figures: serving, memory, placement, predictions, and the verdict."""

from __future__ import annotations

import pytest

from hwnas.budget.gate import NetworkLatency
from hwnas.checking.agreement import Agreement
from hwnas.checking.gates import (
    Gate,
    budget_gate,
    confidence_gate,
    energy_gates,
    memory_gates,
    parity_gates,
    parity_limits,
    placement_gates,
    predicted_gate,
    score_gates,
    serving_gates,
    verdict_of,
)
from hwnas.checking.parity import Parity
from hwnas.checking.scores import Score
from hwnas.config import CheckConfig
from hwnas.latency_tables.measuring.energy import Energy
from hwnas.latency_tables.measuring.serving import Serving
from hwnas.latency_tables.runtimes import OnnxModelRuntime, OnnxRuntimeCuda, create_runtime


@pytest.mark.parametrize(
    "statuses, verdict",
    [
        (["pass", "skipped"], "pass"),
        (["reported"], "pass"),
        (["reported", "fail"], "fail"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
    ],
)
def test_a_failed_gate_outweighs_an_inconclusive_one(statuses, verdict) -> None:
    assert verdict_of([Gate("g", status, None, None) for status in statuses]) == verdict


SCORED = Score("accuracy", 0.9, 0.95, "reference", 200, 0.5)


def test_a_figure_without_a_limit_is_reported_and_decides_nothing() -> None:
    drop, found, above = score_gates(SCORED, CheckConfig())
    assert (found.name, found.status, found.value) == ("accuracy", "reported", 0.9)
    assert found.limit is found.bound is None
    assert (drop.status, above.status) == ("fail", "pass")
    latency = budget_gate(NetworkLatency.stated(1.5, "elsewhere"), None)
    assert (latency.status, latency.value, latency.bound) == ("reported", 1.5, None)
    skipped = score_gates(None, CheckConfig(min_accuracy=0.5))
    assert {gate.status for gate in skipped} == {"skipped"}


def test_a_limit_is_the_least_or_the_largest_value_that_passes() -> None:
    limits = CheckConfig(min_accuracy=0.9)
    parity = Parity(0.0, True, 90.0, (Agreement(1.0, False),), 2, 100)
    gates = [
        *score_gates(SCORED, limits),
        *parity_gates(parity, parity_limits("float32", limits)),
        *memory_gates(1.0, 10.0),
        *memory_gates(None, 10.0),
        *energy_gates(None, 10.0),
        *energy_gates(Energy(1.0, 1.0, 1, "nvml"), 10.0),
        *serving_gates(Serving(2, 1.0, 100, 0, 100.0, {}, 200.0, 1.0)),
        *placement_gates(OnnxRuntimeCuda(1), {"placement": {"CUDAExecutionProvider": {"A": 1}}}),
        budget_gate(NetworkLatency.stated(1.5, "elsewhere"), 2.0),
        confidence_gate(0.95, 0.9),
        predicted_gate("phone", 1.9, 2.0),
    ]
    bounds = {gate.name: gate.to_json()["bound"] for gate in gates}
    least = "accuracy accuracy_above_chance agreement budget_confidence placement sqnr"
    largest = "accuracy_drop budget energy memory memory_growth serving_errors"
    expected = dict.fromkeys(least.split(), "min") | dict.fromkeys(largest.split(), "max")
    assert bounds == expected | {"budget: phone": "max", "parity": None}


def test_memory_is_compared_with_its_budget() -> None:
    assert [gate.status for gate in memory_gates(20.0, 10.0)] == ["fail"]
    assert [gate.status for gate in memory_gates(10.0, 10.0)] == ["pass"]
    assert [gate.status for gate in memory_gates(None, 10.0)] == ["inconclusive"]
    assert memory_gates(20.0, None) == []


def test_errors_and_growing_memory_under_load_fail() -> None:
    good = Serving(2, 1.0, 100, 0, 100.0, {}, 200.0, 1.0)
    leaking = Serving(2, 1.0, 100, 0, 100.0, {}, 200.0, 17.0)
    failing = Serving(2, 1.0, 100, 1, 100.0, {}, 200.0, 1.0)
    for serving, statuses in ((good, "pass pass"), (leaking, "pass fail"), (failing, "fail pass")):
        assert " ".join(gate.status for gate in serving_gates(serving)) == statuses
    assert serving_gates(None) == []


@pytest.mark.parametrize(
    "found, status",
    [
        ({"placement": {"CPUExecutionProvider": {"Shape": 2}}}, "fail"),
        ({"placement": {"CPUExecutionProvider": {"Shape": 2}, "CUDA": {}}}, "fail"),
        ({"placement": {"CUDAExecutionProvider": {"Conv": 1}}}, "pass"),
        ({"placement": {}}, "skipped"),
        ({"missing": "refused"}, "inconclusive"),
    ],
)
def test_the_first_provider_has_to_run_an_operator(found, status) -> None:
    assert [gate.status for gate in placement_gates(OnnxRuntimeCuda(1), found)] == [status]
    other = create_runtime("openvino-cpu", 1)
    assert isinstance(other, OnnxModelRuntime)
    assert placement_gates(other, found) == []


def test_predictions_are_compared_with_the_confidence_and_the_budget() -> None:
    assert confidence_gate(0.95, 0.9).status == confidence_gate(0.9, 0.9).status == "pass"
    assert confidence_gate(0.89, 0.9).status == "fail"
    # Rounding may put a prediction that equals the budget slightly above it.
    for bound_ms, status in ((1.9, "pass"), (2.0 + 1e-9, "pass"), (2.1, "fail")):
        gate = predicted_gate("phone", bound_ms, 2.0)
        assert (gate.name, gate.status) == ("budget: phone", status)
