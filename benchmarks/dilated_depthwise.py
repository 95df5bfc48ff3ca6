"""Claim: rewritten without dilation, a dilated depthwise layer trains faster on a CPU.

Forward and backward of one layer, library and rewritten in turn in one process; the row holds the
median of the paired ratios and their range.

    python benchmarks/dilated_depthwise.py [--threads 1] [--rounds 15]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from results import append_row
from torch import Tensor

from hwnas.kernels import dilated_depthwise_conv2d

SHAPES = [(64, 24, 14), (64, 48, 7), (64, 96, 4), (64, 16, 32)]


def library(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, 2 * (weight.shape[-1] // 2), 2, x.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for batch, channels, side in SHAPES:
        for size in (3, 5):
            for stride in (1, 2):
                x = torch.randn(batch, channels, side, side)
                x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
                weight = torch.randn(channels, 1, size, size, requires_grad=True)
                reference = library(x, weight, stride)
                torch.testing.assert_close(
                    dilated_depthwise_conv2d(x, weight, stride), reference, rtol=1e-4, atol=1e-4
                )
                gradient = torch.randn_like(reference)

                def step(function: Callable[[Tensor, Tensor, int], Tensor]) -> float:
                    start = time.perf_counter()
                    torch.autograd.grad(function(x, weight, stride), (x, weight), gradient)  # noqa: B023
                    return (time.perf_counter() - start) * 1e3

                pairs = np.array(
                    [
                        (step(library), step(dilated_depthwise_conv2d))
                        for _ in range(arguments.rounds + 2)
                    ][2:]
                )
                ratios = pairs[:, 0] / pairs[:, 1]
                append_row(
                    "dilated_depthwise",
                    {
                        "shape": f"{batch}x{channels}x{side}x{side}",
                        "kernel": size,
                        "stride": stride,
                        "threads": arguments.threads,
                        "rounds": arguments.rounds,
                        "library_ms": float(np.median(pairs[:, 0])),
                        "rewritten_ms": float(np.median(pairs[:, 1])),
                        "speedup_median": float(np.median(ratios)),
                        "speedup_min": float(ratios.min()),
                        "speedup_max": float(ratios.max()),
                    },
                )


if __name__ == "__main__":
    main()
