"""Measure operators one group at a time and keep what is measured.

A runtime that compiles whole networks times an operator by difference, in the context it has in
one (`context` for ONNX models, `torch_context` for modules). One that runs operator by operator
times the module and subtracts an empty one, which leaves the operator's own launches. Both times
of a difference come from the same rounds, so that they see the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime, ToOnnx
from hwnas.latency_tables.statistics import Statistic, Status
from hwnas.latency_tables.table import DeviceProfile, LatencyTable, Measurement, OpSpec
from hwnas.latency_tables.timing import Protocol, RoundMedians, measure

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hwnas.latency_tables.measuring.onnx_context import ContextGraph

Shape = tuple[int, ...]  # (C, H, W), (T, C) of vectors of tokens, (L,) of tokens, (C,) of a state
Kind = Literal["operator", "source", "tokens"]
Build = Callable[[OpSpec], "tuple[nn.Module, list[Shape], Kind]"]

GROUP_SIZE = 16
OPERATOR_S = 0.5
COPIES = 4
SEED = 0
DTYPES = ("float32", "float16")
WORST_FIRST: tuple[Status, ...] = ("timeout", "throttled", "noisy", "ok")

# The limit, of a full group, is scaled down for smaller groups.
# One block a round gives three times the rounds, which steadies a difference more than a median
# over blocks does; only a jump of the machine's speed within a round is worth repeating it.
PROFILE_PROTOCOL = Protocol(
    warmup_s=0.02,
    block_ms=1.0,
    blocks_per_round=1,
    max_rounds=10_000,
    time_limit_s=GROUP_SIZE * OPERATOR_S,
    sentinel_drift=0.25,
    max_repeats=1,
)


@dataclass(frozen=True)
class Plan:
    """How one operator's latency follows from the timed calls, by their names."""

    total: str
    baseline: str | None
    copies: int


@dataclass(frozen=True)
class _Operator:
    """What `build` returned for a spec."""

    spec: OpSpec
    module: nn.Module
    shapes: list[Shape]
    kind: Kind


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
        specs: the operators; repeated ones are measured once.
        runtime: where they run; its `require` is called first.
        build: gives for a spec the module in eval mode with batch norms folded, the shape of
            each of its inputs, and "source" for an operator that reads the network's input, or
            "tokens" if that is whole numbers below `c_in`. A source is priced with the overhead of
            one run, so that a sum over a network holds that overhead once.
        to_onnx: exports a module with fixed shapes; called once a group.
        batch: images per inference.
        definitions: hash of the structure of each operator, stored in the table.
        dtype: "float32" or "float16".
        protocol: `time_limit_s` is for a full group.
        partial_path: a table file, written after every group; rows that it already has are not
            measured again.
        versions: added to the library versions in the table.
        group_size: operators that are exported together and timed in the same rounds.
        progress: called at the start and after every group with (operators done, all operators).

    Returns:
        The table of all rows: those of `partial_path` and those measured now.

    Raises:
        InputError: an unknown dtype, or `partial_path` is of another device or other definitions.
        RuntimeMissingError: the runtime is not on this machine.
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
    wanted = set(specs)
    missing = _neighbours_first(table.missing(wanted))
    _report(progress, len(wanted) - len(missing), len(wanted))
    for start in range(0, len(missing), group_size):
        group = missing[start : start + group_size]
        limit_s = protocol.time_limit_s * len(group) / group_size
        measured = _measure_group(
            group, runtime, build, to_onnx, batch, dtype, replace(protocol, time_limit_s=limit_s)
        )
        table = _with_rows(table, measured)
        if partial_path is not None:
            table.save(partial_path)
        _report(progress, len(wanted) - len(missing) + start + len(group), len(wanted))
    return table


def _resume(partial_path: Path, empty: LatencyTable) -> LatencyTable:
    """Load the rows measured earlier and check that they belong to this measurement."""
    found = LatencyTable.load(partial_path)
    differences = empty.device.differences(found.device, DeviceProfile.model_fields)
    if found.definitions != empty.definitions:
        differences.append("definitions of operators")
    if found.protocol != empty.protocol:
        differences.append("protocol of measuring")
    if differences:
        raise InputError(
            f"rows were measured in another setting ({'; '.join(differences)})",
            where=str(partial_path),
            mend="delete the file or name another one",
        )
    return _with_rows(empty, {spec: found.measurement(spec) for spec in found.specs()})


