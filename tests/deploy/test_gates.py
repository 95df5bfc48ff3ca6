"""Gates are evaluated from figures: serving, memory, placement, predictions, and the verdict."""

from __future__ import annotations

import pytest

from hwnas.deploy.gates import (
    Gate,
    confidence_gate,
    memory_gates,
    placement_gates,
    predicted_gate,
    serving_gates,
    verdict_of,
)
from hwnas.latency_tables.measuring.serving import Serving
from hwnas.latency_tables.runtimes import OnnxModelRuntime, OnnxRuntimeCuda, create_runtime


@pytest.mark.parametrize(
    "statuses, verdict",
    [
        (["pass", "skipped"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
    ],
)
def test_a_failed_gate_outweighs_an_inconclusive_one(statuses, verdict) -> None:
    assert verdict_of([Gate("g", status, None, None) for status in statuses]) == verdict


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
