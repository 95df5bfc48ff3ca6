"""The gates of a check: requirements on a model, whether it meets them, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hwnas.budget.gate import TOLERANCE, GateStatus, NetworkLatency
from hwnas.checking.agreement import Agreement
from hwnas.checking.chance import Chance
from hwnas.checking.finite import FiniteCount
from hwnas.checking.inputs.samples import ACCURACY
from hwnas.checking.parity import Parity
from hwnas.checking.scores import Score
from hwnas.config import CheckConfig
from hwnas.inspection.process import Precision
from hwnas.latency_tables.measuring.energy import Energy
from hwnas.latency_tables.measuring.serving import Serving
from hwnas.latency_tables.runtimes import OnnxModelRuntime, OnnxRuntime

Bound = Literal["min", "max"]

MIN_MAP_AGREEMENT = 0.999
"""Least share of equal classes in maps of classes, where ties cannot be told from errors."""

GROWTH_MB, GROWTH_SHARE = 16.0, 0.05
"""Limit on the growth of a session's memory under load after the warm-up.

The larger of a number of MB and a share of the session's memory.
"""


@dataclass(frozen=True)
class Gate:
    """One requirement on a model and whether it is met.

    Attributes:
        name: name of the gate.
        status: `pass`, `fail`, `inconclusive`, `reported` for a figure without a limit, or
            `skipped` if there is nothing to compare. The last two do not affect the verdict.
        value: the figure that was measured, if there is one.
        limit: the limit on the figure, if there is one.
        detail: explanation that the figures do not give.
        bound: whether the limit is the least (`min`) or the largest value (`max`) that passes;
            None for a gate without a numeric limit.
    """

    name: str
    status: GateStatus
    value: float | None
    limit: float | None
    detail: str | None = None
    bound: Bound | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return vars(self).copy()


@dataclass(frozen=True)
class ParityLimits:
    """How close a model's outputs must be to those of its reference.

    Attributes:
        min_sqnr_db: least signal-to-quantisation-noise ratio in dB.
        min_agreement: least share of samples that are given the same class.
        elementwise: whether every single output value must be within tolerance.
    """

    min_sqnr_db: float
    min_agreement: float
    elementwise: bool


def parity_limits(precision: Precision, limits: CheckConfig) -> ParityLimits:
    """Limits for a number format; the least SQNR of float32 models is a setting."""
    if precision == "float16":
        return ParityLimits(40.0, 0.995, elementwise=False)
    if precision == "int8":
        return ParityLimits(15.0, 0.97, elementwise=False)
    return ParityLimits(limits.min_sqnr_db, 1.0, elementwise=True)


def parity_gates(
    parity: Parity | None, limits: ParityLimits, against: str = "", *, is_required: bool = False
) -> list[Gate]:
    """Gates that compare a model's outputs with those of a reference.

    If the outputs of the reference do not depend on its inputs, different outputs fail the gates,
    but equal ones prove nothing: the gates are then skipped. They are also skipped if all outputs
    were empty.

    Args:
        parity: result of the comparison, or None if nothing could be compared.
        limits: limits for the model's number format.
        against: name of the comparison, added to the gates' names; empty for the main reference.
        is_required: whether the gates are inconclusive rather than skipped without a comparison.
    """
    suffix = f": {against}" if against else ""
    names = [f"{name}{suffix}" for name in ("parity", "sqnr", "agreement")]
    if parity is None:
        status: GateStatus = "inconclusive" if is_required else "skipped"
        return [Gate(name, status, None, None) for name in names]
    error, sqnr_db = parity.max_abs_error, parity.sqnr_db
    sqnr_ok = error is not None and (sqnr_db is None or sqnr_db >= limits.min_sqnr_db)
    elementwise: GateStatus = "skipped" if error is None else "reported"
    if limits.elementwise:
        elementwise = _passed(parity.within_tolerance)
    gates = [
        Gate(names[0], elementwise, error, None),
        Gate(names[1], _passed(sqnr_ok), sqnr_db, limits.min_sqnr_db, bound="min"),
        _agreement_gate(names[2], parity.agreements, limits.min_agreement),
    ]
    if (parity.constant or not parity.values) and verdict_of(gates) == "pass":
        return [Gate(name, "skipped", None, None) for name in names]
    return gates


def _agreement_gate(name: str, agreements: Sequence[Agreement], least: float) -> Gate:
    """Gate of the output that is nearest to its limit, or furthest below it."""
    limits = [min(least, MIN_MAP_AGREEMENT) if a.is_map else least for a in agreements]
    if not limits:
        return _without_limit(name, None)
    pairs = zip(agreements, limits, strict=True)
    worst, limit = min(pairs, key=lambda pair: pair[0].share - pair[1])
    return _at_least(name, worst.share, limit)


def score_gates(score: Score | None, limits: CheckConfig) -> list[Gate]:
    """Gates of the score on samples, named after the metric.

    `accuracy_drop` limits how far it is below the reference's score, `accuracy` is the score
    itself, and `accuracy_above_chance` compares it with the best answer that ignores the inputs.
    The score itself is only reported if `check.min_accuracy` is 0. If it is not, somebody has
    decided which score is good enough, and the comparison with chance is only reported.
    """
    if score is None:
        return [Gate(name, "skipped", None, None) for name in (f"{ACCURACY}_drop", ACCURACY)]
    metric, least = score.metric, limits.min_accuracy or None
    gates = [
        at_most(f"{metric}_drop", score.drop, limits.max_accuracy_drop),
        _at_least(metric, score.model, least),
    ]
    if score.chance is not None:
        gates.append(_chance_gate(score.chance, decides=least is None))
    return gates


def original_gates(score: Score | None, lost: float | None, limits: CheckConfig) -> list[Gate]:
    """How far a model's score is below that of the network that its reference was shrunk from.

    Args:
        score: of the model and its reference.
        lost: the original's score minus that of the reference; None if it was not shrunk.
        limits: `limits.max_accuracy_drop` is the largest drop that passes.
    """
    if lost is None:
        return []
    metric = ACCURACY if score is None else score.metric
    drop = lost + (score.drop or 0.0 if score is not None else 0.0)
    return [at_most(f"{metric}_drop_from_original", drop, limits.max_accuracy_drop)]


def _chance_gate(chance: Chance, *, decides: bool) -> Gate:
    """Whether a score is above the chance level; undecided rather than failed if it is not."""
    status: GateStatus = "pass" if chance.is_above else "inconclusive" if decides else "reported"
    name = f"{chance.metric}_above_chance"
    return Gate(name, status, chance.score, chance.level, chance.warning, bound="min")


def shapes_gate(contradiction: str | None) -> Gate:
    """Whether a model computes outputs of the shapes that it declares."""
    return Gate("shapes", _passed(contradiction is None), None, None, contradiction)


def finite_gate(counts: Sequence[FiniteCount], limits: CheckConfig, *, is_random: bool) -> Gate:
    """Whether all outputs are finite on finite inputs; its value is how many values are not.

    Args:
        counts: a count for each floating-point output.
        limits: `limits.finite` tells whether such values fail the gate or are only reported.
        is_random: whether the inputs were random.
    """
    bad = [count for count in counts if count.values]
    detail = "; ".join(count.sentence(is_random=is_random) for count in bad) or None
    if not any(count.total for count in counts):
        return Gate("finite", "skipped", None, None)
    found = sum(count.values for count in bad)
    if bad and not limits.finite:
        return Gate("finite", "reported", found, None, detail)
    return Gate("finite", _passed(not bad), found, 0, detail, bound="max")


def batch_gate(is_dynamic: bool, failures: Sequence[str], batches: Sequence[int]) -> Gate:
    """Whether a model with an open batch dimension runs at all batch sizes tried.

    The value of the gate is the largest batch size that runs.
    """
    if not is_dynamic:
        return Gate("dynamic_batch", "skipped", None, None)
    detail = "; ".join(failures) or None
    return Gate("dynamic_batch", _passed(not failures), max(batches, default=0), None, detail)


def placement_gates(runtime: OnnxModelRuntime, found: Mapping[str, Any]) -> list[Gate]:
    """Whether the first execution provider of a runtime runs at least one operator of a model.

    A provider that supports none of the operators leaves all of them to the next provider without
    an error. The gate is skipped if graph optimisation removes every operator.

    Args:
        runtime: the runtime that the model runs on; one without execution providers has no gate.
        found: the `placement` of operators by provider, or why the runtime is `missing`.
    """
    if not isinstance(runtime, OnnxRuntime):
        return []
    if "placement" not in found:
        missing = str(found.get("missing"))
        return [Gate("placement", "inconclusive", None, 1, missing, bound="min")]
    first = runtime.providers[0]
    counts = {name: sum(operators.values()) for name, operators in found["placement"].items()}
    own = counts.get(first, 0)
    if own or not any(counts.values()):
        return [Gate("placement", "pass" if own else "skipped", own, 1, bound="min")]
    others = ", ".join(f"{name} runs {count}" for name, count in counts.items())
    detail = f"{first} runs no operator, {others}"
    return [Gate("placement", "fail", own, 1, detail, bound="min")]


def serving_gates(serving: Serving | None) -> list[Gate]:
    """Whether a session under load answered every request without its memory growing."""
    if serving is None:
        return []
    answered = serving.requests > 0 and serving.errors == 0
    gates = [Gate("serving_errors", _passed(answered), serving.errors, 0, bound="max")]
    if serving.memory_mb is not None and serving.growth_mb is not None:
        limit_mb = max(GROWTH_MB, GROWTH_SHARE * serving.memory_mb)
        gates.append(at_most("memory_growth", serving.growth_mb, limit_mb))
    return gates


def budget_gate(latency: NetworkLatency, budget_ms: float | None) -> Gate:
    """Gate of the latency budget, on the statistic of the latency that the runtime reports."""
    if budget_ms is None:
        return Gate("budget", "reported", latency.value_ms, None)
    status, detail = latency.gate(budget_ms), latency.explanation(budget_ms)
    return Gate("budget", status, latency.value_ms, budget_ms, detail, bound="max")


def memory_gates(memory_mb: float | None, budget_mb: float | None) -> list[Gate]:
    """Gate of the budget for a session's peak memory; none without a budget."""
    if budget_mb is None:
        return []
    if memory_mb is None:
        missing = "the memory cannot be measured here"
        return [Gate("memory", "inconclusive", None, budget_mb, missing, bound="max")]
    return [at_most("memory", memory_mb, budget_mb)]


