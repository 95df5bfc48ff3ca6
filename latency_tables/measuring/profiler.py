"""Profiling: measures operators group by group into a latency table, and can be resumed."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from hwnas.errors import InputError
from hwnas.latency_tables.device_profile import DeviceProfile
from hwnas.latency_tables.measuring.operator_calls import (
    GROUP_SIZE,
    Build,
    OperatorExport,
    Plan,
    difference,
    runtime_calls,
    sorted_by_shape,
)
from hwnas.latency_tables.measuring.speed_reference import NAME, prepare_reference
from hwnas.latency_tables.on_device.measure import Call
from hwnas.latency_tables.rows import Measurement, OpSpec, ReferenceSessions
from hwnas.latency_tables.runtimes import Runtime, ToOnnx
from hwnas.latency_tables.statistics import summarise
from hwnas.latency_tables.table import LatencyTable
from hwnas.latency_tables.timing import Protocol

OPERATOR_S = 0.5
"""Seconds of measuring for each operator, on average."""
DTYPES = ("float32", "float16")

# The time limit is that of a full group.
# With one block in a round there are three times as many rounds in the same time, which reduces
# the noise of a difference more than a median over blocks does. Rounds are repeated only if the
# machine's speed changes strongly within a round.
PROFILE_PROTOCOL = Protocol(
    warmup_s=0.02,
    block_ms=1.0,
    blocks_per_round=1,
    max_rounds=10_000,
    time_limit_s=GROUP_SIZE * OPERATOR_S,
    sentinel_drift=0.25,
    max_repeats=1,
)


def profile_operators(
    specs: Iterable[OpSpec],
    *,
    runtime: Runtime,
    build: Build,
    to_onnx: ToOnnx,
    batch: int,
    definitions: Mapping[str, str],
    dtype: str = "float32",
    protocol: Protocol = PROFILE_PROTOCOL,
    partial_path: Path | None = None,
    versions: Mapping[str, str] | None = None,
    group_size: int = GROUP_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Measure the latency of operators per inference.

    Args:
        specs: the operators; duplicates are measured once.
        runtime: the runtime that executes them; its `require` is called first.
        build: builds an operator: the module in eval mode with batch norms folded, the shape of
            each of its inputs, and its kind. The kind is "operator", "source" for an operator that
            reads the network's input, or "tokens" for one that reads whole numbers below `c_in`.
            The latency of the last two includes the overhead of one run, so that a sum over the
            operators of a network includes it once.
        to_onnx: exports a module with fixed shapes; called once for each group.
        batch: images per inference.
        definitions: hash of the structure of each operator, stored in the table.
        dtype: "float32" or "float16".
        protocol: how to measure a group; `time_limit_s` is for a full group and is scaled down for
            smaller ones.
        partial_path: a table file that is written after every group. If it exists, its rows are
            not measured again.
        versions: versions to add to those of the libraries in the table.
        group_size: operators that are exported together and timed in the same rounds.
        progress: called at the start and after every group with the number of operators that have
            been measured and the number of all operators.

    Returns:
        The table of all rows: those of `partial_path` and those that were measured now.

    Raises:
        InputError: the dtype is unknown, or `partial_path` has another device, other definitions
            or another protocol.
        RuntimeMissingError: this machine does not have the runtime.
    """
    if dtype not in DTYPES:
        raise InputError("unknown dtype", where="dtype", expected=" or ".join(DTYPES), actual=dtype)
    runtime.require()
    table = LatencyTable.from_measurements(
        {},
        device=runtime.profile(dtype=dtype, batch=batch, versions=versions),
        protocol=protocol,
        statistic=runtime.statistic,
        definitions=definitions,
    )
    if partial_path is not None and partial_path.exists():
        table = _resume(partial_path, table)
    export = OperatorExport(build, to_onnx, batch, dtype)
    wanted = set(specs)
    missing = sorted_by_shape(table.missing(wanted))
    report = progress or (lambda done, total: None)
    report(len(wanted) - len(missing), len(wanted))
    groups = [missing[start : start + group_size] for start in range(0, len(missing), group_size)]
    for measured, reference_ms in _measured_groups(groups, runtime, export, protocol, group_size):
        table = _with_rows(table, measured, reference_ms)
        if partial_path is not None:
            table.save(partial_path)
        report(len(wanted) - len(table.missing(wanted)), len(wanted))
    return table


