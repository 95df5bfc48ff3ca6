"""The deployment check: run a model on a runtime and decide whether it passes the gates.

Models of any origin are checked in the same way. A network that was trained by hwnas is compared
with itself in PyTorch, another model with a reference if there is one. Every model is also compared
with itself before the runtime optimises its graph, and on the other runtimes of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.budget.gate import NetworkLatency
from hwnas.checking.behaviour import Behaviour, observe
from hwnas.checking.cold_start import measure_cold_start
from hwnas.checking.expected import stored_reference
from hwnas.checking.findings import Findings, resource_gates
from hwnas.checking.gates import (
    Gate,
    batch_gate,
    finite_gate,
    original_gates,
    parity_gates,
    parity_limits,
    placement_gates,
    score_gates,
    serving_gates,
    shapes_gate,
    verdict_of,
)
from hwnas.checking.inputs.feeds import FeedMaker, feeds_for
from hwnas.checking.inputs.open_sizes import Shapes, StatedSizes, UnknownSizesError
from hwnas.checking.inputs.size_proposals import with_proposal
from hwnas.checking.outputs import as_predict
from hwnas.checking.performance import (
    Performance,
    measure_performance,
    measured_elsewhere,
    recorded_in,
)
from hwnas.checking.properties import (
    METADATA_PREFIX,
    own_properties,
    positive_integer,
    positive_number,
    reads_raw,
)
from hwnas.checking.references import Reference, onnx_reference
from hwnas.checking.request import CheckRequest
from hwnas.checking.saturation import cpu_instructions, saturation_of
from hwnas.checking.shape_latencies import shape_latencies
from hwnas.checking.trial import probe
from hwnas.config import CheckConfig
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.memory import RunError, Trial
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.inventory import find_device
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime, create_runtime
from hwnas.runs.progress import Stage, silent
from hwnas.runs.run_folder import environment

SCHEMA = 1
MAX_THREADS, MAX_BATCH = 1024, 2**20
"""The most threads and the largest batch size that a model's properties may ask for."""


def check_model(
    model: Inspection,
    runtime: Runtime,
    feeds: FeedMaker,
    request: CheckRequest,
    *,
    reference: Reference | None = None,
    predicted_ms: float | None = None,
    measured_latency: NetworkLatency | None = None,
    extra_gates: Sequence[Gate] = (),
    extra_notes: Sequence[str] = (),
    stage: Stage = silent,
) -> dict[str, Any]:
    """Check an ONNX file on a runtime.

    Args:
        model: the inspected file.
        runtime: the runtime that the latency is measured on.
        feeds: generates the inputs; the latency is measured at `feeds.batch`.
        request: budgets, limits of the gates, and the load of the serving test.
        reference: a model to compare with; without it, the gates of parity with a reference and of
            lost accuracy are skipped.
        predicted_ms: the latency that the latency table predicts, for the document.
        measured_latency: the latency on a device that is not attached; the latency is measured
            here if None.
        extra_gates: further gates that the caller has evaluated.
        extra_notes: further remarks for the document's `notes`.
        stage: shows progress.

    Returns:
        The content of `check.json`, schema 1.

    Raises:
        InputError: when the runtime refuses the model, or it exceeds the limits of a session.
        RuntimeMissingError: when a runtime of `check.compare` is not installed.
    """
    onnx_runtime = judging_runtime(runtime)
    with stage("check") as advance:
        advance(0, 2, "parity and score")
        trial = probe(model, onnx_runtime, feeds, request.limits)
        there = device_reference(model, runtime, feeds)
        behaviour = observe(model, onnx_runtime, feeds, reference, trial, request.limits, there)
        advance(1, 2, "latency")
        if measured_latency is not None:
            performance = Performance(measured_latency)
        else:
            performance = measure_performance(
                model, runtime, feeds, trial.batches, request, reference
            )
        advance(2, 2, f"{performance.latency.value_ms:.3f} ms")
    saturation = None
    if model.precision == "int8" and onnx_runtime.name == "onnxruntime-cpu":
        saturation = saturation_of(model, feeds, request.limits)
    found = Findings(behaviour, performance, saturation=saturation)
    if measured_latency is None and onnx_runtime is runtime:
        cold_start = measure_cold_start(model, onnx_runtime, feeds, trial, request)
        found = replace(found, memory_mb=trial.memory_mb, cold_start=cold_start)
    gates = [
        *resource_gates(found, request),
        *placement_gates(onnx_runtime, behaviour.runtimes[onnx_runtime.name]),
        *extra_gates,
        *original_gates(behaviour.score, request.lost, request.limits),
        *behaviour_gates(
            model, feeds, behaviour, request.limits, has_reference=reference is not None
        ),
        *serving_gates(performance.serving),
    ]
    return {
        "schema": SCHEMA,
        "verdict": verdict_of(gates),
        "not_asked": _not_asked(request, behaviour),
        "warnings": found.warnings,
        "budget_ms": request.budget_ms,
        "predicted_ms": predicted_ms,
        "batch": feeds.batch,
        **found.to_json(),
        "notes": [
            *_preprocessing_notes(model),
            *behaviour.notes,
            *found.notes,
            *_place_notes(runtime),
            *extra_notes,
        ],
        "model": model_facts(model),
        "gates": [gate.to_json() for gate in gates],
        "environment": _environment(runtime),
    }


