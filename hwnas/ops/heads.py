"""What networks of places end with: a vector of outputs for each of them.

`dense` gives one for each place of the features, `upsampled_x<factor>` for each pixel of a map
that is so many times as high and as wide.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, sequential

Head = Literal["classifier", "dense", "upsampled"]
"""One vector of outputs for a sample (N, K), for each place of the features (N, K, h, w), or for
each place of the input (N, K, H, W)."""
FACTORS = (1, 2, 4, 8, 16, 32)


def dense(spec: OpSpec, affine: bool) -> nn.Conv2d:
    """(N, c_in, H, W) to (N, c_out, H, W)."""
    return nn.Conv2d(spec.c_in, spec.c_out, 1)


def upsampled(spec: OpSpec, affine: bool, *, factor: int) -> nn.Sequential:
    """(N, c_in, H, W) to (N, c_out, factor H, factor W), interpolated between places."""
    return sequential(
        dense=dense(spec, affine),
        enlarge=nn.Upsample(scale_factor=factor, mode="bilinear"),
    )


HEAD_OPERATORS: dict[str, Builder] = {
    "dense": dense,
    **{f"upsampled_x{factor}": partial(upsampled, factor=factor) for factor in FACTORS},
}
