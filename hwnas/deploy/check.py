"""The deployment check: what a model does on a runtime, judged by what is required of it.

One way for models of any maker. A network that was trained here is compared with itself in
PyTorch, another model with a reference if there is one. Every model is compared with itself before
the runtime rewrites its graph, and on the other runtimes of this machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwnas.budget.gate import NetworkLatency
from hwnas.config import CheckConfig
from hwnas.deploy.behaviour import Behaviour, Reference, observe, onnx_reference, probe
from hwnas.deploy.feeds import FeedMaker, feeds_for
from hwnas.deploy.gates import (
    Gate,
    batch_gate,
    budget_gate,
    energy_gates,
    memory_gates,
    parity_gates,
    parity_limits,
    placement_gates,
    score_gates,
    serving_gates,
    shapes_gate,
    verdict_of,
)
from hwnas.deploy.performance import Performance, ServingLoad, measure_performance
from hwnas.deploy.properties import METADATA_PREFIX, own_properties
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection, sha256_of
from hwnas.latency_tables.measuring import trtexec
from hwnas.latency_tables.measuring.bundle import read_results
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime, create_runtime
from hwnas.runs.progress import Stage, silent
from hwnas.runs.run_folder import environment

SCHEMA = 1
MAX_THREADS, MAX_BATCH = 1024, 2**20
"""What a model's properties may ask for."""


def check_model(
    model: Inspection,
    runtime: Runtime,
    feeds: FeedMaker,
    *,
    budget_ms: float | None,
    predicted_ms: float | None,
    limits: CheckConfig,
    reference: Reference | None = None,
    memory_budget_mb: float | None = None,
    energy_budget_mj: float | None = None,
    load: ServingLoad | None = None,
    stage: Stage = silent,
    stated: NetworkLatency | None = None,
    more_gates: Sequence[Gate] = (),
) -> dict[str, Any]:
    """Run all gates on an ONNX file.

    Args:
        model: the inspected file.
        runtime: where its latency is measured.
        feeds: makes its inputs; their batch is that of the latency.
        budget_ms: gate of the latency; None leaves it out.
        predicted_ms: what the latency table said.
        limits: of the gates.
        reference: gates of parity and of lost accuracy need it; without, they are skipped.
        memory_budget_mb: gate of the session's peak memory; None leaves it out.
        energy_budget_mj: gate of an inference's energy; None leaves it out.
        load: of the smoke test of serving; None leaves it out.
        stage: shows progress.
        stated: the latency on a device that is not here; measured on this one if None.
        more_gates: of what was judged elsewhere.

    Returns:
        The content of `check.json`, schema 1.

    Raises:
        InputError: when the runtime refuses the model, or it exceeds the limits of a session.
    """
    with stage("check") as advance:
        advance(0, 2, "parity and score")
        onnx_runtime = _onnx_runtime(runtime)
        trial = probe(model, onnx_runtime, feeds, limits)
        behaviour = observe(model, onnx_runtime, feeds, reference, trial, limits)
        advance(1, 2, "latency")
        if stated is not None:
            speed = Performance(stated)
        else:
            speed = measure_performance(
                model,
                runtime,
                feeds,
                trial.batches,
                budget_ms=budget_ms,
                seconds=limits.measure_seconds,
                limit_s=limits.max_session_seconds,
                reference=reference,
                load=load,
            )
        advance(2, 2, f"{speed.latency.value_ms:.3f} ms")
    is_measured_here = stated is None and onnx_runtime is runtime
    memory_mb = trial.memory_mb if is_measured_here else None
    gates = [
        budget_gate(speed.latency, budget_ms),
        *memory_gates(memory_mb, memory_budget_mb),
        *energy_gates(speed.energy, energy_budget_mj),
        *placement_gates(onnx_runtime, behaviour.runtimes[onnx_runtime.name]),
        *more_gates,
        *behaviour_gates(model, feeds, behaviour, limits, is_wanted=reference is not None),
        *serving_gates(speed.serving),
    ]
    return {
        "schema": SCHEMA,
        "verdict": verdict_of(gates),
        "budget_ms": budget_ms,
        "predicted_ms": predicted_ms,
        "batch": feeds.batch,
        **speed.to_json(),
        "memory_mb": memory_mb,
        **behaviour.to_json(),
        "model": model_facts(model),
        "gates": [gate.to_json() for gate in gates],
        "environment": environment()
        | {
            "device": runtime.device_name(),
            "threads": runtime.threads,
            "options": runtime.options(),
        },
    }


def behaviour_gates(
    model: Inspection,
    feeds: FeedMaker,
    behaviour: Behaviour,
    limits: CheckConfig,
    *,
    is_wanted: bool = True,
) -> list[Gate]:
    """Gates of what a model computes, by the limits of its number format.

    Args:
        model, feeds, behaviour: what was observed, and of what.
        limits: of the gates.
        is_wanted: whether there is a reference, so that parity has to be known.
    """
    held_to = parity_limits(model.precision, limits)
    return [
        shapes_gate(behaviour.contradiction),
        batch_gate(feeds.is_dynamic, behaviour.failures, behaviour.batches),
        *parity_gates(behaviour.parity, held_to, is_wanted=is_wanted),
        *(g for name, p in behaviour.parity_with.items() for g in parity_gates(p, held_to, name)),
        *score_gates(behaviour.score, limits),
    ]


