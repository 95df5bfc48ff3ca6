"""The stages of a run, each from files to files in its folder; `run` is all of them in a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.selection import read_measurements
from hwnas.config import Config
from hwnas.data import Augmentation
from hwnas.deploy.accuracy import Samples
from hwnas.deploy.behaviour import Reference
from hwnas.deploy.check import check_model, measured_elsewhere
from hwnas.deploy.export import OUTPUT, export_network, set_metadata
from hwnas.deploy.feeds import FeedMaker, feeds_for
from hwnas.deploy.gates import Gate, confidence_gate, predicted_gate
from hwnas.deploy.parity import Feeds, Outputs, Predict
from hwnas.deploy.performance import ServingLoad
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection, inspect_model
from hwnas.latency_tables.runtimes import OnnxRuntime
from hwnas.latency_tables.shipped import load_table
from hwnas.latency_tables.table import LatencyTable
from hwnas.ops import registry_hash
from hwnas.profiling import inference, profile
from hwnas.reporting.report import render_overview, render_report
from hwnas.runs import interruption, progress
from hwnas.runs.checkpoints import remove_checkpoints, write_atomic
from hwnas.runs.run_folder import RunFolder, environment, next_run_folder
from hwnas.search_stage import search_architecture
from hwnas.spaces import build_space
from hwnas.training.train import Training, evaluate, final_weights
from hwnas.workspace import Run


def run(
    config: Config,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    stage: progress.Stage = progress.silent,
) -> dict[str, Any]:
    """All stages in a row: profile, search, train, export, check, report.

    Args:
        config: the settings, from `load_config`.
        out: the run folder; the next free `runs/run-001` ... if None.
        table: a latency table of this device; measured now if None.
        resume: go on in a folder that holds an unfinished run.
        stage: shows progress.

    Returns:
        The content of `check.json`; its verdict is `pass` when the model keeps the budget and
        every other gate. With several budgets, `family` has a summary of the others' checks.

    Raises:
        HwnasError: with the exit code that the command line gives.
    """
    current = Run.start(config, Path(out or next_run_folder()), resume=resume, stage=stage)
    with current.folder.locked():
        current.begin()
        prepare_table(current, table)
        members = [current, *current.family]
        if not all(member.folder.architecture.exists() for member in members):
            search_architecture(current)
        document, *others = [_finish(member) for member in members]
        if others:
            document["family"] = [_front_point(other) for other in others]
            front = render_overview([m.folder for m in members], current.folder.path)
            write_atomic(current.folder.front, front)
    return document


def _finish(run: Run) -> dict[str, Any]:
    """Train, export, check and report one architecture."""
    if not run.folder.metrics.exists():
        train(run)
    interruption.stop_if_requested()
    export(run)
    interruption.stop_if_requested()
    document = check(run)
    report(run.folder.path)
    return document


def _front_point(document: dict[str, Any]) -> dict[str, Any]:
    """What the family's summary says of one member's check."""
    return {
        "budget_ms": document["budget_ms"],
        "latency_ms": document["measured"]["value_ms"],
        "accuracy": document["accuracy"],
        "verdict": document["verdict"],
    }


def search(
    config: Config,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    stage: progress.Stage = progress.silent,
) -> Architecture:
    """Profile (unless a table is given) and search; arguments and errors as for `run`."""
    current = Run.start(config, Path(out or next_run_folder()), resume=resume, stage=stage)
    with current.folder.locked():
        current.begin()
        prepare_table(current, table)
        return search_architecture(current)


def prepare_table(run: Run, table: str | Path | None) -> None:
    """Put the latency table into the folder: the given one, or one measured now.

    Raises:
        InputError: when the table is of another device, setting or definition of the operators,
            lacks some, or is another than the run was started with.
    """
    kept = run.folder.latency_table
    if table is None and not kept.exists():
        if run.device_measurements is not None:
            raise InputError(
                "a device that is not here cannot be profiled",
                where="latency.device_measurements",
                mend="give its table with --table; `hwnas table fit` makes one",
            )
        profile(run.config, kept, partial=run.folder.partial_table, stage=run.stage)
        return
    source = Path(table) if table is not None else kept
    given = load_table(source)
    if run.device_measurements is None:
        given.require_device(run.device_profile())
    if given.operators and given.registry != registry_hash():
        raise InputError(
            "measured on other definitions of the operators",
            where=str(source),
            expected=registry_hash(),
            actual=given.registry,
            mend=f"measure them with `{run.profile_command}`",
        )
    CostModel(run.space, given, command=run.profile_command)
    searched = run.folder.history.exists()
    if searched and kept.exists() and LatencyTable.load(kept).sha256 != given.sha256:
        raise InputError(
            "another table than this run was started with",
            where=str(source),
            mend="resume without --table, or choose another folder with --out",
        )
    if source != kept:
        given.save(kept)
    for copy, device in zip(run.device_tables, run.config.devices, strict=True):
        if not copy.exists():
            other = load_table(device.table)
            CostModel(run.space, other)
            other.save(copy)
    for member in run.family:
        member.start_member(run)


def train(run: Run, *, restart: bool = False) -> dict[str, Any]:
    """Train the architecture from scratch; writes `weights.safetensors` and `metrics.json`.

    Args:
        run: has the architecture and the data.
        restart: forget an earlier training instead of going on from its checkpoint.

    Returns:
        The content of `metrics.json`.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
    """
    from safetensors.torch import save

    config = run.config.train
    architecture, device = run.architecture(), run.device
    torch.manual_seed(run.seed("network"))
    network = run.space.network(architecture)
    augment = Augmentation(config.crop_padding, config.flip, config.cutout)
    training = Training(
        network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        config,
        run.batches(run.dataset.train, config.batch_size, "training", augment),
        run.seed("drop path"),
    )
    if restart:
        _discard_training(run)
    with run.stage("train") as advance:
        training.run(run.folder, advance)
    metrics = {
        "schema": 1,
        **evaluate(training.average, run.dataset, device),
        "epochs": config.epochs,
        "seconds": training.seconds,
    }
    write_atomic(run.folder.weights, save(final_weights(training.average)))
    run.folder.write_json(run.folder.metrics, metrics)
    remove_checkpoints(run.folder.checkpoints, "train")
    return metrics


def _discard_training(run: Run) -> None:
    """Forget an earlier training, so that the next one starts anew."""
    remove_checkpoints(run.folder.checkpoints, "train")
    run.folder.rewind_history("train", 0)
    for path in (run.folder.weights, run.folder.metrics):
        path.unlink(missing_ok=True)


def export(run: Run) -> Path:
    """Write `model.onnx` with the facts of the run as its properties."""
    model = export_network(run.trained_network(), run.image_shape)
    document = run.folder.read_json(run.folder.architecture)
    latency = run.config.latency
    set_metadata(
        model,
        {
            "architecture": json.dumps(document["choices"]),
            "space": document["space"],
            "space_options": json.dumps(document["space_options"]),
            "classes": json.dumps(run.dataset.classes),
            "input_mean": json.dumps(run.dataset.mean),
            "input_std": json.dumps(run.dataset.std),
            "params": str(document["params"]),
            "macs": str(document["macs"]),
            "predicted_ms": repr(document["predicted_ms"]),
            "budget_ms": repr(run.budget_ms()),
            "runtime": latency.runtime,
            "batch": str(latency.batch),
            "threads": str(latency.threads),
            "table_sha256": LatencyTable.load(run.folder.latency_table).sha256,
            "weights_sha256": hashlib.sha256(run.folder.weights.read_bytes()).hexdigest(),
            "hwnas_version": environment()["packages"].get("hwnas", "unknown"),
        },
    )
    write_atomic(run.folder.model, model.SerializeToString())
    return run.folder.model


def check(
    run: Run,
    model_path: Path | None = None,
    budget_ms: float | None = None,
    measured: Path | None = None,
    load: ServingLoad | None = None,
    inspected: Inspection | None = None,
) -> dict[str, Any]:
    """Check a model against a run; returns the content of `check.json`, written for its own model.

    Args:
        run: gives the network, the data, the runtime and the limits.
        model_path: the run's own model if None.
        budget_ms: the run's own budget if None.
        measured: results of the model from another device; measured on this one if None.
        load: of the smoke test of serving; None leaves it out.
        inspected: the file, if it was inspected already.
    """
    latency = run.config.latency
    path = run.folder.model if model_path is None else model_path
    is_own = path.resolve() == run.folder.model.resolve()
    if not is_own and not isinstance(run.runtime, OnnxRuntime):
        raise InputError(
            "this runtime runs the run's own network, no other file",
            where=run.runtime.name,
            expected=str(run.folder.model),
            actual=str(path),
        )
    model = inspected or inspect_model(path)
    feeds = _dataset_feeds(run, model)
    document = check_model(
        model,
        run.runtime,
        feeds,
        budget_ms=run.budget_ms() if budget_ms is None else budget_ms,
        predicted_ms=_predicted_ms(run),
        limits=run.config.check,
        memory_budget_mb=run.config.budget.memory_mb,
        reference=Reference(
            "torch",
            _network_predict(run),
            lambda: inference(run.trained_network(), run.image_shape, run.runtime, latency.batch),
        ),
        load=load,
        stage=run.stage,
        stated=_latency_elsewhere(run, path, measured),
        more_gates=_prediction_gates(run),
    )
    if is_own:
        run.folder.write_json(run.folder.check, document)
    return document


def _dataset_feeds(run: Run, model: Inspection) -> FeedMaker:
    """The test images as the model's inputs.

    Raises:
        InputError: when the model takes something else.
    """
    if len(model.inputs) != 1:
        raise InputError(
            "cannot feed the model",
            where=str(model.path),
            expected="one input of images",
            actual=f"{len(model.inputs)} inputs",
        )
    feeds = feeds_for(model, {}, None, run.config.latency.batch)
    name, dataset = model.inputs[0].name, run.dataset
    expected = ("batch", *run.image_shape)
    found = tuple("batch" if size is None else size for size in feeds.inputs[0].sizes)
    if found != expected:
        raise InputError(
            "the model takes other images than the data have",
            where=str(model.path),
            expected=expected,
            actual=found,
        )

    def take(chosen: np.ndarray) -> Feeds:
        return {name: dataset.normalise(dataset.test.images[chosen]).numpy()}

    labels = np.asarray(dataset.test.labels)
    return replace(feeds, samples=Samples(len(labels), take, labels))


def _network_predict(run: Run) -> Predict:
    """The trained network in PyTorch, as the check compares with it."""
    network = run.trained_network()

    def predict(feeds: Feeds) -> Outputs:
        (images,) = feeds.values()
        threads_before = torch.get_num_threads()
        # Beside busy neighbours two threads that wait for each other take longer than one.
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                return {OUTPUT: network(torch.from_numpy(images)).numpy()}
        finally:
            torch.set_num_threads(threads_before)

    return predict


def _latency_elsewhere(run: Run, model: Path, measured: Path | None) -> NetworkLatency | None:
    """The model's latency on a device that is not here, if it is to be judged by that."""
    if measured is not None:
        return measured_elsewhere(measured, model)
    if run.device_measurements is not None:
        return run.stated_latency(run.architecture())
    return None


