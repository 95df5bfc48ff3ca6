"""Claim: what lies around the cells of a DARTS supernet costs less than with PyTorch's operators.

Forward and backward, CPU time of one thread; the variants run in turn in one process, and a row has
the median and the range of the paired ratios. Three parts:

- `project`: ReLU and pointwise convolution, at the sizes of the paper's network for 32 x 32, batch
  64, and of the configuration `darts_slice`.
- `reduce`: FactorizedReduce, beside its definition by convolutions with strides.
- `sgd`, `adamw`: a step of the optimiser over the weights of `darts_slice`'s supernet.

    python benchmarks/cell_inputs.py [--rounds 9] [--save]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from bench_mixed_op import interleaved
from results import append_row
from small_shapes import compared, default_step
from torch import Tensor

from hwnas.kernels import relu_pointwise
from hwnas.ops.cells import FactorizedReduce

PROJECTED = (
    (64, 48, 16, 32), (64, 64, 16, 32), (64, 64, 32, 32), (64, 128, 32, 16), (64, 128, 64, 16),
    (64, 256, 64, 8), (16, 8, 8, 14), (16, 32, 16, 14), (16, 64, 32, 7),
)  # fmt: skip
"""Images, channels before and after, and side."""
REDUCED = ((64, 64, 32, 32), (64, 128, 64, 16), (16, 8, 16, 14), (16, 32, 32, 14))


def both_passes(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Any]:
    """A call of a function of x and of its backward pass, whose gradient is channels_last."""
    gradient = torch.randn_like(function(x), memory_format=torch.channels_last)

    def run() -> None:
        x.grad = None
        function(x).backward(gradient)

    return run


def state(n: int, c: int, size: int) -> Tensor:
    x = torch.randn(n, c, size, size).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def project(rounds: int) -> Iterator[dict[str, Any]]:
    for n, c, c_out, size in PROJECTED:
        x, weight = state(n, c, size), torch.randn(c_out, c, 1, 1, requires_grad=True)
        torch.testing.assert_close(
            relu_pointwise(x, weight, impl="cpu"), F.conv2d(F.relu(x), weight), rtol=1e-4, atol=1e-4
        )
        variants = {
            "fused": both_passes(lambda x, w=weight: relu_pointwise(x, w, impl="cpu"), x),
            "eager": both_passes(lambda x, w=weight: F.conv2d(F.relu(x), w), x),
        }
        facts = {"part": "project", "n": n, "c": c, "c_out": c_out, "size": size}
        yield from compared(facts, interleaved(variants, rounds, "cpu"))


def reduce(rounds: int) -> Iterator[dict[str, Any]]:
    for n, c, c_out, size in REDUCED:
        x = state(n, c, size)
        module = FactorizedReduce(c, c_out, affine=False).to(memory_format=torch.channels_last)

        def defined(x: Tensor, module: FactorizedReduce = module) -> Tensor:
            x = F.relu(x)
            y: Tensor = module.bn(torch.cat((module.conv1(x), module.conv2(module.shift(x))), 1))
            return y

        torch.testing.assert_close(module(x), defined(x), rtol=1e-4, atol=1e-4)
        variants = {"fused": both_passes(module, x), "eager": both_passes(defined, x)}
        facts = {"part": "reduce", "n": n, "c": c, "c_out": c_out, "size": size}
        yield from compared(facts, interleaved(variants, rounds, "cpu"))


def optimizer(rounds: int) -> Iterator[dict[str, Any]]:
    sizes, step = default_step("cpu")
    supernet = step.supernet
    for parameter in supernet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for name, kind, options in (
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
        ("adamw", torch.optim.AdamW, {}),
    ):
        variants = {
            label: kind(supernet.parameters(), lr=1e-3, fused=fused, **options).step
            for label, fused in (("fused", True), ("eager", False))
        }
        facts = {"part": name, "n": sizes["n"], "c": sizes["c"], "c_out": "", "size": sizes["size"]}
        yield from compared(facts, interleaved(variants, rounds, "cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", action="store_true", help="append to results/cell_inputs.csv")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for part in (project, reduce, optimizer):
        for row in part(arguments.rounds):
            print(
                f"{row['part']} n={row['n']} c={row['c']} to {row['c_out']} size={row['size']}: "
                f"{row['fused_ms']:.2f} ms, {row['baseline_ms']:.2f} ms, "
                f"{row['ratio_median']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
                flush=True,
            )
            if arguments.save:
                append_row("cell_inputs", row, quiet=True)


if __name__ == "__main__":
    main()
