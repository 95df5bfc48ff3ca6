"""The gates of a check: what is required of an exported model, how it went, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.budget.gate import GateStatus, NetworkLatency
from hwnas.budget.limit import TOLERANCE
from hwnas.config import CheckConfig


@dataclass(frozen=True)
class Gate:
    """One requirement and how it went."""

    name: str
    status: GateStatus
    value: float | None
    limit: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return vars(self).copy()


@dataclass(frozen=True)
class Parity:
    """How far the exported model's outputs are from the network's.

    Attributes:
        max_abs_error: over all logits, None where one is not finite.
        within_tolerance: |error| <= 1e-3 |reference| + 1e-4 max|reference| everywhere.
        sqnr_db: signal to quantisation noise ratio, None when there is no error at all.
        top1_agreement: share of images that get the same class.
        batches: how many batches were compared.
    """

    max_abs_error: float | None
    within_tolerance: bool
    sqnr_db: float | None
    top1_agreement: float
    batches: int

    def to_json(self) -> dict[str, Any]:
        """The fields of the contract."""
        return {
            "max_abs_error": self.max_abs_error,
            "sqnr_db": self.sqnr_db,
            "top1_agreement": self.top1_agreement,
            "batches": self.batches,
        }


def parity_gates(parity: Parity | None, limits: CheckConfig) -> list[Gate]:
    """Gates of the exported model's outputs against the network's."""
    if parity is None:
        return [Gate(name, "skipped", None, None) for name in ("parity", "sqnr", "agreement")]
    sqnr_ok = parity.sqnr_db is None or parity.sqnr_db >= limits.min_sqnr_db
    error = parity.max_abs_error
    return [
        Gate("parity", _passed(parity.within_tolerance), error, None),
        Gate("sqnr", _passed(sqnr_ok and error is not None), parity.sqnr_db, limits.min_sqnr_db),
        Gate("agreement", _passed(parity.top1_agreement == 1.0), parity.top1_agreement, 1.0),
    ]


def accuracy_gates(accuracy: dict[str, Any] | None, limits: CheckConfig) -> list[Gate]:
    """Gates of the accuracy on labelled data: what the export lost, and what is left."""
    if accuracy is None:
        return [Gate(name, "skipped", None, None) for name in ("accuracy_drop", "accuracy")]
    drop = accuracy["torch"] - accuracy["onnx"]
    return [
        Gate(
            "accuracy_drop",
            _passed(drop <= limits.max_accuracy_drop),
            drop,
            limits.max_accuracy_drop,
        ),
        Gate(
            "accuracy",
            _passed(accuracy["onnx"] >= limits.min_accuracy),
            accuracy["onnx"],
            limits.min_accuracy,
        ),
    ]


def budget_gate(latency: NetworkLatency, budget_ms: float | None) -> Gate:
    """The latency's gate; its value is the statistic that the budget is about."""
    status: GateStatus = "skipped" if budget_ms is None else latency.gate(budget_ms)
    return Gate("budget", status, latency.value_ms, budget_ms)


def memory_gates(memory_mb: float | None, budget_mb: float | None) -> list[Gate]:
    """The session's peak memory against its budget, where there is one."""
    if budget_mb is None:
        return []
    status = "skipped" if memory_mb is None else _passed(memory_mb <= budget_mb)
    return [Gate("memory", status, memory_mb, budget_mb)]


def confidence_gate(probability: float, confidence: float) -> Gate:
    """Whether the predicted probability of keeping the budget is as high as was asked for."""
    return Gate("budget_confidence", _passed(probability >= confidence), probability, confidence)


def predicted_gate(device: str, bound_ms: float, budget_ms: float) -> Gate:
    """The budget of a device that is not here, by what its table predicts."""
    kept = bound_ms <= budget_ms * (1 + TOLERANCE)
    return Gate(f"budget: {device}", _passed(kept), bound_ms, budget_ms)


def verdict_of(gates: Sequence[Gate]) -> str:
    """`fail` if any gate failed, else `inconclusive` if any is undecided, else `pass`."""
    statuses = {gate.status for gate in gates}
    for status in ("fail", "inconclusive"):
        if status in statuses:
            return status
    return "pass"


def _passed(condition: bool) -> GateStatus:
    return "pass" if condition else "fail"
