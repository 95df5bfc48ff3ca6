"""The stages of a run, each from files to files in its folder; `run` is all of them in a row."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.config import Config
from hwnas.data import Augmentation
from hwnas.deploy.export import export_network, set_metadata
from hwnas.errors import InputError
from hwnas.latency_tables.shipped import load_table
from hwnas.latency_tables.table import LatencyTable
from hwnas.ops import definitions
from hwnas.pipeline.check import check
from hwnas.pipeline.profile import profile
from hwnas.pipeline.report import report
from hwnas.pipeline.run import Run
from hwnas.pipeline.search import assist_search, search_architecture
from hwnas.pipeline.variants import discard_variants
from hwnas.runs import interruption, progress
from hwnas.runs.checkpoints import remove_checkpoints, write_atomic
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.runs.run_folder import environment, next_run_folder
from hwnas.training.train import Training, evaluate, final_weights


def run(
    config: Config,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    stage: progress.Stage = progress.silent,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """All stages in a row: profile, search, train, export, check, report.

    Args:
        config: the settings, from `load_config`.
        out: the run folder; the next free `runs/run-001` ... if None.
        table: a latency table of this device; measured now if None.
        resume: go on in a folder that holds an unfinished run.
        stage: shows progress.
        ranks: the processes that search together; the others call `assist`.

    Returns:
        The content of `check.json`; its verdict is `pass` when the model keeps the budget and
        every other gate. With several budgets, `family` has a summary of the others' checks.

    Raises:
        HwnasError: with the exit code that the command line gives.
    """
    path = Path(out or next_run_folder())
    current = Run.start(config, path, resume=resume, stage=stage, ranks=ranks)
    with current.folder.locked():
        current.begin()
        prepare_table(current, table)
        members = [current, *current.family]
        if ranks.any(not all(member.folder.architecture.exists() for member in members)):
            search_architecture(current)
        document, *others = [_finish(member) for member in members]
        if others:
            document["family"] = [_front_point(other) for other in others]
            # The report of the first was written before the others were checked.
            report(current.folder.path)
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
        "metric": document["metric"],
        document["metric"]: document[document["metric"]],
        "verdict": document["verdict"],
    }


def search(
    config: Config,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    stage: progress.Stage = progress.silent,
    ranks: Ranks = ALONE,
) -> Architecture:
    """Profile (unless a table is given) and search; arguments and errors as for `run`."""
    path = Path(out or next_run_folder())
    current = Run.start(config, path, resume=resume, stage=stage, ranks=ranks)
    with current.folder.locked():
        current.begin()
        prepare_table(current, table)
        ranks.any(True)
        return search_architecture(current)


def assist(path: Path, ranks: Ranks) -> None:
    """Take part in the supernet search of a `run` or `search` that the first process leads.

    Args:
        path: the run folder, on a disk that all processes share.
        ranks: the processes.

    Raises:
        HwnasError: when the processes' weights part.
        Interrupted: after a signal to any of them.
    """
    if ranks.any(False):
        assist_search(Run.open(path, ranks=ranks))


def prepare_table(run: Run, table: str | Path | None) -> None:
    """Put the latency table into the folder: the given one, or one measured now.

    Raises:
        InputError: when the table is of another device, setting or definition of the operators,
            lacks some, or is another than the run was started with.
    """
    kept = run.folder.latency_table
    if table is None and not kept.exists():
        if run.target.device_measurements is not None:
            raise InputError(
                "a device that is not here cannot be profiled",
                where="latency.device_measurements",
                mend="give its table with --table; `hwnas table fit` makes one",
            )
        profile(run.config, kept, partial=run.folder.partial_table, stage=run.stage)
    else:
        _take_table(run, Path(table) if table is not None else kept)
    for copy, device in zip(run.target.further_tables, run.config.devices, strict=True):
        if not copy.exists():
            other = load_table(device.table)
            CostModel(run.problem.space, other)
            other.save(copy)
    for member in run.family:
        member.start_member(run)


def _take_table(run: Run, source: Path) -> None:
    """Check a table against the run and copy it into the folder, unless it is there."""
    kept = run.folder.latency_table
    given = load_table(source)
    if run.target.device_measurements is None:
        given.require_device(run.target.profile())
    used = set(run.problem.space.all_operators()).intersection(given.specs())
    for name, definition in definitions(used).items():
        if given.definitions.get(name) != definition:
            raise InputError(
                f"{name} was measured on another definition of the operator",
                where=f"{source}: definitions",
                expected=definition,
                actual=given.definitions.get(name),
                mend=f"measure it with `{run.target.profile_command}`",
            )
    CostModel(run.problem.space, given, command=run.target.profile_command)
    searched = run.folder.history.exists()
    if searched and kept.exists() and LatencyTable.load(kept).sha256 != given.sha256:
        raise InputError(
            "another table than this run was started with",
            where=str(source),
            mend="resume without --table, or choose another folder with --out",
        )
    if source != kept:
        given.save(kept)


def train(run: Run, *, restart: bool = False) -> dict[str, Any]:
    """Train the architecture from scratch, or from the supernet's weights.

    Writes `weights.safetensors` and `metrics.json`.

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
    network = run.problem.space.network(architecture)
    if config.inherit:
        run.load_weights(network, run.folder.inherited)
    augment = Augmentation(config.crop_padding, config.flip, config.cutout)
    training = Training(
        network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        config,
        run.batches(run.problem.dataset.train, config.batch_size, "training", augment),
        run.seed("drop path"),
        run.problem.task.loss,
    )
    if restart:
        _discard_training(run)
    with run.stage("train") as advance:
        training.run(run.folder, advance)
    metrics = {
        "schema": 1,
        **evaluate(training.average, run.problem.task, device),
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
    names = run.problem.task.input_name, run.problem.task.output_name
    model = export_network(run.trained_network(), run.problem.input_shape, names)
    document = run.folder.read_json(run.folder.architecture)
    latency = run.config.latency
    set_metadata(
        model,
        {
            "architecture": json.dumps(document["choices"]),
            "space": document["space"],
            "space_options": json.dumps(document["space_options"]),
            "task": run.problem.task.name,
            **{name: json.dumps(value) for name, value in run.problem.task.properties().items()},
            "params": str(document["params"]),
            "macs": str(document["macs"]),
            "predicted_ms": repr(document["predicted_ms"]),
            "budget_ms": repr(run.target.budget_ms()),
            "runtime": latency.runtime,
            "batch": str(latency.batch),
            "threads": str(latency.threads),
            "table_sha256": LatencyTable.load(run.folder.latency_table).sha256,
            "weights_sha256": hashlib.sha256(run.folder.weights.read_bytes()).hexdigest(),
            "hwnas_version": environment()["packages"].get("hwnas", "unknown"),
        },
    )
    discard_variants(run.folder)
    write_atomic(run.folder.model, model.SerializeToString())
    return run.folder.model