def _prediction_gates(run: Run) -> list[Gate]:
    """Budgets of devices that are not here, and the probability where a confidence is asked for.

    The probability is that of the model which the measured candidates corrected.
    """
    architecture = run.architecture()
    here, *others = run.limits()
    gates = []
    if here.confidence is not None:
        measured = read_measurements(run.folder, run.space.name)
        cost = here.cost.corrected(
            [m.architecture for m in measured], [m.latency.ci_high_ms for m in measured]
        )
        probability = here.with_cost(cost).probability(architecture)
        gates.append(confidence_gate(probability, here.confidence))
    for path, limit in zip(run.device_tables, others, strict=True):
        name = LatencyTable.load(path).device.device
        gates.append(predicted_gate(name, limit.bound_ms(architecture), limit.budget_ms))
    return gates


def _predicted_ms(run: Run) -> float | None:
    """What the table predicts, unless the model is checked on another runtime than the table's."""
    table = LatencyTable.load(run.folder.latency_table)
    if run.device_measurements is None and table.device.runtime != run.runtime.name:
        return None
    return float(run.folder.read_json(run.folder.architecture)["predicted_ms"])


def report(path: Path) -> Path:
    """Write the report of a run folder, or the overview of the run folders in a folder.

    Raises:
        InputError: when there is no run.
    """
    if (path / "config.toml").exists():
        return _report_run(Run.open(path))
    folders = [RunFolder(p.parent) for p in sorted(path.glob("*/config.toml"))]
    if not folders:
        raise InputError("no run here", where=str(path), expected="a run folder")
    target = path / "report.html"
    write_atomic(target, render_overview(folders))
    return target


def _report_run(run: Run) -> Path:
    """The report needs no data: an architecture's file states its sizes."""
    folder = run.folder
    latencies: Mapping[str, float] = {}
    if folder.architecture.exists():
        stated = folder.read_json(folder.architecture)
        where = f"{folder.architecture}: space_options"
        space = build_space(stated.get("space", ""), stated.get("space_options"), where)
        if folder.latency_table.exists():
            cost = CostModel(space, LatencyTable.load(folder.latency_table))
            latencies = cost.operator_latencies_ms(Architecture.load(folder.architecture))
    else:
        space = run.space
    write_atomic(folder.report, render_report(folder, space, latencies))
    return folder.report
