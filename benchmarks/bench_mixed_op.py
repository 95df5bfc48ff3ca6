"""Claim: fused, a mixed operator, a cell and a search step are faster and keep less memory.

Forward and backward, all gradients, in training mode. The variants run in turn in one process;
a row has the median and the range of the paired ratios to one baseline. The kernels' tests run
first, and each case is compared with plain PyTorch in float64: nothing is reported on a red test.

    python benchmarks/bench_mixed_op.py [--quick] [--json] [--threads 1] [--no-compile] [--save]

Prints one row a line: a table, or JSON objects with --json. --save appends to results/mixed_op.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import cell, eager_edge, merged_edge
from results import append_row
from search_step import SearchStep, measure_peak
from torch import Tensor

from hwnas import kernels
from hwnas.kernels import Edge
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_edge import MixedOp, named_tensors
from hwnas.ops import build_candidate
from hwnas.spaces.cells import cell_edges
from hwnas.spaces.darts_networks import PRIMITIVES

ROOT = Path(__file__).parents[1]
SIZES = {16: 32, 32: 16, 64: 8}
"""Side of the images at each width, as in the paper's network for 32 x 32."""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    n: int
    c: int
    size: int

    def structure(self) -> list[tuple[int, int, int]]:
        """(source, target, stride) of each edge."""
        if self.name == "edge":
            return [(0, 1, 1)]
        reduction = self.name == "reduction_cell"
        return [(s, t, 2 if reduction and s < 2 else 1) for s, t in cell_edges(2, 4)]