def _preprocessing_notes(model: Inspection) -> list[str]:
    """A note for a model that normalises raw inputs itself."""
    if not reads_raw(own_properties(model.properties)):
        return []
    dtype = model.inputs[0].dtype
    return [
        f"the model reads raw inputs ({dtype}) and normalises them itself: latency, outputs and "
        "score are those of the whole"
    ]


def _place_notes(runtime: Runtime) -> list[str]:
    """Where the latency was measured, if not here, and what was remarked on meanwhile."""
    if runtime.is_here:
        return []
    return [
        f"the latency was measured on {runtime.place}; memory and the start of a process were not",
        *dict.fromkeys(runtime.remarks),
    ]


def device_reference(model: Inspection, runtime: Runtime, feeds: FeedMaker) -> dict[str, Reference]:
    """The model as a device that is elsewhere computes it, at the batch size that is checked."""
    if runtime.is_here or not isinstance(runtime, OnnxModelRuntime):
        return {}
    name = f"{runtime.name} on {runtime.place}"
    predict = as_predict(runtime.infer(model.path), str(model.path))
    return {name: Reference(name, predict, trial=Trial(None, batches=(feeds.batch,)))}


def _not_asked(request: CheckRequest, behaviour: Behaviour) -> list[str]:
    """What a check without a budget, a reference or labels says nothing about, in words."""
    parity = behaviour.parity
    is_compared = parity is not None and parity.values > 0 and not parity.constant
    found = [] if request.budget_ms is not None else ["latency not limited"]
    if not is_compared and behaviour.score is None:
        found.append("accuracy not known")
    return found


def _environment(runtime: Runtime) -> dict[str, Any]:
    """Versions and machine, and the settings of the runtime."""
    found = environment() | {
        "device": runtime.device_name(),
        "threads": runtime.threads,
        "options": runtime.options(),
        "instructions": cpu_instructions(),
    }
    if runtime.is_here:
        return found
    # The processor's instructions and the versions are those of the machine that judged the model.
    versions = runtime.profile(dtype="float32", batch=1).versions
    return found | {"elsewhere": {"name": runtime.place, "versions": versions}}


def behaviour_gates(
    model: Inspection,
    feeds: FeedMaker,
    behaviour: Behaviour,
    limits: CheckConfig,
    *,
    has_reference: bool = True,
) -> list[Gate]:
    """Gates of what a model computes, with the parity limits of its number format.

    Args:
        model: the inspected file.
        feeds: generated its inputs.
        behaviour: what was observed.
        limits: limits of the gates.
        has_reference: whether the model has a reference; its parity gates are then inconclusive
            rather than skipped if no outputs could be compared.
    """
    held_to = parity_limits(model.precision, limits)
    return [
        shapes_gate(behaviour.contradiction),
        batch_gate(feeds.is_dynamic, behaviour.failures, behaviour.batches),
        finite_gate(behaviour.not_finite, limits, is_random=feeds.samples is None),
        *parity_gates(behaviour.parity, held_to, is_required=has_reference),
        *(g for name, p in behaviour.parity_with.items() for g in parity_gates(p, held_to, name)),
        *score_gates(behaviour.score, limits),
    ]


