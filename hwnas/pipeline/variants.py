"""A run's model in other number formats: each judged by its gates, all measured together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from hwnas.checking.outputs import Feeds
from hwnas.checking.references import Reference
from hwnas.checking.request import CheckRequest
from hwnas.deploy.judged_variants import (
    RunningVariant,
    VariantLatency,
    judge_variant,
    measure_variants,
    passing,
    run_variant,
    unmade_variant,
)
from hwnas.deploy.operator_speed import operator_speed
from hwnas.deploy.variants import EXPORTED, fastest, make_variant
from hwnas.durable import make_folder, write_atomic
from hwnas.errors import HwnasError, InputError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.pipeline.calibration_samples import CALIBRATION_IMAGES, calibration_feeds
from hwnas.pipeline.check import dataset_feeds, network_reference
from hwnas.pipeline.run import Run
from hwnas.runs import interruption
from hwnas.runs.run_folder import RunFolder, environment

SCHEMA = 1
logger = logging.getLogger("hwnas")


def export_variants(run: Run, names: Sequence[str], *, force: bool = False) -> dict[str, Any]:
    """Write, judge and measure variants of the run's exported model.

    Each is compared with the trained network in PyTorch and judged by the run's budget and the
    limits of its number format; budgets of further devices are left to the check. All are measured
    in the same rounds, in this process.

    Args:
        run: has an exported model, the data and the runtime.
        names: of `parse_variants`.
        force: remove variants of an earlier call that are not among the names.

    Returns:
        The content of `variants/variants.json`, schema 1. One that cannot be made or run has an
        `error` and no verdict.

    Raises:
        InputError: when the run's model cannot be measured here or does not run.
        Interrupted: after a signal.
    """
    runtime = require_measurable(run)
    run.folder.require(run.folder.model)
    _remove_others(run.folder, names, force)
    make_folder(run.folder.variants)
    calibration = calibration_feeds(run)
    notes = []
    reference = network_reference(run)
    variants: dict[str, RunningVariant] = {}
    errors: dict[str, str] = {}
    with run.stage("variants") as advance:
        for done, name in enumerate(names):
            advance(done, len(names) + 1, name)
            interruption.stop_if_requested()
            try:
                if note := _speed_note(run, runtime, name):
                    advance(done, len(names) + 1, note)
                    logger.info(note)
                    notes.append(note)
                path = _written(run.folder, name, calibration)
                variants[name] = _observed(run, runtime, path, reference)
            except HwnasError as error:
                if name == EXPORTED:
                    raise
                errors[name] = str(error)
        advance(len(names), len(names) + 1, "latency")
        seconds, recorded = run.config.check.measure_seconds, run.target.recorded_speed()
        latencies = measure_variants(variants, runtime, seconds, recorded)
        document = _document(run, runtime, names, variants, latencies, errors) | {"notes": notes}
        advance(
            len(names) + 1, len(names) + 1, f"fastest that passes: {document['fastest'] or 'none'}"
        )
    run.folder.write_json(run.folder.variants_document, document)
    return document


def _speed_note(run: Run, runtime: OnnxModelRuntime, name: str) -> str | None:
    """How fast the largest operator is in the format of a quantised variant, in a sentence."""
    if not name.startswith("int8"):
        return None
    try:
        model = onnx.load(run.folder.model)
        with run.folder.temporary_folder() as folder:
            speed = operator_speed(name, model, runtime, run.config.latency.batch, folder)
    except InputError:
        # The conversion of the whole model states why it is not possible.
        return None
    return None if speed is None else speed.sentence()


def require_measurable(run: Run) -> OnnxModelRuntime:
    """The run's runtime.

    Raises:
        InputError: when it runs no ONNX files, the device is not here, or the model is no float32
            model.
    """
    if run.target.device_measurements is not None:
        raise InputError(
            "variants are measured, and the run's device is not here",
            where="latency.device_measurements",
        )
    if run.folder.formats.exists():
        raise InputError(
            "the run's model has formats of its own already, which were chosen by its budget",
            where=str(run.folder.formats),
            mend="shrink without shrink.variant for a model in float32",
        )
    if not isinstance(run.target.runtime, OnnxModelRuntime):
        raise InputError(
            "variants are ONNX files, and the run's runtime runs none",
            where=run.target.runtime.name,
        )
    return run.target.runtime


def _remove_others(folder: RunFolder, names: Sequence[str], force: bool) -> None:
    """Remove earlier variants that are not made again; they are named unless `force` is set."""
    models = [_variant_path(folder, name) for name in names]
    checks = [path for path in map(folder.check_of, models) if path is not None]
    pages = [path.with_suffix(".html") for path in checks]
    made = {folder.variants_document, *models, *checks, *pages}
    others = [path for path in folder.variant_files() if path not in made]
    if others and not force:
        raise InputError(
            "these variants are not among the named ones and would be removed",
            where=str(folder.variants),
            actual=", ".join(path.name for path in others),
            mend="name them in --variants too, or remove them with --force",
        )
    for path in others:
        path.unlink()


def _variant_path(folder: RunFolder, name: str) -> Path:
    """The file of a variant; the exported model is the variant fp32."""
    return folder.model if name == EXPORTED else folder.variants / f"model.{name}.onnx"


def _written(folder: RunFolder, name: str, calibration: Sequence[Feeds]) -> Path:
    """The variant's file; the exported model stays where it is.

    A check of an earlier file with another content is removed.
    """
    path = _variant_path(folder, name)
    if name == EXPORTED:
        return path
    with folder.temporary_folder() as temporary:
        data = make_variant(name, folder.model, calibration, temporary)
    check = folder.check_of(path)
    if check is not None and path.exists() and path.read_bytes() != data:
        for outdated in (check, check.with_suffix(".html")):
            outdated.unlink(missing_ok=True)
    write_atomic(path, data)
    return path


def _observed(
    run: Run, runtime: OnnxModelRuntime, path: Path, reference: Reference
) -> RunningVariant:
    """The variant as it runs here; raises HwnasError when the runtime refuses it."""
    model = inspect_model(path)
    return run_variant(model, runtime, dataset_feeds(run, model), reference, _request(run))


def _request(run: Run) -> CheckRequest:
    """Budgets and limits of the run."""
    budget = run.config.budget
    return CheckRequest(
        limits=run.config.check,
        budget_ms=run.target.budget_ms(),
        memory_budget_mb=budget.memory_mb,
        energy_budget_mj=budget.energy_mj,
    )


def _document(
    run: Run,
    runtime: OnnxModelRuntime,
    names: Sequence[str],
    variants: Mapping[str, RunningVariant],
    latencies: Mapping[str, VariantLatency],
    errors: Mapping[str, str],
) -> dict[str, Any]:
    """The content of `variants.json`."""
    folder, request = run.folder.path, _request(run)
    judged = {
        name: judge_variant(variant, latencies[name], runtime, request, folder)
        for name, variant in variants.items()
    }
    ratios = {name: found.ratio for name, found in latencies.items()}
    return {
        "schema": SCHEMA,
        "fastest": fastest(ratios, passing(judged)),
        "budget_ms": request.budget_ms,
        "batch": run.config.latency.batch,
        "runtime": runtime.name,
        "calibration_images": min(CALIBRATION_IMAGES, len(run.problem.dataset.train)),
        "variants": {name: judged.get(name) or unmade_variant(errors[name]) for name in names},
        "environment": environment()
        | {"device": runtime.device_name(), "threads": runtime.threads},
    }