class Tensors:
    """A case's random tensors in one memory format.

    Args:
        case: what is measured.
        device: of all tensors.
        dtype: of all tensors.
        memory_format: of images, and of weights that are not flat.
        is_flat: whether the weights of a candidate are one vector, as in supernets.
    """

    def __init__(
        self,
        case: Case,
        device: str,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        *,
        is_flat: bool = False,
    ) -> None:
        def candidates(specs: Sequence[OpSpec]) -> list[kernels.Candidate]:
            if is_flat:
                mixed_op = MixedOp(specs, normalise_pools=True).to(device, dtype)
                self.parameters += mixed_op.parameters()
                return mixed_op.kernel_candidates()
            found = []
            for spec in specs:
                module = build_candidate(spec, normalise_pools=True)
                module.to(device, dtype, memory_format=memory_format)  # type: ignore[call-overload]
                self.parameters += module.parameters()
                found.append(kernels.Candidate(spec.name, dict(named_tensors(module))))
            return found

        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        structure = case.structure()
        inputs = min(target for _, target, _ in structure)
        sizes = [case.size] * inputs
        self.edges: list[Edge] = []
        self.parameters: list[Tensor] = []
        for source, target, stride in structure:
            if target == len(sizes):
                sizes.append(-(-sizes[source] // stride))
            side = sizes[source]
            specs = [OpSpec(name, case.c, case.c, side, side, stride) for name in PRIMITIVES]
            self.edges.append(Edge(source, target, candidates(specs), stride))

        def noise(side: int) -> Tensor:
            x = torch.randn(case.n, case.c, side, side, generator=generator)
            return x.to(device, dtype).contiguous(memory_format=memory_format)

        self.inputs = [noise(case.size).requires_grad_() for _ in range(inputs)]
        weights = torch.randn(len(self.edges), len(PRIMITIVES), generator=generator)
        self.weights = weights.softmax(1).to(device, dtype).requires_grad_()
        self.gradients = [noise(side) for side in sizes[inputs:]]

    def step(self, run: Callable[[Tensors], list[Tensor]]) -> tuple[Tensor, ...]:
        """Nodes forward, all gradients backward."""
        return torch.autograd.grad(
            run(self), [*self.inputs, self.weights, *self.parameters], self.gradients
        )


def saved_bytes(tensors: Tensors, run: Callable[[Tensors], list[Tensor]]) -> int:
    """Memory that the forward pass keeps for the backward pass, inputs and parameters left out."""
    known = {t.untyped_storage().data_ptr() for t in (*tensors.inputs, *tensors.parameters)}
    known.add(tensors.weights.untyped_storage().data_ptr())
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nodes = run(tensors)
    del nodes
    return sum(kept.values())


Variant = tuple[Tensors, Callable[[Tensors], list[Tensor]]]


SETTINGS = {
    "": ("nothing", "exact"),
    "_recompute_all": ("all", "exact"),
    "_bfloat16": ("nothing", "bfloat16"),
}
"""What the names of the project's variants end in: how they recompute and store activations."""


def settings_of(device: str) -> dict[str, tuple[str, str, str]]:
    """`impl`, `recompute` and `storage` of the project's variants, by name."""
    impl = "triton" if device == "cuda" else "cpu"
    return {
        impl + suffix: (impl, *settings)
        for suffix, settings in SETTINGS.items()
        if impl == "cpu" or settings[1] == "exact"
    }


def fused(impl: str, recompute: str, storage: str = "exact") -> Callable[[Tensors], list[Tensor]]:
    """The project's own."""
    return lambda t: kernels.mixed_cell(
        t.inputs, t.weights, t.edges, impl=impl, recompute=recompute, storage=storage
    )


def variants_of(
    case: Case, device: str, dtype: torch.dtype, compile_too: bool
) -> dict[str, Variant]:
    """Baselines first, then ours, by name.

    `impl_torch` is the project's plain version, which has the rewritten dilated convolutions.
    """
    # What was compiled for other cases counts towards a limit, beyond which nothing is compiled.
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    last = Tensors(case, device, dtype, torch.channels_last)
    first = Tensors(case, device, dtype, torch.contiguous_format)
    by_edge = {"eager": eager_edge, "merged_dense": merged_edge}
    variants: dict[str, Variant] = {
        "eager_nchw": (first, lambda t: cell(t.inputs, t.weights, t.edges, eager_edge)),
        "impl_torch": (last, fused("torch", "nothing")),
    }
    for name, function in by_edge.items():
        label = "eager_channels_last" if name == "eager" else name
        variants[label] = (last, lambda t, f=function: cell(t.inputs, t.weights, t.edges, f))
    modes = {"compile": {}}
    if device == "cuda":
        modes["compile_reduce_overhead"] = {"mode": "reduce-overhead"}
        modes["compile_max_autotune"] = {"mode": "max-autotune-no-cudagraphs"}
    for label, options in modes.items() if compile_too else ():
        compiled = torch.compile(eager_edge, dynamic=False, **options)
        variants[label] = (last, lambda t, f=compiled: cell(t.inputs, t.weights, t.edges, f))
    for name, settings in settings_of(device).items():
        if dtype == torch.float32 or settings[2] == "exact":
            variants[name] = (last, fused(*settings))
    return variants


def require_correct(case: Case, variants: dict[str, Variant]) -> None:
    """Exit unless all variants have the nodes and gradients of plain PyTorch in float64."""
    exact = Tensors(case, "cpu", torch.float64, torch.channels_last)
    plain = fused("torch", "nothing")
    expected = [*plain(exact), *exact.step(plain)]
    for name, (tensors, run) in variants.items():
        is_short = name.endswith("bfloat16")
        for found, right in zip([*run(tensors), *tensors.step(run)], expected, strict=True):
            error = float((found.double().cpu() - right).norm() / right.norm().clamp_min(1e-9))
            # Decisions of ReLU that fall otherwise for shorter numbers count as well.
            limit = 3e-2 if found.dtype == torch.float32 and not is_short else 3e-1
            if not error < limit:
                sys.exit(f"{case} {name}: relative error {error:.1e}, nothing is reported")


def timed_ms(function: Callable[[], Any], device: str) -> float:
    """Wall time of one call; of one thread on a CPU its processor time.

    Other processes of a shared machine lengthen that less.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) * 1e3


def interleaved(
    functions: dict[str, Callable[[], Any]], rounds: int, device: str
) -> dict[str, np.ndarray]:
    """Times (rounds,) of each function, in turn, after a round to warm up.

    A search runs the same step again and again, so each timed call follows one that is not timed:
    it would first get the memory that the variants before it have used otherwise.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            function()
            times[name].append(timed_ms(function, device))
    return {name: np.array(values[1:]) for name, values in times.items()}


def rows_of(
    facts: dict[str, Any], times: dict[str, np.ndarray], saved: dict[str, int], ours: list[str]
) -> list[dict[str, Any]]:
    """Each of ours against each baseline."""
    rows = []
    for impl in ours:
        for baseline in times:
            if baseline in ours:
                continue
            ratios = times[baseline] / times[impl]
            rows.append(
                facts
                | {
                    "impl": impl,
                    "impl_ms": float(np.median(times[impl])),
                    "baseline": baseline,
                    "baseline_ms": float(np.median(times[baseline])),
                    "ratio_median": float(np.median(ratios)),
                    "ratio_low": float(ratios.min()),
                    "ratio_high": float(ratios.max()),
                    "saved_bytes": saved[impl],
                    "baseline_saved_bytes": saved[baseline],
                }
            )
    return rows


def bench_case(case: Case, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of an edge or a cell."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    variants = variants_of(case, device, dtype, not arguments.no_compile)
    ours = [name for name in variants if name.startswith(("cpu", "triton"))]
    require_correct(case, variants)
    times = interleaved(
        {n: lambda t=t, run=run: t.step(run) for n, (t, run) in variants.items()},
        arguments.rounds,
        device,
    )
    saved = {name: saved_bytes(tensors, run) for name, (tensors, run) in variants.items()}
    facts = {"case": case.name, "n": case.n, "c": case.c, "size": case.size}
    facts |= {"dtype": arguments.dtype, "threads": torch.get_num_threads(), "device": device}
    return rows_of(facts, times, saved, ours)


def bench_search_step(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of a weights step and an architecture step of the 8-cell supernet."""
    n, c, size = (8, 16, 16) if arguments.quick else (64, 16, 32)
    ours = settings_of(arguments.device)
    settings = {"impl_torch": ("torch", "nothing", "exact")} | ours
    steps = {
        name: SearchStep(n, c, size, arguments.device, *values) for name, values in settings.items()
    }
    losses = {name: float(step.loss(step.weights).detach()) for name, step in steps.items()}
    for name, loss in losses.items():
        limit = 1e-4 if settings[name][2] == "exact" else 1e-2
        if not abs(loss - losses["impl_torch"]) < limit:
            sys.exit(f"search step: the losses are {losses}, nothing is reported")
    rounds = 3 if arguments.quick else max(3, arguments.rounds // 3)
    times = interleaved({k: s.run for k, s in steps.items()}, rounds, arguments.device)
    kernels.release_memory()  # the processes that measure peaks need it
    peaks = {k: measure_peak(n, c, size, arguments.device, *settings[k]) for k in settings}
    saved = {k: step.saved_bytes() for k, step in steps.items()}
    facts = {"case": "search_step", "n": n, "c": c, "size": size}
    facts |= {"dtype": "float32", "threads": torch.get_num_threads(), "device": arguments.device}
    rows = rows_of(facts, times, saved, list(ours))
    for row in rows:
        row["peak_bytes"] = peaks[row["impl"]]
        row["baseline_peak_bytes"] = peaks[row["baseline"]]
    return rows


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    if arguments.quick:
        return [Case("edge", 4, 16, 16), Case("normal_cell", 2, 16, 8)]
    cases = [Case("edge", 64, c, size) for c, size in SIZES.items()]
    for c, size in SIZES.items():
        cases.append(Case("normal_cell", arguments.cell_batch, c, size))
        cases.append(Case("reduction_cell", arguments.cell_batch, c, size))
    return cases


def require_green_tests(device: str, quick: bool) -> None:
    """Exit unless the kernels' tests pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(ROOT / "tests" / "kernels")]
    selection = "exact" if quick else "cpu or mixed_op"
    command += ["-m", "gpu"] if device == "cuda" else ["-k", selection]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit("the kernels' tests fail, nothing is reported:\n" + finished.stdout[-2000:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--save", action="store_true", help="append to results/mixed_op.csv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--cell-batch", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", help="of edges and cells")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--only", nargs="*", default=[""],
        help="cases whose name and channels start so, such as edge_16 normal_cell search_step",
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 9)
    torch.set_num_threads(arguments.threads)
    require_green_tests(arguments.device, arguments.quick)
    wanted = tuple(arguments.only)
    for case in cases_of(arguments):
        if f"{case.name}_{case.c}".startswith(wanted):
            report(bench_case(case, arguments), arguments)
            kernels.release_memory()
    if "search_step".startswith(wanted):
        report(bench_search_step(arguments), arguments)


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print rows, and save them if asked to."""
    for row in rows:
        if arguments.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{row['case']} n={row['n']} c={row['c']} {row['impl']} {row['impl_ms']:.1f} ms, "
                f"{row['baseline']} {row['baseline_ms']:.1f} ms: {row['ratio_median']:.2f}x "
                f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f}), saves "
                f"{row['baseline_saved_bytes'] / max(row['saved_bytes'], 1):.1f}x less",
                flush=True,
            )
        if arguments.save:
            fields = {"peak_bytes": "", "baseline_peak_bytes": ""} | row
            append_row("mixed_op", {k: fields[k] for k in sorted(fields)}, quiet=True)


if __name__ == "__main__":
    main()
