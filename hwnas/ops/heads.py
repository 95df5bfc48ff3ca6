"""Heads for dense prediction: one output vector for each position instead of one for each sample.

`dense` predicts at each position of the feature map, `upsampled_x<factor>` at each position of a
map that is `factor` times as high and as wide.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, sequential

Head = Literal["classifier", "dense", "upsampled", "positions"]
"""What gets an output vector of K values: each sample (N, K), each position of the feature map
(N, K, h, w), each position of the input (N, K, H, W), or each token of a text that is read as a
whole (N, K, 1, L)."""
FACTORS = (1, 2, 4, 8, 16, 32)
"""By how much features can be enlarged."""


def dense(spec: OpSpec, affine: bool) -> nn.Conv2d:
    """A 1x1 convolution, (N, c_in, H, W) to (N, c_out, H, W)."""
    return nn.Conv2d(spec.c_in, spec.c_out, 1)


def upsampled(spec: OpSpec, affine: bool, *, factor: int) -> nn.Sequential:
    """The dense head and bilinear upsampling, (N, c_in, H, W) to (N, c_out, factor H, factor W)."""
    return sequential(
        dense=dense(spec, affine),
        enlarge=nn.Upsample(scale_factor=factor, mode="bilinear"),
    )


HEAD_OPERATORS: dict[str, Builder] = {
    "dense": dense,
    **{f"upsampled_x{factor}": partial(upsampled, factor=factor) for factor in FACTORS},
}
