"""Any ONNX model in other number formats: each judged by its gates, all measured together."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter

from hwnas.checking.inputs.feeds import FeedMaker, feeds_for
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.checking.outputs import Feeds
from hwnas.checking.references import onnx_reference
from hwnas.checking.request import CheckRequest
from hwnas.deploy.format_choice import MixedChoice
from hwnas.deploy.judged_variants import (
    RunningVariant,
    judge_variant,
    measure_variants,
    passing,
    run_variant,
    unmade_variant,
)
from hwnas.deploy.mixed_precision import Conversion, conversions, measured_formats, mixed_choices
from hwnas.deploy.sensitivity import named_nodes, operator_sensitivity
from hwnas.deploy.variants import EXPORTED, MIXED, convert, fastest
from hwnas.durable import make_folder, write_atomic
from hwnas.errors import HwnasError, InputError
from hwnas.inspection.process import Inspection, InspectionLimits, inspect_model
from hwnas.latency_tables.runtimes import OnnxModelRuntime, create_runtime
from hwnas.runs import interruption
from hwnas.runs.progress import Advance, Stage, silent
from hwnas.runs.run_folder import environment

SCHEMA = 1
DOCUMENT = "variants.json"
CALIBRATION_SAMPLES, CALIBRATION_BATCH = 256, 32
OPSET = 13
"""The oldest opset whose QuantizeLinear has a scale for each channel."""
LIMITS = InspectionLimits(memory_mb=4000.0, seconds=60.0)
"""Limits of the inspection of the variants, which are made here."""
logger = logging.getLogger("hwnas")


@dataclass(frozen=True)
class Quantization:
    """What is asked for.

    Attributes:
        names: names of the variants, see `parse_variants`.
        exclude: names of nodes that stay float32.
        sensitivity: whether each operator is also quantised alone.
        score_output: name of the output that gives the classes, where several could.
        score_threshold: least score of class 1, for an output with one score for each sample.
    """

    names: Sequence[str]
    exclude: Sequence[str] = ()
    sensitivity: bool = False
    score_output: str | None = None
    score_threshold: float | None = None


def quantize(
    model: Inspection,
    data: Path,
    out: Path,
    what: Quantization,
    request: CheckRequest,
    *,
    runtime_name: str = "onnxruntime-cpu",
    threads: int = 1,
    stated: StatedSizes | None = None,
    stage: Stage = silent,
) -> dict[str, Any]:
    """Convert a model to other number formats, judge and measure each.

    Args:
        model: the inspected float32 model.
        data: an inspected npz file with an array for each input and optionally `labels`; its first
            256 samples are the calibration data.
        out: folder that the variants and `variants.json` are written to.
        what: which variants, and which nodes stay float32.
        request: budgets and limits of the gates.
        runtime_name: the runtime to measure on.
        threads: threads of the runtime.
        stated: sizes that the model leaves open.
        stage: shows progress.

    Returns:
        The content of `variants.json`, schema 1. A variant that cannot be made or run has an
        `error` and no verdict.

    Raises:
        InputError: when the model is no float32 model, has no node of an excluded name, or the
            data do not fit it or are not finite.
        RuntimeMissingError: when the runtime is not installed.
    """
    runtime = create_runtime(runtime_name, threads)
    runtime.require()
    if not isinstance(runtime, OnnxModelRuntime):
        raise InputError("this runtime does not run ONNX models", where=runtime_name)
    if model.precision != "float32":
        raise InputError(
            "only float32 models are converted", where=str(model.path), actual=model.precision
        )
    stated = stated or StatedSizes()
    feeds = _feeds(model, stated, data, what)
    reference = onnx_reference(model, runtime, feeds, request.limits)
    source = _prepared(model, what.exclude)
    calibration = calibration_of(feeds)
    _require_finite(calibration, data)
    make_folder(out)
    variants: dict[str, RunningVariant] = {}
    errors: dict[str, str] = {}
    sensitivity = _sensitivity(what, source, runtime, calibration, str(model.path), stage)
    mixed = _mixed(what, source, sensitivity, runtime, feeds, str(model.path), errors, stage)
    asked = conversions(what.names, what.exclude, mixed)
    with stage("variants") as advance:
        steps = len(asked) + 1
        for done, (name, conversion) in enumerate(asked.items()):
            advance(done, steps, name)
            interruption.stop_if_requested()
            try:
                made = _written(name, conversion, model, source, calibration, out)
                own = _feeds(made, stated, data, what)
                variants[name] = run_variant(made, runtime, own, reference, request)
            except HwnasError as error:
                if name == EXPORTED:
                    raise
                errors[name] = str(error)
        advance(len(asked), steps, "latency")
        latencies = measure_variants(
            variants, runtime, request.limits.measure_seconds, request.recorded
        )
        judged = {
            name: judge_variant(variant, latencies[name], runtime, request, out)
            for name, variant in variants.items()
        }
        best = fastest({n: found.ratio for n, found in latencies.items()}, passing(judged))
        advance(steps, steps, f"fastest that passes: {best or 'none'}")
    document = {
        "schema": SCHEMA,
        "source": {"name": model.path.name, "sha256": model.sha256},
        "fastest": best,
        "budget_ms": request.budget_ms,
        "batch": feeds.batch,
        "runtime": runtime.name,
        "calibration_samples": sum(_count(one, feeds) for one in calibration),
        "exclude": list(what.exclude),
        "mixed": {f"{MIXED}-{n}": asdict(choice) for n, choice in enumerate(mixed, start=1)},
        "variants": judged | {name: unmade_variant(error) for name, error in errors.items()},
        "sensitivity": sensitivity if what.sensitivity else None,
        "environment": environment()
        | {"device": runtime.device_name(), "threads": runtime.threads},
    }
    write_atomic(out / DOCUMENT, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def calibration_of(feeds: FeedMaker) -> list[Feeds]:
    """Batches of the first samples, in their order."""
    assert feeds.samples is not None
    size = CALIBRATION_BATCH if feeds.is_dynamic else 1
    count = min(feeds.samples.count, CALIBRATION_SAMPLES)
    starts = range(0, count, size)
    return [feeds.samples.take(np.arange(start, min(start + size, count))) for start in starts]


def _require_finite(calibration: Iterable[Feeds], data: Path) -> None:
    """Refuse samples from which no range of values can be taken."""
    for batch in calibration:
        for name, array in batch.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(
                    "NaN or infinity among the samples that the ranges of values are taken from",
                    where=f"{data}: {name}",
                    expected=f"finite numbers in the first {CALIBRATION_SAMPLES} samples",
                    mend="leave such samples out",
                )


def _count(one: Feeds, feeds: FeedMaker) -> int:
    """Number of samples in a batch of calibration data."""
    for given in feeds.inputs:
        if given.batch_axis is not None:
            return int(one[given.name].shape[given.batch_axis])
    return feeds.batch


def _feeds(model: Inspection, stated: StatedSizes, data: Path, what: Quantization) -> FeedMaker:
    feeds = feeds_for(model, stated, data, 1)
    assert feeds.samples is not None
    samples = replace(feeds.samples, score_output=what.score_output, threshold=what.score_threshold)
    return replace(feeds, samples=samples)


def _prepared(model: Inspection, exclude: Collection[str]) -> onnx.ModelProto:
    """The model with named nodes, and in an opset that has quantised operators."""
    where = str(model.path)
    model.require_unchanged()
    source = onnx.load(model.path)
    if 0 < model.opset < OPSET:
        try:
            source = onnx.version_converter.convert_version(source, OPSET)
        except Exception as error:  # the converter's exceptions share no base class
            raise InputError(
                f"cannot be converted to opset {OPSET}, which quantised operators need",
                where=where,
                actual=" ".join(str(error).split()),
                mend=f"export the model with opset {OPSET} or newer",
            ) from None
    named_nodes(source)
    names = {node.name for node in source.graph.node}
    for name in exclude:
        if name not in names:
            raise InputError(
                "the model has no node of that name",
                where="--exclude",
                expected=", ".join(sorted(names)[:20]),
                actual=name,
            )
    return source


def _mixed(
    what: Quantization,
    source: onnx.ModelProto,
    sensitivity: Sequence[Mapping[str, Any]],
    runtime: OnnxModelRuntime,
    feeds: FeedMaker,
    where: str,
    errors: dict[str, str],
    stage: Stage,
) -> list[MixedChoice]:
    """Choices of formats for single operators, if asked for; a reason in `errors` if none."""
    if MIXED not in what.names:
        return []
    with stage("operators") as advance:
        progress, single = _stoppable(advance), feeds.real(feeds.batch, 0)
        try:
            formats = measured_formats(
                source, sensitivity, runtime, single, where, progress, what.exclude
            )
            return mixed_choices(formats, where)
        except InputError as error:
            errors[MIXED] = str(error)
            return []


def _written(
    name: str,
    conversion: Conversion,
    model: Inspection,
    source: onnx.ModelProto,
    calibration: Sequence[Feeds],
    out: Path,
) -> Inspection:
    """The variant's file, inspected; the model itself stays where it is."""
    if name == EXPORTED:
        return model
    kept = conversion.float32
    converted = convert(conversion.format, source, calibration, str(model.path), exclude=kept)
    path = out / f"{model.path.stem}.{name}.onnx"
    if path.absolute() == model.path.absolute():
        raise InputError("would overwrite the model", where=f"--out {out}")
    write_atomic(path, converted.SerializeToString())
    found = inspect_model(path, LIMITS)
    if conversion.format != EXPORTED and found.precision == model.precision:
        path.unlink()
        raise InputError(
            f"cannot be converted to {name}: no operator on which an output depends was converted",
            where=str(model.path),
            expected="weights in float32 that operators of the main graph read",
        )
    return found


def _sensitivity(
    what: Quantization,
    source: onnx.ModelProto,
    runtime: OnnxModelRuntime,
    calibration: Sequence[Feeds],
    where: str,
    stage: Stage,
) -> list[dict[str, Any]]:
    """How much each operator loses when it alone is quantised; empty if nothing asks for it."""
    if not what.sensitivity and MIXED not in what.names:
        return []
    with stage("sensitivity") as advance:
        progress = _stoppable(advance)
        return operator_sensitivity(source, runtime, calibration[:2], where, progress)


def _stoppable(advance: Advance) -> Advance:
    """Shows progress, and ends the work after a signal."""

    def progress(done: int, total: int, text: str) -> None:
        interruption.stop_if_requested()
        advance(done, total, text)

    return progress