def _with_rows(table: LatencyTable, rows: Mapping[OpSpec, Measurement]) -> LatencyTable:
    return LatencyTable.from_measurements(
        {spec: table.measurement(spec) for spec in table.specs()} | dict(rows),
        device=table.device,
        protocol=table.protocol,
        statistic=table.statistic,
        definitions=table.definitions,
        created=table.created,
    )


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _measure_group(
    group: Sequence[OpSpec],
    runtime: Runtime,
    build: Build,
    to_onnx: ToOnnx,
    batch: int,
    dtype: str,
    protocol: Protocol,
) -> dict[OpSpec, Measurement]:
    """Prepare all operators of a group, time them in the same rounds, take the differences."""
    operators, inputs = _prepared(group, build, batch, dtype)
    if isinstance(runtime, OnnxModelRuntime):
        graphs, plans = onnx_graphs(operators, inputs, to_onnx, batch, dtype)
        calls = {name: runtime.prepare_onnx(g.model, g.feeds) for name, g in graphs.items()}
    else:
        calls, plans = _module_calls(operators, inputs, runtime, to_onnx)
    timed = measure(calls, protocol, statistic=runtime.statistic, time_block=runtime.time_block)
    return {spec: difference(plan, timed, runtime.statistic) for spec, plan in plans.items()}


def _prepared(
    group: Sequence[OpSpec], build: Build, batch: int, dtype: str
) -> tuple[list[_Operator], list[tuple[torch.Tensor, ...]]]:
    """The operators of a group and seeded inputs for them."""
    import torch

    # Builders initialise weights from the global generator: seed it here and restore it after.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        operators = [_Operator(spec, *build(spec)) for spec in group]
        inputs = [_inputs_of(operator, batch, dtype) for operator in operators]
    for operator in operators:
        operator.module.eval().to(getattr(torch, dtype))
    return operators, inputs


def _inputs_of(operator: _Operator, batch: int, dtype: str) -> tuple[torch.Tensor, ...]:
    """Random tokens, or normal numbers."""
    import torch

    if operator.kind == "tokens":
        tokens = operator.spec.c_in
        return tuple(torch.randint(tokens, (batch, *shape)) for shape in operator.shapes)
    numbers = getattr(torch, dtype)
    return tuple(torch.randn(batch, *shape).to(numbers) for shape in operator.shapes)


def operator_graphs(
    specs: Iterable[OpSpec],
    *,
    build: Build,
    to_onnx: ToOnnx,
    batch: int,
    dtype: str = "float32",
    group_size: int = GROUP_SIZE,
) -> Iterator[tuple[dict[str, ContextGraph], dict[OpSpec, Plan]]]:
    """Models whose times give the operators' latencies, in groups to be timed together.

    Yields:
        For each group the models by name, and how each operator follows from their times.
    """
    ordered = _neighbours_first(set(specs))
    for start in range(0, len(ordered), group_size):
        operators, inputs = _prepared(ordered[start : start + group_size], build, batch, dtype)
        yield onnx_graphs(operators, inputs, to_onnx, batch, dtype)


def _neighbours_first(specs: Iterable[OpSpec]) -> list[OpSpec]:
    """Neighbours in this order share their input shape, and so their baseline."""
    return sorted(specs, key=lambda spec: (-spec.height, -spec.width, spec.c_in, spec))


def _module_calls(
    operators: Sequence[_Operator],
    inputs: Sequence[tuple[torch.Tensor, ...]],
    runtime: Runtime,
    to_onnx: ToOnnx,
) -> tuple[dict[str, Callable[[], None]], dict[OpSpec, Plan]]:
    """Calls of modules by name, and how each operator's latency follows from their times."""
    timed_with_baseline = _timed_in_context if runtime.fuses else _timed_alone
    calls: dict[str, Callable[[], None]] = {}
    plans: dict[OpSpec, Plan] = {}
    for operator, given in zip(operators, inputs, strict=True):
        if operator.kind == "operator":
            timed, plans[operator.spec] = timed_with_baseline(operator, given)
        else:
            timed = {str(operator.spec): (operator.module, given)}
            plans[operator.spec] = Plan(str(operator.spec), None, copies=1)
        for name, (module, tensors) in timed.items():
            if name not in calls:
                calls[name] = runtime.prepare(module, tensors, to_onnx)
    return calls, plans


_Timed = dict[str, tuple["nn.Module", tuple["torch.Tensor", ...]]]
"""Modules and their inputs, by name."""


def _timed_alone(operator: _Operator, inputs: tuple[torch.Tensor, ...]) -> tuple[_Timed, Plan]:
    """The module as it is; an empty one of as many inputs is what calling one costs."""
    from hwnas.latency_tables.measuring.torch_context import Empty

    name, empty = str(operator.spec), f"empty module, {len(inputs)} inputs"
    timed = {empty: (Empty(), inputs), name: (operator.module, inputs)}
    return timed, Plan(name, empty, copies=1)


