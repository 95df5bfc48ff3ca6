"""Variants of a model that run here: what they compute, and their latencies in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.budget.gate import NetworkLatency, Session, measure_together
from hwnas.budget.speed import RecordedSpeed
from hwnas.checking.behaviour import Behaviour, observe
from hwnas.checking.check import behaviour_gates, device_reference, judging_runtime
from hwnas.checking.gates import (
    budget_gate,
    energy_gates,
    memory_gates,
    placement_gates,
    verdict_of,
)
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.performance import counted_energy
from hwnas.checking.references import Reference
from hwnas.checking.request import CheckRequest
from hwnas.checking.trial import probe
from hwnas.deploy.variants import EXPORTED
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.speed_reference import NAME as REFERENCE
from hwnas.latency_tables.measuring.speed_reference import prepare_reference
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.latency_tables.statistics import Ratio, paired_ratio

SESSIONS = 3
"""Sessions of each variant: where a session's memory lies moves a small network by 2 to 3 %."""


@dataclass(frozen=True)
class RunningVariant:
    """One variant that runs.

    Attributes:
        model: the inspected file.
        feeds: generates its inputs.
        memory_mb: peak memory of a session, or None where it cannot be measured.
        behaviour: what it computes, compared with the reference.
        calls: functions that run it once, each in a session of its own.
    """

    model: Inspection
    feeds: FeedMaker
    memory_mb: float | None
    behaviour: Behaviour
    calls: list[Callable[[], None]]


def run_variant(
    model: Inspection,
    runtime: OnnxModelRuntime,
    feeds: FeedMaker,
    reference: Reference,
    request: CheckRequest,
) -> RunningVariant:
    """Load and run a variant, and compare it with its reference.

    Raises:
        InputError: when the runtime refuses it.
    """
    judge = judging_runtime(runtime)
    trial = probe(model, judge, feeds, request.limits)
    there = device_reference(model, runtime, feeds)
    behaviour = observe(model, judge, feeds, reference, trial, request.limits, there)
    single = feeds.real(feeds.batch, 0)
    calls = [runtime.prepare_onnx(model.path, single) for _ in range(SESSIONS)]
    memory_mb = trial.memory_mb if runtime.is_here else None
    return RunningVariant(model, feeds, memory_mb, behaviour, calls)


@dataclass(frozen=True)
class VariantLatency:
    """The latency of a variant, and its ratio to that of the exported model."""

    latency: NetworkLatency
    ratio: Ratio


def measure_variants(
    variants: Mapping[str, RunningVariant],
    runtime: OnnxModelRuntime,
    seconds: float,
    recorded: RecordedSpeed,
) -> dict[str, VariantLatency]:
    """Measure variants in the same rounds as the speed reference.

    Args:
        variants: by name, `fp32` among them.
        runtime: the runtime to measure on.
        seconds: time limit.
        recorded: what the speed reference took on earlier occasions.
    """
    references = {f"{REFERENCE}/{i}": prepare_reference(runtime) for i in range(SESSIONS)}
    found = measure_together(
        {name: call for name, call in references.items() if call is not None}
        | {f"{n}/{i}": call for n, v in variants.items() for i, call in enumerate(v.calls)},
        runtime,
        seconds=seconds,
    )
    sessions = {
        name: [Session(found[f"{name}/{i}"], found[f"{REFERENCE}/{i}"]) for i in range(SESSIONS)]
        for name in variants
    }
    rounds_ms = {
        name: np.mean([session.rounds_ms for session in own], axis=0).tolist()
        for name, own in sessions.items()
    }
    latencies = {
        name: NetworkLatency.of_sessions(own, runtime.statistic, runtime.name, recorded)
        for name, own in sessions.items()
    }
    return {
        name: VariantLatency(
            latencies[name],
            paired_ratio(rounds, rounds_ms[EXPORTED]).widened(latencies[name].spread, SESSIONS),
        )
        for name, rounds in rounds_ms.items()
    }


def judge_variant(
    variant: RunningVariant,
    found: VariantLatency,
    runtime: OnnxModelRuntime,
    request: CheckRequest,
    folder: Path,
) -> dict[str, Any]:
    """The entry of a variant in the document of variants.

    Args:
        variant: what it computes.
        found: how fast it is.
        runtime: the runtime that it runs on.
        request: budgets and limits of the gates.
        folder: the folder that its file is named in relation to.
    """
    judge = judging_runtime(runtime)
    energy = counted_energy(variant.calls[0], runtime, found.latency)
    behaviour, model = variant.behaviour, variant.model
    gates = [
        budget_gate(found.latency, request.budget_ms),
        *memory_gates(variant.memory_mb, request.memory_budget_mb),
        *energy_gates(energy, request.energy_budget_mj),
        *placement_gates(judge, behaviour.runtimes[judge.name]),
        *behaviour_gates(model, variant.feeds, behaviour, request.limits),
    ]
    score = behaviour.score
    scored: dict[str, Any] = {"metric": None}
    if score is not None:
        scored = {
            "metric": score.metric,
            score.metric: score.to_json() | {"drop": score.drop},
        }
    is_inside = model.path.is_relative_to(folder.absolute())
    return {
        "verdict": verdict_of(gates),
        "model": str(model.path.relative_to(folder.absolute()) if is_inside else model.path),
        "size_bytes": model.size_bytes,
        "precision": model.precision,
        "parity": behaviour.parity and behaviour.parity.to_json(),
        **scored,
        "measured": found.latency.to_json(),
        "ratio": asdict(found.ratio),
        "memory_mb": variant.memory_mb,
        "energy": energy and energy.to_json(),
        "gates": [gate.to_json() for gate in gates],
        "error": None,
    }


def unmade_variant(error: str) -> dict[str, Any]:
    """The entry of a variant that could not be made or run."""
    return {"verdict": None, "error": error}


def passing(entries: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """Names of the variants that pass."""
    return [name for name, entry in entries.items() if entry["verdict"] == "pass"]
