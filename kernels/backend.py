"""What a backend of the fused mixed operator computes: the kernels, and the tables between them.

Shapes. Activations are (N, H, W, C), contiguous, C the backend's width: the channels padded by
zeros. Statistics of R values are (R, 2, C): mean and biased variance over N, H and W. Tables of R
batch norms are (R, 6, C): see `MEAN` and the names after it; y = scale (z - mean) + shift. With
|mean| much larger than the deviation, z - mean must come first, and what the mean lost by rounding
(`RESIDUAL`) is part of the shift.

Sums of R terms are (R, 2, C): S = sum g and T = sum g (z - mean) over N, H and W. Coefficients are
(R, 3, C): the gradient by z is dz = a g + b (z - mean) + d.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hwnas.kernels.plan import CellPlan, Convolution
from hwnas.kernels.reference import BATCH_NORM_EPS

MEAN, SCALE, SHIFT, RSTD, VARIANCE, RESIDUAL = range(6)
TABLE_ROWS = 6


Value = Any
"""A tensor (N, OH, OW, C), or what stands for a pool until the same backend's kernel reads it."""


class Pooled(NamedTuple):
    """A 3x3 pool of x that is formed where it is read.

    Attributes:
        x: (N, H, W, C).
        stride: 1 or 2.
        kind: 1 for the maximum, 2 for the mean.
    """

    x: Tensor
    stride: int
    kind: int


class Pools(NamedTuple):
    """3x3 pools of a state, and their statistics (2, 2, C)."""

    maximum: Value
    mean: Value
    statistics: Tensor | None


class MixTerm(NamedTuple):
    """A value to be normalised by a row (6, C), and weighted by `weights[weight_index]`."""

    value: Value
    row: Tensor
    weight_index: int


class PoolGradient(NamedTuple):
    """What one edge hands back to the state that it reads, but for its convolutions.

    Attributes:
        gradient: of the edge's target, (N, OH, OW, C).
        maximum, mean: coefficients (3, C) and table row (6, C) of the pools, None without.
        identity: coefficients of the skip connection, None without.
    """

    gradient: Tensor
    maximum: tuple[Tensor, Tensor] | None
    mean: tuple[Tensor, Tensor] | None
    identity: Tensor | None


