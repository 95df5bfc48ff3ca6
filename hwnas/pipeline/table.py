"""The stage that gives a run its latency table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hwnas.budget.cost import CostModel
from hwnas.budget.gate import measure_together
from hwnas.errors import InputError
from hwnas.latency_tables.shipped import load_table
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.further_devices import further_config
from hwnas.pipeline.profile import SESSIONS, inferences, profile
from hwnas.pipeline.run import Run

SCHEMA = 1


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
        profile(
            run.config,
            kept,
            seconds=run.config.latency.operator_seconds,
            partial=run.folder.partial_table,
            stage=run.stage,
            space=run.problem.space,
        )
    else:
        _take_table(run, Path(table) if table is not None else kept)
    for copy, device in zip(run.target.further_tables, run.config.devices, strict=True):
        if not copy.exists() and device.table is None:
            config = further_config(run.config, device)
            partial = copy.with_name(f".{copy.name}.partial")
            profile(config, copy, partial=partial, stage=run.stage, space=run.problem.space)
        elif not copy.exists():
            other = load_table(str(device.table))
            CostModel(run.problem.space, other)
            other.save(copy)
    measure_preprocessing(run)
    for member in run.family:
        member.start_member(run)


def measure_preprocessing(run: Run) -> None:
    """Measure what normalising raw inputs adds to a network, unless that is done or not asked for.

    Networks with and without it are timed in the same rounds, on this device and runtime.
    """
    preprocessing, kept = run.problem.preprocessing, run.folder.preprocessing
    if preprocessing is None or kept.exists():
        return
    runtime, latency, space = run.target.runtime, run.config.latency, run.problem.space
    torch.manual_seed(run.seed("preprocessing"))
    network = space.network(space.sample(np.random.default_rng(0))).eval()
    shape = run.problem.input_shape
    calls = {
        f"{name}/{session}": call
        for name, given in (("without", None), ("with", preprocessing))
        for session, call in enumerate(
            inferences(network, shape, runtime, latency.batch, SESSIONS, given)
        )
    }
    with run.stage("preprocessing") as advance:
        advance(0, 1, "measuring")
        rounds_ms = measure_together(calls, runtime, seconds=latency.measure_seconds)
        without, including = (
            np.mean([rounds_ms[f"{name}/{i}"] for i in range(SESSIONS)], axis=0)
            for name in ("without", "with")
        )
        added_ms = max(0.0, float(np.median(including - without)))
        advance(1, 1, f"{added_ms:.4f} ms")
    document = {"schema": SCHEMA, "added_ms": added_ms, "rounds": len(without)}
    run.folder.write_json(kept, document | {"dtype": preprocessing.dtype})


def _take_table(run: Run, source: Path) -> None:
    """Check a table against the run and copy it into the folder, unless it is there."""
    kept = run.folder.latency_table
    given = load_table(source)
    if run.target.device_measurements is None:
        given.require_device(run.target.profile())
    measured = {spec.name for spec in given.specs()}
    for name, definition in run.problem.space.definitions().items():
        if name in measured and given.definitions.get(name) != definition:
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