def _timed_in_context(operator: _Operator, inputs: tuple[torch.Tensor, ...]) -> tuple[_Timed, Plan]:
    """The module in the surroundings of a network; the same ones without are the baseline."""
    from hwnas.latency_tables.measuring.torch_context import Context

    name, baseline = str(operator.spec), f"baseline {operator.shapes}"
    timed: _Timed = {}
    for key, module in ((baseline, None), (name, operator.module)):
        context = Context(module, inputs, copies=COPIES, seed=SEED)
        timed[key] = (context, context.copies_of(inputs))
    return timed, Plan(name, baseline, COPIES)


def onnx_graphs(
    operators: Sequence[_Operator],
    inputs: Sequence[tuple[torch.Tensor, ...]],
    to_onnx: ToOnnx,
    batch: int,
    dtype: str,
) -> tuple[dict[str, ContextGraph], dict[OpSpec, Plan]]:
    """Export the group at once and put each operator, and each baseline, into its own model."""
    # Only an ONNX runtime needs the onnx package.
    from hwnas.latency_tables.measuring import onnx_context as context

    rng = np.random.default_rng(SEED)
    branches = _export_branches(operators, inputs, to_onnx)
    graphs: dict[str, ContextGraph] = {}
    plans = {}
    for operator, given, branch in zip(operators, inputs, branches, strict=True):
        name = str(operator.spec)
        if operator.kind != "operator":
            names = [value.name for value in branch.graph.input]
            feeds = {key: tensor.numpy() for key, tensor in zip(names, given, strict=True)}
            graph = context.source_graph(branch, feeds)
            plans[operator.spec] = Plan(name, None, copies=1)
        else:
            baseline = f"baseline {operator.shapes}"
            if baseline not in graphs:
                graphs[baseline] = context.operator_graph(
                    None, operator.shapes, copies=COPIES, batch=batch, dtype=dtype, rng=rng
                )
            graph = context.operator_graph(
                branch, operator.shapes, copies=COPIES, batch=batch, dtype=dtype, rng=rng
            )
            plans[operator.spec] = Plan(name, baseline, COPIES)
        graphs[name] = graph
    return graphs, plans


def _export_branches(
    operators: Sequence[_Operator], inputs: Sequence[tuple[torch.Tensor, ...]], to_onnx: ToOnnx
) -> list:
    """Export all operators as one model and cut it into one model each.

    An export costs a third of a second before its first node, hence once for all.
    """
    import onnx
    from torch import nn

    from hwnas.latency_tables.measuring.onnx_context import cut_branch

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(operator.module for operator in operators)

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            remaining = iter(tensors)
            return tuple(
                branch(*(next(remaining) for _ in operator.shapes))
                for branch, operator in zip(self.branches, operators, strict=True)
            )

    flat = tuple(tensor for given in inputs for tensor in given)
    model = onnx.load_from_string(to_onnx(Branches().eval(), flat))
    names = iter([value.name for value in model.graph.input])
    return [
        cut_branch(model, [next(names) for _ in operator.shapes], output.name)
        for operator, output in zip(operators, model.graph.output, strict=True)
    ]


def difference(plan: Plan, timed: Mapping[str, RoundMedians], statistic: Statistic) -> Measurement:
    """Subtract the baseline from the total, quantile by quantile.

    The 10th percentile of the differences would be another thing than the difference of the 10th
    percentiles, and a wrong one: it picks the rounds in which the baseline was disturbed, so that
    an identity costs less than nothing. A latency below zero is noise and becomes zero.
    """

    def latency_ms(quantile: str) -> float:
        total_ms = getattr(timed[plan.total].summary, quantile)
        baseline_ms = getattr(timed[plan.baseline].summary, quantile) if plan.baseline else 0.0
        return max(0.0, (total_ms - baseline_ms) / plan.copies)

    # The table's statistic stands as measured; noise may have put the others on its wrong side.
    p10_ms, median_ms, p90_ms = (latency_ms(key) for key in ("p10_ms", "median_ms", "p90_ms"))
    if statistic == "p10":
        median_ms = max(median_ms, p10_ms)
    else:
        p10_ms = min(p10_ms, median_ms)
    statuses = {timed[name].status for name in (plan.total, plan.baseline) if name}
    return Measurement(
        median_ms=median_ms,
        p10_ms=p10_ms,
        p90_ms=max(p90_ms, median_ms),
        rounds=timed[plan.total].summary.rounds,
        status=next(status for status in WORST_FIRST if status in statuses),
    )
