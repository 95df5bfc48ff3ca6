"""What is timed to measure an operator, and how its latency follows from the times.

A runtime that compiles whole networks times an operator inside a context like that of a network
(`onnx_context` for ONNX models, `torch_context` for modules), and the same context without the
operator as the baseline. A runtime that executes operators one by one times the module alone; its
baseline is an empty module, so that the difference contains the operator's own kernel launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwnas.latency_tables.rows import Measurement, OpSpec
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime, ToOnnx
from hwnas.latency_tables.statistics import Statistic, Status
from hwnas.latency_tables.timing import RoundMedians

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

    from hwnas.latency_tables.measuring.onnx_context import ContextGraph

Shape = tuple[int, ...]
"""An input without its batch dimension: a map (C, H, W), embedded tokens (T, C), tokens (L,) or a
state (C,)."""
Kind = Literal["operator", "source", "tokens"]
"""`source` reads the network's input, `tokens` reads whole numbers below `c_in`."""
Build = Callable[[OpSpec], "tuple[nn.Module, list[Shape], Kind]"]
"""Builds an operator: the module in eval mode, the shape of each of its inputs, and its kind."""

GROUP_SIZE = 16
"""Operators that are exported together and timed in the same rounds."""
COPIES = 4
"""Copies of an operator in its context; their number divides the noise."""
SEED = 0
WORST_FIRST: tuple[Status, ...] = ("timeout", "throttled", "noisy", "ok")


@dataclass(frozen=True)
class Plan:
    """How an operator's latency is computed from timed models or modules, which are named.

    Attributes:
        total: what contains the operator.
        baseline: what is subtracted; None if nothing is.
        copies: how many copies of the operator `total` contains.
    """

    total: str
    baseline: str | None
    copies: int


@dataclass(frozen=True)
class OperatorExport:
    """How operators are built and given to a runtime.

    Attributes:
        build: builds an operator.
        to_onnx: exports a module with fixed shapes.
        batch: images per inference.
        dtype: "float32" or "float16".
    """

    build: Build
    to_onnx: ToOnnx
    batch: int
    dtype: str


@dataclass(frozen=True)
class _Operator:
    """A built operator and its example inputs."""

    spec: OpSpec
    module: nn.Module
    shapes: list[Shape]
    kind: Kind
    inputs: tuple[torch.Tensor, ...]


def runtime_calls(
    group: Sequence[OpSpec], export: OperatorExport, runtime: Runtime
) -> tuple[dict[str, Callable[[], None]], dict[OpSpec, Plan]]:
    """Prepare a group of operators for timing.

    Returns:
        The functions to time, by name, and for each operator how its latency follows from them.
    """
    operators = _built(group, export)
    if not isinstance(runtime, OnnxModelRuntime):
        return _module_calls(operators, runtime, export.to_onnx)
    graphs, plans = _onnx_graphs(operators, export)
    return {name: runtime.prepare_onnx(g.model, g.feeds) for name, g in graphs.items()}, plans


def operator_graphs(
    specs: Iterable[OpSpec],
    *,
    build: Build,
    to_onnx: ToOnnx,
    batch: int,
    dtype: str = "float32",
    group_size: int = GROUP_SIZE,
) -> Iterator[tuple[dict[str, ContextGraph], dict[OpSpec, Plan]]]:
    """Export operators for a measurement on another device.

    Args:
        specs: the operators; duplicates are ignored.
        build: builds an operator.
        to_onnx: exports a module with fixed shapes; called once for each group.
        batch: images per inference.
        dtype: "float32" or "float16".
        group_size: operators in a group, which are timed in the same rounds.

    Yields:
        For each group the models by name, and for each operator how its latency follows from the
        models' times.
    """
    export = OperatorExport(build, to_onnx, batch, dtype)
    ordered = sorted_by_shape(set(specs))
    for start in range(0, len(ordered), group_size):
        yield _onnx_graphs(_built(ordered[start : start + group_size], export), export)


def sorted_by_shape(specs: Iterable[OpSpec]) -> list[OpSpec]:
    """Sort operators so that those with the same input shape, and so the same baseline, adjoin."""
    return sorted(specs, key=lambda spec: (-spec.height, -spec.width, spec.c_in, spec))


def difference(plan: Plan, timed: Mapping[str, RoundMedians], statistic: Statistic) -> Measurement:
    """Compute an operator's latency by subtracting each quantile of the baseline from the total's.

    The 10th percentile of the differences would be biased, because it selects the rounds in which
    the baseline was disturbed: an identity would have a negative latency. A negative difference of
    the quantiles is noise and becomes zero.

    Args:
        plan: which times are subtracted from which.
        timed: the results of one measurement, by name.
        statistic: the table's statistic.
    """

    def latency_ms(quantile: str) -> float:
        total_ms: float = getattr(timed[plan.total].summary, quantile)
        if plan.baseline is not None:
            total_ms -= getattr(timed[plan.baseline].summary, quantile)
        return max(0.0, total_ms / plan.copies)

    # Noise may put the differences out of order. The table's statistic is kept as it was measured
    # and the other quantiles are adjusted.
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


