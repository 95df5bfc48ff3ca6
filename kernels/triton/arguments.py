"""What the Triton kernels are called with, gathered from what `Backend` is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hwnas.kernels.backend import PoolGradient
from hwnas.kernels.plan import Convolution
from hwnas.kernels.triton.layout import PackedParameters, StageTables


class WeightSums(NamedTuple):
    """A stage's weight gradients before they are added up.

    Attributes:
        partials: (G, packed elements).
        tables: of the stage.
    """

    partials: Tensor
    tables: StageTables


class Size(NamedTuple):
    """Sizes of a stage: input and output images, width and stride."""

    shape: tuple[int, int, int, int, int]
    width: int
    stride: int

    @staticmethod
    def of(values: Tensor, stride: int) -> Size:
        """Sizes of a stage that reads values (R, N, H, W, C)."""
        _, images, height, wide, width = values.shape
        out = (-(-height // stride), -(-wide // stride))
        return Size((images, height, wide, *out), width, stride)

    @property
    def output(self) -> tuple[int, int, int, int]:
        """(N, OH, OW, C)."""
        images, _, _, height, wide = self.shape
        return images, height, wide, self.width

    @property
    def pixels(self) -> int:
        """N OH OW."""
        images, _, _, height, wide = self.shape
        return images * height * wide


class StageGradient(NamedTuple):
    """What `convolve_backward` is given of a stage's convolutions."""

    convolutions: Sequence[Convolution]
    parameters: Sequence[Tensor]
    outputs: Tensor
    gradients: Sequence[Tensor]
    coefficients: Sequence[Tensor]
    rows: Sequence[Tensor]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As `stage_backward_outputs` takes them."""
        lists = (self.gradients, self.coefficients, self.rows)
        return self.outputs.contiguous(), *(tuple(t.contiguous() for t in each) for each in lists)

    def needs_any(self, weight_gradients: Sequence[Tensor | None]) -> bool:
        """Whether the gradient of any weight is needed."""
        return any(weight_gradients[i] is not None for c in self.convolutions for i in c.weights)


class EdgeGradients:
    """`PoolGradient`s as the kernels take them."""

    def __init__(self, edges: Sequence[PoolGradient], stride: int) -> None:
        self.stride = stride
        self.has_pools = any(e.maximum is not None or e.mean is not None for e in edges)
        self.gradients = tuple(e.gradient.contiguous() for e in edges)
        self.identities = tuple(e.identity for e in edges)
        self.arguments = (
            self.gradients, tuple(e.maximum for e in edges), tuple(e.mean for e in edges)
        )  # fmt: skip


@dataclass
class StageWork:
    """What the first launch of a stage's backward pass leaves to the second."""

    size: Size
    convolutions: Sequence[Convolution]
    tables: StageTables | None
    packed: PackedParameters | None
    intermediate: Tensor | None = None
    partials: Tensor | None = None
    d_pools: Tensor | None = None
    winners: Tensor | None = None

    @property
    def flat(self) -> Tensor | None:
        """Packed weights."""
        return None if self.packed is None else self.packed.flat

    @property
    def convolution_table(self) -> Tensor | None:
        """(B, 9)."""
        return None if self.tables is None else self.tables.convolutions


@lru_cache(maxsize=4096)
def integers(values: tuple[int, ...], device: torch.device) -> Tensor:
    """int32 tensor of an index; copied to the device once."""
    return torch.tensor(values, dtype=torch.int32).to(device)


@lru_cache(maxsize=64)
def _constant(value: float, width: int, device: torch.device) -> Tensor:
    return torch.full((width,), value, device=device)


def affine(
    gammas: Sequence[Tensor | None], betas: Sequence[Tensor | None], rows: int, out: Tensor
) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None, int]:
    """Scales, shifts and their length, with ones and zeros for missing ones; None for none."""
    known = [gamma for gamma in gammas if gamma is not None]
    if not known:
        return None, None, 0
    channels = len(known[0])
    columns = []
    for vectors, default in ((gammas, 1.0), (betas, 0.0)):
        missing = _constant(default, channels, out.device)
        filled = [missing if v is None else v.contiguous() for v in vectors]
        columns.append(tuple(filled + [missing] * (rows - len(filled))))
    return columns[0], columns[1], channels
