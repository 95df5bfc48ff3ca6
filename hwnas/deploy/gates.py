"""The gates of a check: what is required of an exported model, how it went, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.budget.gate import TOLERANCE, GateStatus, NetworkLatency
from hwnas.config import CheckConfig
from hwnas.deploy.parity import Parity
from hwnas.deploy.samples import ACCURACY
from hwnas.deploy.scores import Score
from hwnas.inspection.process import Precision
from hwnas.latency_tables.measuring.energy import Energy
from hwnas.latency_tables.measuring.serving import Serving
from hwnas.latency_tables.runtimes import OnnxModelRuntime, OnnxRuntime

GROWTH_MB, GROWTH_SHARE = 16.0, 0.05
"""What a session may grow by under load, after its warm-up: MB, or a share of its memory."""


@dataclass(frozen=True)
class Gate:
    """One requirement and how it went; `detail` says what numbers do not."""

    name: str
    status: GateStatus
    value: float | None
    limit: float | None
    detail: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return vars(self).copy()


@dataclass(frozen=True)
class ParityLimits:
    """What a model's outputs are held to.

    Attributes:
        min_sqnr_db: signal to quantisation noise ratio.
        min_agreement: share of samples that get the same class.
        elementwise: whether every single output must be within tolerance.
    """

    min_sqnr_db: float
    min_agreement: float
    elementwise: bool


def parity_limits(precision: Precision, limits: CheckConfig) -> ParityLimits:
    """Limits by the model's number format; those of float32 are settings."""
    if precision == "float16":
        return ParityLimits(40.0, 0.995, elementwise=False)
    if precision == "int8":
        return ParityLimits(15.0, 0.97, elementwise=False)
    return ParityLimits(limits.min_sqnr_db, 1.0, elementwise=True)


def parity_gates(
    parity: Parity | None, limits: ParityLimits, against: str = "", *, is_wanted: bool = False
) -> list[Gate]:
    """Gates of a model's outputs against a reference's.

    A reference that is constant shows a fault where the outputs are others, else nothing.

    Args:
        parity: None where nothing could be compared.
        limits: of the model's number format.
        against: names the reference where it is not the one that the check is about.
        is_wanted: whether a parity that cannot be read leaves the verdict open.
    """
    suffix = f": {against}" if against else ""
    names = [f"{name}{suffix}" for name in ("parity", "sqnr", "agreement")]
    if parity is None:
        status: GateStatus = "inconclusive" if is_wanted else "skipped"
        return [Gate(name, status, None, None) for name in names]
    error, sqnr_db, agreement = parity.max_abs_error, parity.sqnr_db, parity.top1_agreement
    sqnr_ok = error is not None and (sqnr_db is None or sqnr_db >= limits.min_sqnr_db)
    elementwise: GateStatus = _passed(parity.within_tolerance) if limits.elementwise else "skipped"
    agreed: GateStatus = (
        "skipped" if agreement is None else _passed(agreement >= limits.min_agreement)
    )
    gates = [
        Gate(names[0], elementwise, error, None),
        Gate(names[1], _passed(sqnr_ok), sqnr_db, limits.min_sqnr_db),
        Gate(names[2], agreed, agreement, limits.min_agreement),
    ]
    if parity.constant and verdict_of(gates) == "pass":
        return [Gate(name, "skipped", None, None) for name in names]
    return gates


def score_gates(score: Score | None, limits: CheckConfig) -> list[Gate]:
    """Gates of the score on samples: what was lost to the reference, and what is left.

    They bear the metric's name.
    """
    metric = ACCURACY if score is None else score.metric
    drop = None if score is None else score.drop
    found = None if score is None else score.model
    return [
        Gate(
            f"{metric}_drop",
            "skipped" if drop is None else _passed(drop <= limits.max_accuracy_drop),
            drop,
            None if drop is None else limits.max_accuracy_drop,
        ),
        Gate(
            metric,
            "skipped" if found is None else _passed(found >= limits.min_accuracy),
            found,
            None if found is None else limits.min_accuracy,
        ),
    ]


def shapes_gate(contradiction: str | None) -> Gate:
    """Whether the shapes that a model declares are those that it computes."""
    return Gate("shapes", _passed(contradiction is None), None, None, contradiction)


def batch_gate(is_dynamic: bool, failures: Sequence[str], batches: Sequence[int]) -> Gate:
    """Whether a model that declares any batch runs several; its value is the largest that does."""
    if not is_dynamic:
        return Gate("dynamic_batch", "skipped", None, None)
    detail = "; ".join(failures) or None
    return Gate("dynamic_batch", _passed(not failures), max(batches, default=0), None, detail)


def placement_gates(runtime: OnnxModelRuntime, found: Mapping[str, Any]) -> list[Gate]:
    """Whether the first execution provider of a runtime runs any operator of a model.

    One that started and takes nothing leaves everything to the next one, without an error. A graph
    of which the runtime's optimisation leaves no operator tells nothing.

    Args:
        runtime: where the model runs; one without execution providers has no gate.
        found: its `placement`, or why it is `missing`.
    """
    if not isinstance(runtime, OnnxRuntime):
        return []
    if "placement" not in found:
        return [Gate("placement", "inconclusive", None, 1, str(found.get("missing")))]
    first = runtime.providers[0]
    counts = {name: sum(operators.values()) for name, operators in found["placement"].items()}
    own = counts.get(first, 0)
    if own or not any(counts.values()):
        return [Gate("placement", "pass" if own else "skipped", own, 1)]
    others = ", ".join(f"{name} runs {count}" for name, count in counts.items())
    return [Gate("placement", "fail", own, 1, f"{first} runs no operator, {others}")]


def serving_gates(serving: Serving | None) -> list[Gate]:
    """Whether a session under load answered every request, and kept its memory."""
    if serving is None:
        return []
    answered = serving.requests > 0 and serving.errors == 0
    gates = [Gate("serving_errors", _passed(answered), serving.errors, 0)]
    if serving.memory_mb is not None and serving.growth_mb is not None:
        limit_mb = max(GROWTH_MB, GROWTH_SHARE * serving.memory_mb)
        kept = _passed(serving.growth_mb <= limit_mb)
        gates.append(Gate("memory_growth", kept, serving.growth_mb, limit_mb))
    return gates


def budget_gate(latency: NetworkLatency, budget_ms: float | None) -> Gate:
    """The latency's gate; its value is the statistic that the budget is about."""
    status: GateStatus = "skipped" if budget_ms is None else latency.gate(budget_ms)
    return Gate("budget", status, latency.value_ms, budget_ms)


def memory_gates(memory_mb: float | None, budget_mb: float | None) -> list[Gate]:
    """The session's peak memory against its budget, where there is one."""
    if budget_mb is None:
        return []
    if memory_mb is None:
        return [Gate("memory", "inconclusive", None, budget_mb, "nothing tells it here")]
    return [Gate("memory", _passed(memory_mb <= budget_mb), memory_mb, budget_mb)]


def energy_gates(energy: Energy | None, budget_mj: float | None) -> list[Gate]:
    """The energy of an inference against its budget, where there is one."""
    if budget_mj is None:
        return []
    if energy is None:
        return [Gate("energy", "inconclusive", None, budget_mj, "no counter of energy to read")]
    return [Gate("energy", _passed(energy.mj <= budget_mj), energy.mj, budget_mj)]


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