class Backend(ABC):
    """The kernels. Every method returns new tensors, finite wherever its inputs are."""

    @abstractmethod
    def width(self, channels: int) -> int:
        """Channels of the internal layout, at least `channels`."""

    @abstractmethod
    def pools(self, x: Tensor, stride: int) -> Pools:
        """Maximum and mean of the 3x3 windows, over the pixels inside the image."""

    def pool_values(self, x: Tensor, stride: int) -> Pools:
        """`pools` for the backward pass, where only `reduce` reads them."""
        return Pools(Pooled(x, stride, 1), Pooled(x, stride, 2), None)

    @abstractmethod
    def convolve(
        self,
        values: Tensor,
        table: Tensor | None,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """ReLU and convolution of one stage.

        Args:
            values: (R, N, H, W, C); a convolution reads `values[reads or 0]`.
            table: (R, 6, C), normalises the values before the ReLU; None for none.
            convolutions: B of them, with equal strides.
            parameters: the cell's, to which `Convolution.weights` point.

        Returns:
            Outputs (B, N, OH, OW, C) before normalisation, and their statistics (B, 2, C).
        """

    @abstractmethod
    def mix(self, terms: Sequence[MixTerm], weights: Tensor) -> Tensor:
        """sum_k w_k (scale_k (z_k - mean_k) + shift_k), (N, OH, OW, C)."""

    @abstractmethod
    def reduce(self, terms: Sequence[tuple[Tensor, Value, Tensor]]) -> Tensor:
        """Sums (R, 2, C) of R triples: gradient, value, table row."""

    @abstractmethod
    def convolve_backward(
        self,
        values: Tensor,
        table: Tensor | None,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        outputs: Tensor,
        gradients: Sequence[Tensor],
        coefficients: Sequence[Tensor],
        rows: Sequence[Tensor],
        weight_gradients: Sequence[Tensor | None],
        needs_input: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of `convolve`.

        Args:
            values, table, convolutions, parameters: as given to `convolve`.
            outputs: what it returned, (B, N, OH, OW, C).
            gradients: B times g, (N, OH, OW, C), by the normalised outputs.
            coefficients: B times (3, C), which make dz of g.
            rows: B times the outputs' own table row (6, C).
            weight_gradients: one for each of `parameters`, to write to; None where not needed.
            needs_input: whether the gradient of the values is needed.

        Returns:
            The gradient by the values, after the table and before the ReLU, (R, N, H, W, C); and
            with a table its sums (R, 2, C). None where not needed; undefined for values that no
            convolution reads.
        """

    @abstractmethod
    def pools_backward(
        self, x: Tensor, stride: int, edges: Sequence[PoolGradient], dx: Tensor
    ) -> None:
        """Add the gradients of pools and skip connections of all edges out of x to dx.

        A maximum's gradient goes to the first largest pixel in reading order.
        """

    def statistics(self, values: Sequence[Tensor]) -> Tensor:
        """Statistics (R, 2, C) of R tensors (N, H, W, C) that were made elsewhere."""
        parts = [torch.var_mean(z.flatten(0, 2).float(), 0, correction=0) for z in values]
        return torch.stack([torch.stack((mean, variance)) for variance, mean in parts])

    def apply(
        self, terms: Sequence[tuple[Tensor, Tensor, Tensor]], coefficients: Tensor
    ) -> list[Tensor]:
        """dz_k = a_k g + b_k (z_k - mean_k) + d_k of triples as for `reduce`."""
        return [
            (a * g + (b * (z - row[MEAN]) + d)).to(z.dtype)
            for (g, z, row), (a, b, d) in zip(terms, coefficients, strict=True)
        ]

    def source_backward(
        self,
        x: Tensor,
        stride: int,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        outputs: Tensor | None,
        gradients: Sequence[Tensor],
        coefficients: Sequence[Tensor],
        rows: Sequence[Tensor],
        weight_gradients: Sequence[Tensor | None],
        edges: Sequence[PoolGradient],
        before: Tensor | None,
        needs_input: bool,
    ) -> Tensor | None:
        """`convolve_backward` of a state's first stages, and `pools_backward`.

        Args:
            x, stride: the state, (N, H, W, C), and what all its edges step by.
            convolutions, parameters, outputs, gradients, coefficients, rows, weight_gradients: as
                for `convolve_backward`.
            edges: as for `pools_backward`.
            before: what other groups of edges have handed back to x, to be added; None for zero.
            needs_input: whether the gradient of x is needed.

        Returns:
            The gradient of x, (N, H, W, C), a new tensor; None where not needed.
        """
        dx = None
        if convolutions:
            assert outputs is not None
            d_values, _ = self.convolve_backward(
                x.unsqueeze(0), None, convolutions, parameters, outputs, gradients, coefficients,
                rows, weight_gradients, needs_input,
            )  # fmt: skip
            dx = None if d_values is None else d_values[0]
        if not needs_input:
            return None
        if dx is None:
            dx = torch.zeros_like(x)
        if edges:
            self.pools_backward(x, stride, edges, dx)
        return dx if before is None else dx + before

    def pack(self, plan: CellPlan, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """The parameters, prepared once for all calls of an evaluation."""
        return parameters

    def finish(  # noqa: B027
        self, parameters: Sequence[Tensor], weight_gradients: Sequence[Tensor | None]
    ) -> None:
        """Write the weight gradients that calls with packed parameters have put off."""

    def source_forward(
        self,
        x: Tensor,
        stride: int,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        needs_pools: bool,
    ) -> tuple[Pools | None, Tensor | None, Tensor]:
        """`convolve` of a state's first stages, and `pools`.

        Returns:
            Pools and outputs, None without; statistics of B outputs, the maximum and the mean.
        """
        pools, outputs, found = None, None, []
        if convolutions:
            outputs, statistics = self.convolve(x.unsqueeze(0), None, convolutions, parameters)
            found.append(statistics)
        if needs_pools:
            pools = self.pools(x, stride)
            if pools.statistics is not None:
                found.append(pools.statistics)
        none = x.new_empty(0, 2, x.shape[-1])
        return pools, outputs, torch.cat(found) if found else none

    def normalise(
        self,
        statistics: Tensor,
        gammas: Sequence[Tensor | None],
        betas: Sequence[Tensor | None],
        out: Tensor,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Fill table rows `out` (R, 6, C).

        Args:
            statistics: of at least R values, (_, 2, C).
            gammas, betas: of the norms.
            out: the rows.
            rows: of the statistics, one for each of `out`; a last -1 is the identity's. None for
                the first R.
        """
        if rows is not None:
            known = [row for row in rows if row >= 0]
            identity = out[len(known) :]
            identity.zero_()
            identity[:, [SCALE, RSTD]] = 1.0
            statistics, out = statistics[known], out[: len(known)]
        if len(out):
            fill_table(statistics, gammas, betas, out)

    def normalise_backward(
        self,
        sums: Tensor,
        table: Tensor,
        weights: Tensor | None,
        count: int,
        batch: Tensor | Sequence[bool] | None,
        sum_rows: Sequence[int] | None = None,
        table_rows: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        d_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of R normalised terms w_k y_k.

        Args:
            sums: of at least R terms, (_, 2, C).
            table: of at least R terms, (_, 6, C).
            weights: of at least R terms, None for ones.
            count: N OH OW.
            batch: (R,), whether a row holds the batch's own statistics; None for all.
            sum_rows, table_rows, positions: where term r stands in sums, table and weights; None
                for r.
            d_weights: like `weights`, to write their gradients to; None for a new tensor.

        Returns:
            Coefficients (R, 3, C), gradients by the weights, by the scales (R, C) and by the
            shifts (R, C).
        """
        sums = sums if sum_rows is None else sums[list(sum_rows)]
        table = table if table_rows is None else table[list(table_rows)]
        if weights is not None and positions is not None:
            weights = weights[list(positions)]
        own = None if batch is None else torch.as_tensor(batch).to(table)
        coefficients, d_chosen, d_gamma, d_beta = gradients_of_terms(
            sums, table, weights, count, own
        )
        if d_weights is not None:
            d_weights[list(positions or range(len(sums)))] = d_chosen.to(d_weights.dtype)
            d_chosen = d_weights
        return coefficients, d_chosen, d_gamma, d_beta


def fill_table(
    statistics: Tensor,
    gammas: Sequence[Tensor | None],
    betas: Sequence[Tensor | None],
    out: Tensor,
) -> None:
    """`Backend.normalise` in plain PyTorch."""
    mean, variance = statistics[:, 0], statistics[:, 1]
    rstd = torch.rsqrt(variance + BATCH_NORM_EPS)
    residual = mean - mean.to(out.dtype)
    scale = rstd
    shift = -scale * residual
    if any(gamma is not None for gamma in gammas):
        scale = rstd * _stacked(gammas, 1.0, rstd)
        shift = _stacked(betas, 0.0, rstd) - scale * residual
    # In the order of the names above.
    out.copy_(torch.stack((mean, scale, shift, rstd, variance, residual), dim=1))


def _stacked(vectors: Sequence[Tensor | None], default: float, like: Tensor) -> Tensor:
    """(R, C) of vectors that may be missing or shorter than C."""
    stacked = torch.full_like(like, default)
    for row, vector in zip(stacked, vectors, strict=True):
        if vector is not None:
            row[: len(vector)] = vector
    return stacked


def gradients_of_terms(
    sums: Tensor, table: Tensor, weights: Tensor | None, count: int, batch: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`Backend.normalise_backward` in plain PyTorch."""
    wide = torch.promote_types(sums.dtype, table.dtype)
    table = table.to(wide)
    s, t = sums[:, 0], sums[:, 1]
    scale, shift, rstd = table[:, SCALE], table[:, SHIFT], table[:, RSTD]
    weight: Tensor | float = 1.0 if weights is None else weights.to(wide).unsqueeze(1)
    centred = t - table[:, RESIDUAL] * s
    a = weight * scale
    spread = a / count if batch is None else a / count * batch.to(wide).unsqueeze(1)
    b = -spread * rstd.square() * centred
    d = -spread * s - b * table[:, RESIDUAL]
    coefficients = torch.stack((a.expand_as(b), b, d), dim=1)
    d_weight = (scale * t + shift * s).sum(dim=1)
    return coefficients, d_weight, weight * rstd * centred, weight * s
