"""The cold start of a model: how long a new process takes until the first answer is there."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from hwnas.budget.gate import GateStatus
from hwnas.checking.gates import Gate
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.request import CheckRequest
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.limits import session_limit_mb
from hwnas.latency_tables.measuring.memory import Trial, try_session
from hwnas.latency_tables.runtimes import OnnxModelRuntime

PROCESSES = 5
"""Number of processes that a budget is judged by; without one, that of the first trial suffices."""


@dataclass(frozen=True)
class ColdStart:
    """Times in processes that have just loaded the runtime's libraries.

    Attributes:
        load_ms: time to create the session, in each process.
        first_ms: time of the first inference, in each process.
        first_by_batch: time of the first inference at each batch size, in one process.
        size_bytes: size of the model on disk, with its external data.
    """

    load_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    first_by_batch: dict[int, float]
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The cold start as an object of the check's document; times are medians."""
        return {
            "load_ms": median(self.load_ms),
            "first_ms": median(self.first_ms),
            "first_ms_by_batch": {str(n): ms for n, ms in sorted(self.first_by_batch.items())},
            "size_bytes": self.size_bytes,
            "processes": len(self.load_ms),
        }


def measure_cold_start(
    model: Inspection,
    runtime: OnnxModelRuntime,
    feeds: FeedMaker,
    trial: Trial,
    request: CheckRequest,
) -> ColdStart:
    """Take the times of the trial, and of further processes if a budget limits them.

    Args:
        model: the inspected model, which `probe` has accepted.
        runtime: the runtime that is checked.
        feeds: generates its inputs.
        trial: result of `probe`.
        request: has the budgets.

    Raises:
        InputError: when a process ends without a result.
    """
    trials = [trial]
    if request.load_budget_ms is not None or request.first_budget_ms is not None:
        single, limits = feeds.real(feeds.batch, 0), request.limits
        trials += [
            try_session(
                runtime,
                model.path,
                single,
                limit_mb=session_limit_mb(limits.max_session_mb),
                limit_s=limits.max_session_seconds,
            )
            for _ in range(PROCESSES - 1)
        ]
    external = (model.path.parent / name for name in model.external_files)
    return ColdStart(
        load_ms=tuple(found.load_ms for found in trials),
        first_ms=tuple(found.first_run_ms for found in trials),
        first_by_batch=trial.first_ms,
        size_bytes=model.size_bytes + sum(path.stat().st_size for path in external),
    )


def cold_start_gates(found: ColdStart | None, request: CheckRequest) -> list[Gate]:
    """Gates of the budgets for loading and for the first inference; none without a budget."""
    load_ms, first_ms = (None, None) if found is None else (found.load_ms, found.first_ms)
    stated = (
        ("load", request.load_budget_ms, load_ms),
        ("first_inference", request.first_budget_ms, first_ms),
    )
    return [_gate(name, times, limit) for name, limit, times in stated if limit is not None]


def _gate(name: str, times_ms: tuple[float, ...] | None, budget_ms: float) -> Gate:
    """Passes or fails if all processes but one agree, else it is undecided."""
    if not times_ms:
        missing = "cannot be measured here"
        return Gate(name, "inconclusive", None, budget_ms, missing, bound="max")
    kept = sum(time <= budget_ms for time in times_ms)
    status: GateStatus = "inconclusive"
    if kept >= len(times_ms) - 1:
        status = "pass"
    elif kept <= 1:
        status = "fail"
    detail = f"{min(times_ms):.4g} to {max(times_ms):.4g} ms in {len(times_ms)} processes"
    return Gate(name, status, median(times_ms), budget_ms, detail, bound="max")
