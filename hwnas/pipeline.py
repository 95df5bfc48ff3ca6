"""The stages of a run, each from files to files in its folder; `run` is all of them in a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import latency_range_ms
from hwnas.budget.gate import NetworkLatency, measure_network
from hwnas.budget.limit import Limit
from hwnas.budget.selection import Measured, Selection, read_measurements
from hwnas.config import Config
from hwnas.data import Augmentation, Split, evaluation_batches, split_train
from hwnas.deploy.check import Gate, Reference, check_model, confidence_gate
from hwnas.deploy.export import export_network, set_metadata
from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import OnnxRuntime
from hwnas.latency_tables.shipped import load_table
from hwnas.latency_tables.table import LatencyTable
from hwnas.mixed_op import use_kernels
from hwnas.ops import registry_hash
from hwnas.profiling import inference, profile
from hwnas.reporting.report import render_overview, render_report
from hwnas.runs import interruption, progress
from hwnas.runs.checkpoints import remove_checkpoints, write_atomic
from hwnas.runs.run_folder import RunFolder, environment, next_run_folder
from hwnas.spaces import build_space
from hwnas.strategies import STRATEGIES
from hwnas.supernet.evaluate import rank_architectures
from hwnas.supernet.search import SupernetSearch
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
        every other gate.

    Raises:
        HwnasError: with the exit code that the command line gives.
    """
    current = Run.start(config, Path(out or next_run_folder()), resume=resume, stage=stage)
    with current.folder.locked():
        current.begin()
        prepare_table(current, table)
        if not current.folder.architecture.exists():
            search_architecture(current)
        if not current.folder.metrics.exists():
            train(current)
        interruption.stop_if_requested()
        export(current)
        interruption.stop_if_requested()
        document = check(current)
        report(current.folder.path)
    return document


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


def search_architecture(run: Run) -> Architecture:
    """Search, choose and measure; writes `architecture.json`.

    Raises:
        InputError: when no architecture can keep the budget, before any training.
        BudgetError: when no candidate kept it.
        Interrupted: after a signal, with everything saved.
    """
    budget_ms = run.budget_ms()
    if not any(record["event"] == "budget" for record in run.folder.read_history()):
        fastest_ms, slowest_ms = latency_range_ms(run.cost)
        record = {"budget_ms": budget_ms, "fastest_ms": fastest_ms, "slowest_ms": slowest_ms}
        run.folder.append_history({"event": "budget", **record})
    training, validation = split_train(run.dataset.train, 0.5, run.seed("halves"))
    loop = _supernet_search(run, training, validation)
    with run.stage("search") as advance:
        loop.run(run.folder, advance)
    chosen = _select(run, loop, training, validation)
    _write_architecture(run, chosen)
    return chosen.architecture


def _supernet_search(run: Run, training: Split, validation: Split) -> SupernetSearch:
    config = run.config.search
    torch.manual_seed(run.seed("supernet"))
    supernet = run.proxy_space.supernet().to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_kernels(supernet, run.config.search.kernels, run.config.search.recompute)
    return SupernetSearch(
        supernet,
        STRATEGIES[config.strategy](run.space, run.seed("strategy"), config),
        run.limits(),
        config,
        run.batches(training, config.batch_size, "search training"),
        run.batches(validation, config.batch_size, "search validation"),
    )


def _select(run: Run, loop: SupernetSearch, training: Split, validation: Split) -> Measured:
    """Rank and measure what the search found, until a candidate keeps the budget."""
    config = run.config.search
    batches = run.batches(training, config.batch_size, "recalibration")
    recalibration = [batches.batch(i) for i in range(config.recalibration_batches)]
    ranked = validation.take(np.arange(min(config.ranking_images, len(validation))))
    validation_batches = list(evaluation_batches(ranked, run.dataset, 250, run.device))

    def rank(architectures: list[Architecture]) -> list[float]:
        return rank_architectures(
            run.space,
            loop.supernet,
            architectures,
            recalibration=recalibration,
            validation=validation_batches,
        )

    with run.stage("measure") as advance:

        def measure(architecture: Architecture) -> NetworkLatency:
            budget_ms = loop.limits[0].budget_ms
            latency = measure_architecture(run, architecture, budget_ms)
            text = f"{latency.value_ms:.3f} ms, budget {budget_ms:.3f} ms"
            advance(len(selection.measured) + 1, config.max_measured, text)
            return latency

        selection = Selection(
            loop.strategy,
            loop.limits,
            rank,
            measure,
            run.folder,
            candidates=config.candidates,
            max_measured=config.max_measured,
        )
        return selection.run()


def measure_architecture(
    run: Run, architecture: Architecture, budget_ms: float | None
) -> NetworkLatency:
    """Latency of an architecture's exported network, with random weights."""
    if run.device_measurements is not None:
        return run.stated_latency(architecture)
    torch.manual_seed(run.seed("measurement"))
    network = run.space.network(architecture).eval()
    latency = run.config.latency
    call = inference(network, run.image_shape, run.runtime, latency.batch)
    return measure_network(call, run.runtime, budget_ms=budget_ms, seconds=latency.measure_seconds)


def _write_architecture(run: Run, chosen: Measured) -> None:
    architecture = chosen.architecture
    params, macs = run.space.params_and_macs(architecture)
    stated = architecture.to_json()
    document = {
        "schema": stated["schema"],
        "space": stated["space"],
        "space_options": run.space.options.model_dump(),
        "choices": stated["choices"],
        "genotype": run.space.to_genotype(architecture),
        "params": params,
        "macs": macs,
        "predicted_ms": chosen.predicted_ms,
    }
    run.folder.write_json(run.folder.architecture, document)


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
    run: Run, model_path: Path | None = None, budget_ms: float | None = None
) -> dict[str, Any]:
    """Check a model against a run; returns the content of `check.json`, written for its own model.

    Args:
        run: gives the network, the data, the runtime and the limits.
        model_path: the run's own model if None.
        budget_ms: the run's own budget if None.
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
    document = check_model(
        path,
        run.runtime,
        budget_ms=run.budget_ms() if budget_ms is None else budget_ms,
        predicted_ms=_predicted_ms(run),
        batch=latency.batch,
        limits=run.config.check,
        reference=Reference(
            run.trained_network(),
            run.dataset,
            lambda: inference(run.trained_network(), run.image_shape, run.runtime, latency.batch),
        ),
        stage=run.stage,
        stated=None if run.device_measurements is None else run.stated_latency(run.architecture()),
        more_gates=_confidence_gates(run),
    )
    if is_own:
        run.folder.write_json(run.folder.check, document)
    return document


def _confidence_gates(run: Run) -> list[Gate]:
    """With a confidence asked for: the probability by the model that the candidates corrected."""
    confidence = run.config.budget.confidence
    if confidence is None:
        return []
    measured = read_measurements(run.folder, run.space.name)
    cost = run.cost.corrected(
        [m.architecture for m in measured], [m.latency.ci_high_ms for m in measured]
    )
    limit = Limit(cost, run.budget_ms(), confidence)
    return [confidence_gate(limit.probability(run.architecture()), confidence)]


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
