"""What the kernels of a backend read and return, beside single tensors.

The letters in shapes are those of `hwnas.kernels.backend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from hwnas.kernels.plan import Convolution, Norm

Value = Any
"""A tensor (N, OH, OW, C), or an object that the same backend's kernels read as one."""


class Pooled(NamedTuple):
    """A 3x3 pool of x that is not stored: kernels compute it while they read x.

    Attributes:
        x: (N, H, W, C).
        stride: 1 or 2.
        kind: 1 for the maximum, 2 for the mean.
    """

    x: Tensor
    stride: int
    kind: int


class Pools(NamedTuple):
    """Both 3x3 pools of a state, (N, OH, OW, C) each, and their statistics.

    Attributes:
        maximum: the maximum over each window.
        mean: the mean over the pixels of each window that are inside the image.
        statistics: (2, 2, C), of the maximum and of the mean; None where they are not needed.
    """

    maximum: Value
    mean: Value
    statistics: Tensor | None


class TableRows(NamedTuple):
    """Rows of a table to fill from the statistics of a batch.

    Attributes:
        norms: the batch norms.
        sources: for each of them the row of the statistics; one more, -1, for the identity as the
            last row.
        out: the rows, (R, 6, C).
    """

    norms: Sequence[Norm]
    sources: Sequence[int]
    out: Tensor


class NormTerms(NamedTuple):
    """R terms w_k y_k with batch norms, as `Backend.normalise_backward` differentiates them.

    Attributes:
        table: (_, 6, C).
        rows: for each term its row of the table.
        pixels: N OH OW, the number of values of a channel.
        batch: for each term whether its statistics are the batch's own; None if all are.
        weights: mixing weights; None for ones.
        positions: for each term the position of its weight; None for 0 to R - 1.
        d_weights: tensor shaped like `weights` that their gradients are written to; None for a new
            one.
    """

    table: Tensor
    rows: Sequence[int]
    pixels: int
    batch: Sequence[bool] | None = None
    weights: Tensor | None = None
    positions: Sequence[int] | None = None
    d_weights: Tensor | None = None


class NormGradients(NamedTuple):
    """Gradients of R terms with batch norms.

    Attributes:
        coefficients: (R, 3, C).
        d_weights: of the mixing weights.
        d_gamma: of the scales, (R, C).
        d_beta: of the shifts, (R, C).
    """

    coefficients: Tensor
    d_weights: Tensor
    d_gamma: Tensor
    d_beta: Tensor


class MixTerm(NamedTuple):
    """One summand of `Backend.mix`.

    Attributes:
        value: the tensor z_k, (N, OH, OW, C).
        row: table row (6, C) that normalises it.
        weight_index: position of w_k among the mixing weights.
    """

    value: Value
    row: Tensor
    weight_index: int


class StageBackward(NamedTuple):
    """The convolutions of one stage, and what their backward pass reads and writes.

    Attributes:
        convolutions: the B convolutions, as given to `Backend.convolve`.
        parameters: the cell's parameters, as given to `Backend.convolve`.
        outputs: z, (B, N, OH, OW, C), as `Backend.convolve` returned it.
        gradients: for each convolution g, (N, OH, OW, C).
        coefficients: for each convolution (3, C), which make dz of g and z.
        rows: for each convolution the table row (6, C) of the norm of its output.
        weight_gradients: for each of `parameters` the tensor that its gradient is written to, None
            where the gradient is not needed.
    """

    convolutions: Sequence[Convolution]
    parameters: Sequence[Tensor]
    outputs: Tensor
    gradients: Sequence[Tensor]
    coefficients: Sequence[Tensor]
    rows: Sequence[Tensor]
    weight_gradients: Sequence[Tensor | None]

    @property
    def needs_weights(self) -> bool:
        """Whether the gradient of any weight of the convolutions is needed."""
        positions = (i for convolution in self.convolutions for i in convolution.weights)
        return any(self.weight_gradients[i] is not None for i in positions)


class PoolGradient(NamedTuple):
    """What the pools and the skip connection of one edge contribute to the gradient of its source.

    Attributes:
        gradient: g, the gradient of the edge's target, (N, OH, OW, C).
        maximum: coefficients (3, C) and table row (6, C) of the maximum; None if it is not used.
        mean: the same for the mean.
        identity: coefficients (3, C) of the skip connection; None if it is not used.
    """

    gradient: Tensor
    maximum: tuple[Tensor, Tensor] | None
    mean: tuple[Tensor, Tensor] | None
    identity: Tensor | None
