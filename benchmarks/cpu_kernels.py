"""Claim: how near each C++ kernel comes to what the processor can do.

The kernels of one DARTS edge, beside a matrix product and a copy of the same processor, in turn in
one process. A row has the share of the product's multiply-adds a second and of the copy's bytes a
second that a kernel reaches, counting what has to be computed, read and written once.

    python benchmarks/cpu_kernels.py [--threads 1] [--rounds 15] [--save]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_mixed_op import SIZES, Case, Tensors, interleaved
from results import append_row

from hwnas.kernels.cpu.backend import CpuBackend
from hwnas.kernels.norms import TABLE_ROWS
from hwnas.kernels.operands import MixTerm, PoolGradient, StageBackward
from hwnas.kernels.operator import to_layout
from hwnas.kernels.plan import CellPlan, tensors_of

PRODUCT = 768
COPIED = 2**24


class Kernel(NamedTuple):
    """A call, its multiply-adds, and the activation tensors that it reads and writes."""

    run: Callable[[], Any]
    macs: float
    tensors: float


def kernels_of(case: Case) -> dict[str, Kernel]:
    """The kernels of an edge with random values."""
    tensors = Tensors(case, "cpu", torch.float32, torch.channels_last)
    (group,) = CellPlan.of(CellPlan.describe(1, tensors.edges)).groups
    backend = CpuBackend(torch.float32)
    parameters = [c.tensors[n].detach() for c, n in tensors_of(tensors.edges)[0]]
    gradients: list[torch.Tensor | None] = [torch.empty_like(p) for p in parameters]
    nothing: list[torch.Tensor | None] = [None] * len(parameters)
    width = backend.width(case.c)
    x = to_layout(tensors.inputs[0].detach(), width)
    g = to_layout(tensors.gradients[0], width)
    z, _ = backend.convolve(x.unsqueeze(0), None, group.first, parameters)
    rows = torch.rand(len(group.norms), TABLE_ROWS, width)
    y, _ = backend.convolve(z, rows[:4], group.second, parameters)
    abd = torch.rand(3, width)
    pools = backend.pool_values(x, 1)
    values = [*pools[:2], x, y[0], y[1], z[2], z[3]]
    weights = torch.rand(len(values))
    first = [g] * 4, [abd] * 4, list(rows[:4])
    second = [g] * 2, [abd] * 2, list(rows[:2])
    edges = [PoolGradient(g, (abd, rows[0]), (abd, rows[1]), abd)]

    # Taps of the depthwise kernels, and channels of the pointwise ones.
    of_first, of_second = 68 + 4 * case.c, 34 + 2 * case.c
    value = case.n * case.size**2 * case.c

    def backward(of_weights: list[torch.Tensor | None], needs_input: bool) -> Any:
        stage = StageBackward(group.first, parameters, z, *first, of_weights)
        return backend.source_backward(x, 1, stage, edges, None, needs_input=needs_input)

    def second_backward() -> Any:
        stage = StageBackward(group.second, parameters, y, *second, gradients)
        return backend.convolve_backward(z, rows[:4], stage, needs_input=True)

    terms = [(g, v, rows[0]) for v in values]
    mixed = [MixTerm(v, rows[0], i) for i, v in enumerate(values)]
    return {
        "pool_statistics": Kernel(lambda: backend.pools(x, 1), 0, 1),
        "convolve_first": Kernel(
            lambda: backend.convolve(x.unsqueeze(0), None, group.first, parameters),
            value * of_first, 5,
        ),
        "convolve_second": Kernel(
            lambda: backend.convolve(z, rows[:4], group.second, parameters), value * of_second, 4
        ),
        "mix": Kernel(lambda: backend.mix(mixed, weights), value * 7, 6),
        "reduce": Kernel(lambda: backend.reduce(terms), value * 7, 6),
        "second_backward": Kernel(second_backward, value * (3 * of_second + 34), 7),
        "first_backward": Kernel(lambda: backward(gradients, True), value * (3 * of_first + 68), 9),
        "first_backward_weights_only": Kernel(
            lambda: backward(gradients, False), value * (2 * of_first + 68), 8
        ),
        "first_backward_input_only": Kernel(lambda: backward(nothing, True), value * of_first, 9),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--save", action="store_true", help="append to results/cpu_kernels.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    a, b = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    product, source, copied = torch.empty_like(a), torch.randn(COPIED), torch.empty(COPIED)
    for channels, size in SIZES.items():
        case = Case("edge", arguments.batch, channels, size)
        kernels = kernels_of(case)
        functions = {name: kernel.run for name, kernel in kernels.items()}
        functions["product"] = lambda: torch.mm(a, b, out=product)
        functions["copy"] = lambda: copied.copy_(source)
        times = interleaved(functions, arguments.rounds, "cpu")
        macs_a_ms = PRODUCT**3 / times["product"]
        bytes_a_ms = 2 * COPIED * 4 / times["copy"]
        one = 4 * case.n * case.size**2 * case.c
        for name, kernel in kernels.items():
            compute = kernel.macs / times[name] / macs_a_ms
            memory = kernel.tensors * one / times[name] / bytes_a_ms
            figures = {
                "kernel": name, "n": case.n, "c": channels, "size": size,
                "threads": arguments.threads, "rounds": arguments.rounds,
                "kernel_ms": float(np.median(times[name])),
                "share_of_product": float(np.median(compute)),
                "share_of_copy": float(np.median(memory)),
                "product_gmacs": float(np.median(macs_a_ms)) / 1e6,
                "copy_gbytes": float(np.median(bytes_a_ms)) / 1e6,
            }  # fmt: skip
            print(
                f"c={channels} {name}: {figures['kernel_ms']:.2f} ms, "
                f"{figures['share_of_product']:.0%} of the product's multiply-adds, "
                f"{figures['share_of_copy']:.0%} of the copy's bytes",
                flush=True,
            )
            if arguments.save:
                append_row("cpu_kernels", figures, quiet=True)


if __name__ == "__main__":
    main()
