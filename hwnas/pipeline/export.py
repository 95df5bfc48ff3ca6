"""The stage that exports the trained network to ONNX."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from onnx import ModelProto

from hwnas.checking.properties import PREPROCESS
from hwnas.deploy.export import set_metadata
from hwnas.deploy.variants import MIXED
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.run import Run
from hwnas.pipeline.shrink_formats import exported_network, quantised, read_formats
from hwnas.runs.run_folder import environment


def export(run: Run, *, force: bool = False) -> Path:
    """Write `model.onnx` with the facts of the run as its properties.

    A model that would be the same as the one in the folder is left as it is, and so are its
    variants.

    Args:
        run: has trained weights.
        force: remove variants of an earlier model.

    Raises:
        InputError: when there are variants of an earlier model that would be out of date.
    """
    folder, data = run.folder, _model(run).SerializeToString()
    if folder.model.exists() and folder.model.read_bytes() == data:
        return folder.model
    outdated = folder.variant_files()
    if outdated and not force:
        names = ", ".join(path.name for path in outdated)
        raise InputError(
            "these files belong to an earlier model and would be removed",
            where=str(folder.variants),
            actual=names,
            mend=f"`hwnas export {folder.path} --force` removes them",
        )
    for path in outdated:
        path.unlink()
    write_atomic(folder.model, data)
    return folder.model


def _model(run: Run) -> ModelProto:
    """The exported network with the facts of the run."""
    preprocessing = run.problem.preprocessing
    model = exported_network(run, run.trained_network())
    formats = read_formats(run.folder)
    if formats is not None:
        model = quantised(run, model, formats)
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
            PREPROCESS: json.dumps(preprocessing is not None),
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
            **({} if formats is None else {"variant": MIXED}),
        },
    )
    return model
