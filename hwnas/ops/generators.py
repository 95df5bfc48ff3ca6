"""Operators of generators of images, which begin with a latent vector and double the map's sides.

`project_<height>x<width>` reads a network's input, a latent vector, and makes a map of it. The ways
to enlarge maps are those of Gong et al., "AutoGAN: Neural Architecture Search for Generative
Adversarial Networks", ICCV 2019 (arXiv 1908.03835), and the sub-pixel convolution of Shi et al.,
CVPR 2016 (arXiv 1609.05158):

- `up_nearest_<k>x<k>` and `up_bilinear_<k>x<k>`: interpolation, then a convolution;
- `up_transposed_<k>x<k>`: a transposed convolution of stride 2;
- `up_subpixel_<k>x<k>`: a convolution to four times the channels, which become 2 x 2 pixels.

`refine_<k>x<k>_w<width>` keeps the shape: a convolution to `width` times the channels and a 1x1
convolution back, added to the input.
"""

from __future__ import annotations

import re
from functools import partial

from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, conv, sequential

UPSAMPLINGS = ("nearest", "bilinear", "transposed", "subpixel")
KERNELS, WIDTHS = (1, 3, 5, 7), (1, 2, 4)
"""Sides of the convolutions' kernels, and what a refining layer multiplies its channels by."""
_PROJECTION = re.compile(r"project_([1-9]\d{0,3})x([1-9]\d{0,3})")


def projection_builder(name: str) -> Builder | None:
    """The builder of `project_<height>x<width>`; None for any other name."""
    found = _PROJECTION.fullmatch(name)
    if found is None:
        return None
    height, width = map(int, found.groups())
    return partial(project, height=height, width=width)


def project(spec: OpSpec, affine: bool, *, height: int, width: int) -> nn.Sequential:
    """A linear layer, (N, c_in, H, W) to a map (N, c_out, height, width)."""
    values = spec.c_in * spec.height * spec.width
    return sequential(
        flat=nn.Flatten(),
        linear=nn.Linear(values, spec.c_out * height * width),
        relu=nn.ReLU(),
        map=nn.Unflatten(1, (spec.c_out, height, width)),
    )


def enlarged(spec: OpSpec, affine: bool, *, upsampling: str, kernel: int) -> nn.Sequential:
    """A layer that doubles the sides, (N, c_in, H, W) to (N, c_out, 2 H, 2 W)."""
    c_in, c_out = spec.c_in, spec.c_out
    norm, relu = nn.BatchNorm2d(c_out, affine=affine), nn.ReLU()
    if upsampling == "transposed":
        # The least kernel that reaches every pixel of the output has side 2.
        side = max(kernel, 2)
        padding = (side - 1) // 2
        layer = nn.ConvTranspose2d(
            c_in, c_out, side, 2, padding, output_padding=side % 2, bias=False
        )
        return sequential(conv=layer, bn=norm, relu=relu)
    if upsampling == "subpixel":
        norm = nn.BatchNorm2d(4 * c_out, affine=affine)
        layers = sequential(conv=conv(c_in, 4 * c_out, kernel), bn=norm, relu=relu)
        return sequential(layers=layers, shuffle=nn.PixelShuffle(2))
    enlarge = nn.Upsample(scale_factor=2, mode=upsampling)
    return sequential(enlarge=enlarge, conv=conv(c_in, c_out, kernel), bn=norm, relu=relu)


class Refine(nn.Module):
    """A residual layer that keeps the shape (N, C, H, W)."""

    def __init__(self, spec: OpSpec, affine: bool, *, kernel: int, width: int) -> None:
        super().__init__()
        inner = width * spec.c_in
        self.branch = sequential(
            conv=conv(spec.c_in, inner, kernel),
            bn=nn.BatchNorm2d(inner, affine=affine),
            relu=nn.ReLU(),
            project=conv(inner, spec.c_out, 1),
            norm=nn.BatchNorm2d(spec.c_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


GENERATOR_OPERATORS: dict[str, Builder] = {
    **{
        f"up_{upsampling}_{kernel}x{kernel}": partial(
            enlarged, upsampling=upsampling, kernel=kernel
        )
        for upsampling in UPSAMPLINGS
        for kernel in KERNELS
    },
    **{
        f"refine_{kernel}x{kernel}_w{width}": partial(Refine, kernel=kernel, width=width)
        for kernel in KERNELS
        for width in WIDTHS
    },
}
