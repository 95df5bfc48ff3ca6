"""Heads with one output vector for each position instead of one for each sample.

`dense` predicts at each position of the feature map, `upsampled_x<factor>` at each position of a
map that is `factor` times as high and as wide. `image` ends a generator of images.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, sequential

Head = Literal["classifier", "dense", "upsampled", "positions", "image"]
"""What gets an output vector of K values: each sample (N, K), each position of the feature map
(N, K, h, w), each position of the input (N, K, H, W), each token of a text that is read as a whole
(N, K, 1, L), or each pixel of an image that is generated (N, K, h, w), 0 to 1."""
FACTORS = (1, 2, 4, 8, 16, 32)
"""By how much features can be enlarged."""


def dense(spec: OpSpec, affine: bool) -> nn.Conv2d:
    """A 1x1 convolution, (N, c_in, H, W) to (N, c_out, H, W)."""
    return nn.Conv2d(spec.c_in, spec.c_out, 1)


def image(spec: OpSpec, affine: bool) -> nn.Sequential:
    """A 3x3 convolution and a sigmoid, (N, c_in, H, W) to values of pixels (N, c_out, H, W)."""
    return sequential(conv=nn.Conv2d(spec.c_in, spec.c_out, 3, padding=1), pixel=nn.Sigmoid())


def upsampled(spec: OpSpec, affine: bool, *, factor: int) -> nn.Sequential:
    """The dense head and bilinear upsampling, (N, c_in, H, W) to (N, c_out, factor H, factor W)."""
    return sequential(
        dense=dense(spec, affine),
        enlarge=nn.Upsample(scale_factor=factor, mode="bilinear"),
    )


HEAD_OPERATORS: dict[str, Builder] = {
    "dense": dense,
    "image": image,
    **{f"upsampled_x{factor}": partial(upsampled, factor=factor) for factor in FACTORS},
}
