"""Loading and the first inference in new processes, and latencies at several shapes."""

from __future__ import annotations

import pytest
from helpers import odd_models
from helpers.model_checks import quickly_checked, statuses_of
from helpers.small_models import residual_net, saved

from hwnas.checking.cold_start import PROCESSES, ColdStart, cold_start_gates
from hwnas.checking.request import CheckRequest

TIMES = (1.0, 2.0, 3.0, 4.0, 50.0)


def statuses(budget_ms: float, times: tuple[float, ...] = TIMES) -> list[str]:
    found = ColdStart(times, times, {1: 1.0}, 100)
    request = CheckRequest(load_budget_ms=budget_ms, first_budget_ms=budget_ms)
    return [gate.status for gate in cold_start_gates(found, request)]


@pytest.mark.parametrize(
    "budget_ms, status", [(4.0, "pass"), (1.0, "fail"), (0.5, "fail"), (2.5, "inconclusive")]
)
def test_a_budget_is_decided_if_all_processes_but_one_agree(budget_ms, status) -> None:
    assert statuses(budget_ms) == [status] * 2


def test_without_a_budget_there_is_no_gate_and_without_times_it_is_undecided() -> None:
    found = ColdStart(TIMES, TIMES, {1: 1.0}, 100)
    assert cold_start_gates(found, CheckRequest()) == []
    (gate,) = cold_start_gates(None, CheckRequest(first_budget_ms=1.0))
    assert (gate.name, gate.status, gate.bound) == ("first_inference", "inconclusive", "max")


def test_a_check_reports_the_cold_start_and_holds_it_to_budgets(tmp_path) -> None:
    path = saved(residual_net(), tmp_path / "model.onnx")
    document = quickly_checked(path, limits={"measure_seconds": 0.2})
    cold = document["cold_start"]
    assert cold["processes"] == 1
    assert cold["size_bytes"] == path.stat().st_size
    assert cold["load_ms"] > 0
    assert list(cold["first_ms_by_batch"])[:3] == ["1", "3", "7"]
    assert all(ms > 0 for ms in cold["first_ms_by_batch"].values())
    budgets = {"load_budget_ms": 1e6, "first_budget_ms": 1e-6}
    document = quickly_checked(path, limits={"measure_seconds": 0.2}, budgets=budgets)
    assert document["cold_start"]["processes"] == PROCESSES
    assert statuses_of(document)["load"] == "pass"
    assert statuses_of(document)["first_inference"] == document["verdict"] == "fail"


def test_latencies_at_further_shapes_stand_beside_the_first(tmp_path) -> None:
    path = saved(odd_models.with_cache(), tmp_path / "model.onnx")
    shapes = [{"x": (1, 1, 4), "past": (1, past, 4)} for past in (0, 10_000)]
    document = quickly_checked(
        path, limits={"measure_seconds": 0.5}, shapes=shapes[0], more_shapes=shapes[1:]
    )
    first, second = document["shape_latencies"]
    assert first["inputs"] == {"x": [1, 1, 4], "past": [1, 0, 4]}
    assert second["inputs"]["past"] == [1, 10_000, 4]
    assert first["ratio"] == 1
    assert second["ratio"] == pytest.approx(second["latency_ms"] / first["latency_ms"])
    assert second["ci_low_ms"] <= second["latency_ms"] <= second["ci_high_ms"]