def _built(group: Sequence[OpSpec], export: OperatorExport) -> list[_Operator]:
    """Build the operators of a group, with seeded weights and inputs."""
    import torch

    # Modules are initialised from the global generator: seed it here and restore it afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        built = [(spec, *export.build(spec)) for spec in group]
        operators = [
            _Operator(spec, module, shapes, kind, _example_inputs(spec, shapes, kind, export))
            for spec, module, shapes, kind in built
        ]
    for operator in operators:
        operator.module.eval().to(getattr(torch, export.dtype))
    return operators


def _example_inputs(
    spec: OpSpec, shapes: Sequence[Shape], kind: Kind, export: OperatorExport
) -> tuple[torch.Tensor, ...]:
    """Return random tokens, or normally distributed numbers, of the given shapes."""
    import torch

    batch = export.batch
    if kind == "tokens":
        return tuple(torch.randint(spec.c_in, (batch, *shape)) for shape in shapes)
    number_format = getattr(torch, export.dtype)
    return tuple(torch.randn(batch, *shape).to(number_format) for shape in shapes)


def _module_calls(
    operators: Sequence[_Operator], runtime: Runtime, to_onnx: ToOnnx
) -> tuple[dict[str, Callable[[], None]], dict[OpSpec, Plan]]:
    """Prepare modules: the functions to time, by name, and how each latency follows from them."""
    with_baseline = _modules_in_context if runtime.fuses else _modules_alone
    calls: dict[str, Callable[[], None]] = {}
    plans: dict[OpSpec, Plan] = {}
    for operator in operators:
        if operator.kind == "operator":
            modules, plans[operator.spec] = with_baseline(operator)
        else:
            modules = {str(operator.spec): (operator.module, operator.inputs)}
            plans[operator.spec] = Plan(str(operator.spec), None, copies=1)
        for name, (module, inputs) in modules.items():
            if name not in calls:
                calls[name] = runtime.prepare(module, inputs, to_onnx)
    return calls, plans


_Modules = dict[str, tuple["nn.Module", tuple["torch.Tensor", ...]]]
"""Modules and their inputs, by name."""


def _modules_alone(operator: _Operator) -> tuple[_Modules, Plan]:
    """The module alone; the baseline, an empty module, has the overhead of calling a module."""
    from hwnas.latency_tables.measuring.torch_context import Empty

    inputs = operator.inputs
    name, empty = str(operator.spec), f"empty module, {len(inputs)} inputs"
    modules: _Modules = {empty: (Empty(), inputs), name: (operator.module, inputs)}
    return modules, Plan(name, empty, copies=1)


def _modules_in_context(operator: _Operator) -> tuple[_Modules, Plan]:
    """The module in a context like that of a network; the baseline is the context alone."""
    from hwnas.latency_tables.measuring.torch_context import Context

    name, baseline = str(operator.spec), f"baseline {operator.shapes}"
    modules: _Modules = {}
    for key, module in ((baseline, None), (name, operator.module)):
        context = Context(module, operator.inputs, copies=COPIES, seed=SEED)
        modules[key] = (context, context.copies_of(operator.inputs))
    return modules, Plan(name, baseline, COPIES)


def _onnx_graphs(
    operators: Sequence[_Operator], export: OperatorExport
) -> tuple[dict[str, ContextGraph], dict[OpSpec, Plan]]:
    """Export a group of operators and put each operator, and each baseline, into its own model."""
    # Only runtimes of ONNX models need the onnx package.
    from hwnas.latency_tables.measuring.onnx_context import operator_graph, source_graph

    rng = np.random.default_rng(SEED)
    graphs: dict[str, ContextGraph] = {}
    plans: dict[OpSpec, Plan] = {}

    def in_context(model: onnx.ModelProto | None, shapes: list[Shape]) -> ContextGraph:
        return operator_graph(
            model, shapes, copies=COPIES, batch=export.batch, dtype=export.dtype, rng=rng
        )

    for operator, model in zip(operators, _exported(operators, export.to_onnx), strict=True):
        name = str(operator.spec)
        if operator.kind == "operator":
            baseline = f"baseline {operator.shapes}"
            if baseline not in graphs:
                graphs[baseline] = in_context(None, operator.shapes)
            graphs[name] = in_context(model, operator.shapes)
            plans[operator.spec] = Plan(name, baseline, COPIES)
        else:
            names = [value.name for value in model.graph.input]
            arrays = [tensor.numpy() for tensor in operator.inputs]
            graphs[name] = source_graph(model, dict(zip(names, arrays, strict=True)))
            plans[operator.spec] = Plan(name, None, copies=1)
    return graphs, plans


def _exported(operators: Sequence[_Operator], to_onnx: ToOnnx) -> list[onnx.ModelProto]:
    """Export all operators as one model and split it into one model for each.

    Every export has a fixed cost of a third of a second, which is paid only once this way.
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
                branch(*(next(remaining) for _ in operator.inputs))
                for branch, operator in zip(self.branches, operators, strict=True)
            )

    inputs = tuple(tensor for operator in operators for tensor in operator.inputs)
    model = onnx.load_from_string(to_onnx(Branches().eval(), inputs))
    names = iter([value.name for value in model.graph.input])
    return [
        cut_branch(model, [next(names) for _ in operator.inputs], output.name)
        for operator, output in zip(operators, model.graph.output, strict=True)
    ]
