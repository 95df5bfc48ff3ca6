"""Partial statistics that each program of a launch writes, and how they are combined.

A program writes four values for each channel: the mean of its COUNT pixels is SHIFT + OFFSET, and
SQUARES is the sum of their squared deviations from it. SHIFT is the mean of the program's first
tile. Summing deviations from it, not the values, stays accurate where the mean is large.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

SHIFT, OFFSET, SQUARES, COUNT = (tl.constexpr(i) for i in range(4))
PARTIAL_ROWS = tl.constexpr(4)


@triton.jit
def tile_mean(z, valid, count):
    """Mean (C,) over the valid pixels of a tile (BLOCK, C)."""
    return tl.sum(tl.where(valid[:, None], z, 0.0), 0) / count


@triton.jit
def store_statistics(partials, channels, shift, first, second, count, C: tl.constexpr):
    """Write a program's statistics from `first` and `second`, sums of z - shift and its square."""
    s = tl.sum(first, 0)
    tl.store(partials + SHIFT * C + channels, shift)
    tl.store(partials + OFFSET * C + channels, s / count)
    tl.store(partials + SQUARES * C + channels, tl.maximum(tl.sum(second, 0) - s * s / count, 0.0))
    tl.store(partials + COUNT * C + channels, tl.zeros([C], tl.float32) + count)


@triton.jit
def combine(partials, groups, C: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and biased variance (C,) in float64 from the partial statistics (G, 4, C) of G programs.

    The squared deviations from the common mean are those inside the programs plus those of the
    programs' means.
    """
    lanes = tl.arange(0, C)
    pixels = tl.zeros([C], tl.float64)
    total = tl.zeros([C], tl.float64)
    for start in range(0, groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        offsets = group[:, None] * PARTIAL_ROWS * C + lanes[None, :]
        inside = (group < groups)[:, None]
        count = tl.load(partials + COUNT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        shift = tl.load(partials + SHIFT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        offset = tl.load(partials + OFFSET * C + offsets, mask=inside, other=0.0).to(tl.float64)
        pixels += tl.sum(count, 0)
        total += tl.sum(count * (shift + offset), 0)
    mean = total / pixels
    squares = tl.zeros([C], tl.float64)
    for start in range(0, groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        offsets = group[:, None] * PARTIAL_ROWS * C + lanes[None, :]
        inside = (group < groups)[:, None]
        count = tl.load(partials + COUNT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        shift = tl.load(partials + SHIFT * C + offsets, mask=inside, other=0.0).to(tl.float64)
        offset = tl.load(partials + OFFSET * C + offsets, mask=inside, other=0.0).to(tl.float64)
        within = tl.load(partials + SQUARES * C + offsets, mask=inside, other=0.0).to(tl.float64)
        between = shift + offset - mean[None, :]
        squares += tl.sum(within + count * between * between, 0)
    return mean, squares / pixels