def check_file(
    model: Inspection,
    request: CheckRequest,
    *,
    runtime_name: str | None = None,
    threads: int | None = None,
    device_name: str | None = None,
    shapes: Shapes | None = None,
    more_shapes: Sequence[Shapes] = (),
    sizes: Mapping[str, int] | None = None,
    has_batch: bool = True,
    data: Path | None = None,
    score_output: str | None = None,
    score_threshold: float | None = None,
    reference: Inspection | Path | None = None,
    measured: Path | None = None,
    table: str | Path | None = None,
    stage: Stage = silent,
) -> dict[str, Any]:
    """Check a model that belongs to no run.

    For a model that hwnas exported, the latency budget, runtime, threads and batch size default to
    those in the model's properties.

    Args:
        model: the inspected file.
        request: budgets, limits of the gates, and the load of the serving test.
        runtime_name: the runtime that the latency is measured on; by default `onnxruntime-cpu`.
        threads: threads of the runtime; by default 1.
        device_name: name in `devices.toml` of the device that the latency is measured on; this
            machine if None. Its runtime and threads are the defaults then.
        shapes: shapes of inputs whose sizes the model leaves open, by name.
        more_shapes: further shapes of the inputs, at which only the latency is measured.
        sizes: sizes of dimensions, by the names that the model gives them.
        has_batch: whether an open first dimension may be the batch.
        data: an inspected npz file with an array for each input, under the input's name, and
            optionally `labels`.
        score_output: name of the output that gives the classes, where several could.
        score_threshold: least score of class 1, for an output with one score for each sample.
        reference: an inspected model that the outputs are compared with, or an inspected npz file
            with the outputs for the samples in `data`.
        measured: file with latencies of the model that were measured on another device; the
            latency is measured here if None.
        table: a latency table of this device, whose time of the speed reference tells whether the
            machine is slower now; None if there is none.
        stage: shows progress.

    Returns:
        The content of `check.json`, schema 1.

    Raises:
        DeviceError: when the named device cannot be reached.
        InputError: when the files do not fit each other, or the runtime refuses the model.
        RuntimeMissingError: when the runtime is not installed.
    """
    where, properties = str(model.path), own_properties(model.properties)
    elsewhere = None if measured is None else measured_elsewhere(measured, model.path)
    device = None if device_name is None else find_device(device_name)
    name = runtime_name or properties.get("runtime", "onnxruntime-cpu")
    stated_threads = positive_integer(properties, "threads", where, MAX_THREADS)
    if device is not None:
        name, stated_threads = runtime_name or device.runtime, device.threads
    runtime = runtime_on(device_name, name, threads or stated_threads or 1)
    runtime.require()
    if table is not None:
        request = replace(request, recorded=recorded_in(table, runtime))
    stated = StatedSizes(shapes or {}, sizes or {}, has_batch)
    onnx_runtime = judging_runtime(runtime)
    try:
        feeds = _file_feeds(model, properties, stated, data)
    except UnknownSizesError as error:
        raise with_proposal(error, model, onnx_runtime, stated, request.limits) from None
    others = [
        feeds_for(model, replace(stated, shapes=further), None, feeds.batch)
        for further in more_shapes
    ]
    if feeds.samples is not None:
        labelled = replace(feeds.samples, score_output=score_output, threshold=score_threshold)
        feeds = replace(feeds, samples=labelled)
    other = None
    if isinstance(reference, Path):
        other = stored_reference(reference, model, feeds.samples)
    elif reference is not None:
        other = onnx_reference(reference, onnx_runtime, feeds, request.limits)
    stated_ms = positive_number(properties, "budget_ms", where)
    if request.budget_ms is None:
        request = replace(request, budget_ms=stated_ms)
    try:
        document = check_model(
            model,
            runtime,
            feeds,
            request,
            reference=other,
            predicted_ms=positive_number(properties, "predicted_ms", where),
            measured_latency=elsewhere,
            stage=stage,
        )
    except RunError as error:
        if data is not None:
            raise
        raise with_proposal(error, model, onnx_runtime, stated, request.limits) from None
    if not others or measured is not None or not isinstance(runtime, OnnxModelRuntime):
        return document
    rows = shape_latencies(model, runtime, [feeds, *others], request.limits)
    return document | {"shape_latencies": rows}


def _file_feeds(
    model: Inspection,
    properties: Mapping[str, str],
    stated: StatedSizes,
    data: Path | None,
) -> FeedMaker:
    """Feeds for a model; its properties may state the batch size."""
    where = str(model.path)
    batch = positive_integer(properties, "batch", where, MAX_BATCH)
    feeds = feeds_for(model, stated, data, batch or 1)
    if batch is not None and not feeds.is_dynamic and feeds.batch != batch:
        raise InputError(
            "the batch size differs from that of the inputs",
            where=f"{where}: property {METADATA_PREFIX}batch",
            expected=feeds.batch,
            actual=batch,
        )
    return feeds


def model_facts(model: Inspection) -> dict[str, Any]:
    """The `model` object of a check's document.

    Parameters and multiply-accumulate operations are those that hwnas wrote into the model's
    properties, if it exported the model.
    """
    where, properties = str(model.path), own_properties(model.properties)
    params, macs = (positive_number(properties, name, where) for name in ("params", "macs"))
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


def judging_runtime(runtime: Runtime) -> OnnxModelRuntime:
    """What judges what a model computes.

    The runtime itself, or ONNX Runtime on this machine's CPU if the runtime is elsewhere or cannot
    run ONNX files.
    """
    if isinstance(runtime, OnnxModelRuntime) and runtime.is_here:
        return runtime
    other = create_runtime("onnxruntime-cpu", threads=1)
    assert isinstance(other, OnnxModelRuntime)
    return other