def energy_gates(energy: Energy | None, budget_mj: float | None) -> list[Gate]:
    """Gate of the budget for the energy of one inference; none without a budget."""
    if budget_mj is None:
        return []
    if energy is None:
        missing = "no energy counter can be read"
        return [Gate("energy", "inconclusive", None, budget_mj, missing, bound="max")]
    return [at_most("energy", energy.mj, budget_mj)]


def confidence_gate(probability: float, confidence: float) -> Gate:
    """Whether the predicted probability of meeting the budget reaches the requested confidence."""
    return _at_least("budget_confidence", probability, confidence)


def predicted_gate(device: str, bound_ms: float, budget_ms: float) -> Gate:
    """Gate of the budget of another device, on the latency that the device's table predicts.

    Args:
        device: name of the device.
        bound_ms: predicted latency, or its upper bound where a confidence is requested.
        budget_ms: budget on that device.
    """
    is_met = bound_ms <= budget_ms * (1 + TOLERANCE)
    return Gate(f"budget: {device}", _passed(is_met), bound_ms, budget_ms, bound="max")


def verdict_of(gates: Sequence[Gate]) -> str:
    """`fail` if any gate failed, else `inconclusive` if any gate is, else `pass`.

    Gates that are skipped or only reported do not affect it.
    """
    statuses = {gate.status for gate in gates}
    for status in ("fail", "inconclusive"):
        if status in statuses:
            return status
    return "pass"


def _at_least(name: str, value: float | None, limit: float | None) -> Gate:
    """Gate of a value that must not be below its limit, if there are both."""
    if value is None or limit is None:
        return _without_limit(name, value)
    return Gate(name, _passed(value >= limit), value, limit, bound="min")


def at_most(name: str, value: float | None, limit: float | None) -> Gate:
    """Gate of a value that must not be above its limit, if there are both."""
    if value is None or limit is None:
        return _without_limit(name, value)
    return Gate(name, _passed(value <= limit), value, limit, bound="max")


def _without_limit(name: str, value: float | None) -> Gate:
    """A gate that has nothing to decide: the value is reported if there is one."""
    return Gate(name, "skipped" if value is None else "reported", value, None)


def _passed(condition: bool) -> GateStatus:
    return "pass" if condition else "fail"