_Group = tuple[dict[OpSpec, Measurement], float | None]
"""A group's measurements, and the time of the speed reference in ms if the runtime has one."""


def _measured_groups(
    groups: Sequence[list[OpSpec]],
    runtime: Runtime,
    export: OperatorExport,
    protocol: Protocol,
    group_size: int,
) -> Iterator[_Group]:
    """Measure groups in their order, as many at the same time as the runtime allows.

    They are exported here, one after the other, since PyTorch's exporter is not made for threads.
    """

    def prepared(group: list[OpSpec]) -> Callable[[], _Group]:
        limit_s = protocol.time_limit_s * len(group) / group_size
        reference = prepare_reference(runtime)
        calls, plans = runtime_calls(group, export, runtime)
        limited = replace(protocol, time_limit_s=limit_s)
        return partial(_measure_group, reference, calls, plans, runtime, limited)

    if runtime.parallel == 1:
        for group in groups:
            yield prepared(group)()
        return
    running: deque[Future[_Group]] = deque()
    with ThreadPoolExecutor(runtime.parallel) as threads:
        for group in groups:
            running.append(threads.submit(prepared(group)))
            if len(running) > runtime.parallel:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _measure_group(
    reference: Call | None,
    calls: Mapping[str, Call],
    plans: Mapping[OpSpec, Plan],
    runtime: Runtime,
    protocol: Protocol,
) -> _Group:
    """Time a group in the same rounds as the speed reference, which is their sentinel."""
    timed = runtime.measure(
        calls if reference is None else {NAME: reference, **calls},
        protocol,
    )
    measured = {spec: difference(plan, timed, runtime.statistic) for spec, plan in plans.items()}
    if reference is None:
        return measured, None
    rounds_ms = _in_threes(timed[NAME].rounds_ms)
    return measured, summarise(rounds_ms, runtime.statistic).value_ms


def _in_threes(rounds_ms: Sequence[float]) -> list[float]:
    """Medians of three rounds each: networks are timed with three blocks in a round."""
    starts = range(0, max(1, len(rounds_ms) - 2), 3)
    return [statistics.median(rounds_ms[start : start + 3]) for start in starts]


def _resume(partial_path: Path, empty: LatencyTable) -> LatencyTable:
    """Load rows that were measured earlier, and check that the settings were the same.

    Raises:
        InputError: they differ, or the file is not a valid table.
    """
    found = LatencyTable.load(partial_path)
    differences = empty.device.differences(found.device, DeviceProfile.model_fields)
    if found.definitions != empty.definitions:
        differences.append("definitions of operators")
    if found.protocol != empty.protocol:
        differences.append("protocol of the measurement")
    if differences:
        raise InputError(
            f"its rows were measured with other settings ({'; '.join(differences)})",
            where=str(partial_path),
            mend="delete the file or choose another one",
        )
    rows = {spec: found.measurement(spec) for spec in found.specs()}
    return _with_rows(empty.model_copy(update={"reference": found.reference}), rows, None)


def _with_rows(
    table: LatencyTable, rows: Mapping[OpSpec, Measurement], reference_ms: float | None
) -> LatencyTable:
    """The table with more rows, and with a further session of the reference if there is one."""
    reference = table.reference
    if reference_ms is not None:
        earlier = () if reference is None else reference.sessions_ms
        reference = ReferenceSessions(name=NAME, sessions_ms=(*earlier, reference_ms))
    return LatencyTable.from_measurements(
        {spec: table.measurement(spec) for spec in table.specs()} | dict(rows),
        device=table.device,
        protocol=table.protocol,
        statistic=table.statistic,
        definitions=table.definitions,
        created=table.created,
        reference=reference,
    )