def check_file(
    model: Inspection,
    *,
    limits: CheckConfig,
    budget_ms: float | None = None,
    memory_budget_mb: float | None = None,
    energy_budget_mj: float | None = None,
    runtime_name: str | None = None,
    threads: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    data: Path | None = None,
    reference: Inspection | None = None,
    load: ServingLoad | None = None,
    measured: Path | None = None,
    stage: Stage = silent,
) -> dict[str, Any]:
    """Check a model of any maker, that comes with no run.

    Budget, runtime, threads and batch that are not given are those in the model's properties, if
    hwnas made it.

    Args:
        model: the inspected file.
        limits: of the gates.
        budget_ms, memory_budget_mb, energy_budget_mj: gates of latency, memory and energy.
        runtime_name: where its latency is measured, `onnxruntime-cpu` by default.
        threads: of the runtime, 1 by default.
        shapes: of inputs whose sizes are left open, by name.
        data: an inspected npz file with arrays named as inputs, and maybe `labels`.
        reference: an inspected model that the outputs are compared with.
        load: of the smoke test of serving.
        measured: results of the model from another device; measured on this one if None.
        stage: shows progress.

    Returns:
        The content of `check.json`.

    Raises:
        InputError: when files do not fit each other, or the runtime refuses the model.
        RuntimeMissingError: when the runtime is not here.
    """
    where, properties = str(model.path), own_properties(model.properties)
    stated = None if measured is None else measured_elsewhere(measured, model.path)
    name = runtime_name or properties.get("runtime", "onnxruntime-cpu")
    stated_threads = _whole_number(where, properties, "threads", MAX_THREADS)
    runtime = create_runtime(name, threads or stated_threads or 1)
    runtime.require()
    stated_batch = _whole_number(where, properties, "batch", MAX_BATCH)
    feeds = feeds_for(model, shapes or {}, data, stated_batch or 1)
    if stated_batch is not None and not feeds.is_dynamic and feeds.batch != stated_batch:
        raise InputError(
            "another batch than the inputs have",
            where=f"{where}: property {METADATA_PREFIX}batch",
            expected=feeds.batch,
            actual=stated_batch,
        )
    other = None
    if reference is not None:
        cpu = _onnx_runtime(runtime)
        other = onnx_reference(reference, cpu, feeds, limits)
    stated_ms = _number(where, properties, "budget_ms")
    return check_model(
        model,
        runtime,
        feeds,
        budget_ms=stated_ms if budget_ms is None else budget_ms,
        predicted_ms=_number(where, properties, "predicted_ms"),
        limits=limits,
        reference=other,
        memory_budget_mb=memory_budget_mb,
        energy_budget_mj=energy_budget_mj,
        load=load,
        stage=stage,
        stated=stated,
    )


def measured_elsewhere(results: Path, model: str | Path) -> NetworkLatency:
    """A model's latency by what a bundle's script, or trtexec, left on another device.

    Raises:
        InputError: when the results are malformed, or of another model; trtexec's name none.
    """
    if trtexec.is_times(results):
        times_ms = trtexec.read_times(results)
        return NetworkLatency.of_rounds(times_ms, "median", trtexec.RUNTIME)
    found = read_results(results)
    here = sha256_of(Path(model))
    if found.model is None or found.model.sha256 != here or "0" not in found.rounds_ms:
        raise InputError(
            "measured another model",
            where=str(results),
            expected=here,
            actual=found.model and found.model.sha256,
            mend=f"run `measure.py --model {Path(model).name}` on the device",
        )
    rounds_ms = found.rounds_ms["0"].get(found.model.name)
    if rounds_ms is None:
        raise InputError(
            "no times of the model",
            where=f"{results}: rounds_ms",
            expected=found.model.name,
            actual=sorted(found.rounds_ms["0"]),
        )
    return NetworkLatency.of_rounds(rounds_ms, found.statistic, f"{found.runtime}, {found.device}")


def model_facts(model: Inspection) -> dict[str, Any]:
    """The `model` object of a check; counts of the architecture come from the file's properties."""
    where, properties = str(model.path), own_properties(model.properties)
    params, macs = (_number(where, properties, name) for name in ("params", "macs"))
    return {
        "name": model.path.name,
        "sha256": model.sha256,
        "size_bytes": model.size_bytes,
        "opset": model.opset,
        "opsets": model.opsets,
        "ir_version": model.ir_version,
        "producer": model.producer,
        "precision": model.precision,
        "params": model.params if params is None else int(params),
        "macs": None if macs is None else int(macs),
        "inputs": [vars(value) for value in model.inputs],
        "outputs": [vars(value) for value in model.outputs],
        "nodes": model.nodes,
        "operators": model.operators,
        "external_files": list(model.external_files),
        "shapes": model.shapes,
    }


def _onnx_runtime(runtime: Runtime) -> OnnxModelRuntime:
    """The runtime, or ONNX Runtime on the CPU where it runs no ONNX files."""
    if isinstance(runtime, OnnxModelRuntime):
        return runtime
    other = create_runtime("onnxruntime-cpu", threads=1)
    assert isinstance(other, OnnxModelRuntime)
    return other


def _number(where: str, properties: Mapping[str, str], name: str) -> float | None:
    """A positive number among a model's properties, or None.

    Raises:
        InputError: when it is something else.
    """
    text = properties.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            "not a positive number", where=f"{where}: property {METADATA_PREFIX}{name}", actual=text
        )
    return value


def _whole_number(where: str, properties: Mapping[str, str], name: str, most: int) -> int | None:
    """A whole number from 1 among a model's properties, or None.

    Raises:
        InputError: when it is something else.
    """
    value = _number(where, properties, name)
    if value is None:
        return None
    if value != int(value) or value > most:
        raise InputError(
            "not a whole number that can be used",
            where=f"{where}: property {METADATA_PREFIX}{name}",
            expected=f"1 to {most}",
            actual=properties[name],
        )
    return int(value)
