"""The interface of a backend: the kernels that the fused mixed operators are made of.

Activations are contiguous tensors (N, H, W, C). C is the backend's width: the number of channels,
padded with zero channels to what the kernels need.

Statistics, tables, sums and coefficients of batch norms have the shapes that `hwnas.kernels.norms`
describes. The abstract methods are single kernels. The others are made of them, and a backend may
do their work at once instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hwnas.kernels.norms import MEAN, RSTD, SCALE, fill_table, gradients_of_terms
from hwnas.kernels.operands import (
    MixTerm,
    NormGradients,
    NormTerms,
    Pooled,
    PoolGradient,
    Pools,
    StageBackward,
    TableRows,
    Value,
)
from hwnas.kernels.plan import CellPlan, Convolution


class Backend(ABC):
    """The kernels. Every method returns new tensors that are finite wherever its inputs are."""

    @abstractmethod
    def width(self, channels: int) -> int:
        """The number of channels of an activation with padding, at least `channels`."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """An uninitialised tensor that a kernel fills."""
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    @abstractmethod
    def pools(self, x: Tensor, stride: int) -> Pools:
        """Maximum and mean over 3x3 windows; pixels outside the image count for neither."""

    def pool_values(self, x: Tensor, stride: int) -> Pools:
        """`pools` without statistics, for the backward pass, where only `reduce` reads them."""
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
            table: (R, 6, C), normalises the values before the ReLU; None if they are not
                normalised.
            convolutions: B convolutions with equal strides.
            parameters: the cell's parameters, which `Convolution.weights` index.

        Returns:
            Outputs (B, N, OH, OW, C) before normalisation, and their statistics (B, 2, C).
        """

    @abstractmethod
    def mix(self, terms: Sequence[MixTerm], weights: Tensor) -> Tensor:
        """sum_k w_k (scale_k (z_k - mean_k) + shift_k), (N, OH, OW, C)."""

    @abstractmethod
    def reduce(self, terms: Sequence[tuple[Tensor, Value, Tensor]]) -> Tensor:
        """Sums (R, 2, C) of R triples (g, z, table row of z)."""

    @abstractmethod
    def convolve_backward(
        self, values: Tensor, table: Tensor | None, stage: StageBackward, *, needs_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of `convolve`. Those of the weights are written to `stage.weight_gradients`.

        Args:
            values: (R, N, H, W, C), as given to `convolve`.
            table: (R, 6, C) or None, as given to `convolve`.
            stage: the convolutions and the gradients of their outputs.
            needs_input: whether the gradient of the values is needed.

        Returns:
            The gradient with respect to the values after the table and before the ReLU,
            (R, N, H, W, C), and with a table its sums (R, 2, C). None where not needed; undefined
            for values that no convolution reads.
        """

    @abstractmethod
    def pools_backward(
        self, x: Tensor, stride: int, edges: Sequence[PoolGradient], dx: Tensor
    ) -> None:
        """Add the gradients of pools and skip connections of all edges out of x to dx.

        The gradient of a maximum goes to the first of the largest pixels in row-major order.
        """

    def statistics(self, values: Sequence[Tensor]) -> Tensor:
        """Statistics (R, 2, C) of R tensors (N, H, W, C) that no kernel of the backend computed."""
        parts = [torch.var_mean(z.flatten(0, 2).float(), 0, correction=0) for z in values]
        return torch.stack([torch.stack((mean, variance)) for variance, mean in parts])

    def apply(
        self, terms: Sequence[tuple[Tensor, Tensor, Tensor]], coefficients: Tensor
    ) -> list[Tensor]:
        """dz_k = a_k g + b_k (z_k - mean_k) + d_k for triples (g, z, table row of z)."""
        return [
            (a * g + (b * (z - row[MEAN]) + d)).to(z.dtype)
            for (g, z, row), (a, b, d) in zip(terms, coefficients, strict=True)
        ]

    def source_backward(
        self,
        x: Tensor,
        stride: int,
        stage: StageBackward | None,
        edges: Sequence[PoolGradient],
        before: Tensor | None,
        *,
        needs_input: bool,
    ) -> Tensor | None:
        """`convolve_backward` of a state's first stages, and `pools_backward`.

        Args:
            x: the state, (N, H, W, C).
            stride: of all convolutions and pools.
            stage: the first-stage convolutions; None if there are none.
            edges: as for `pools_backward`.
            before: gradient of x from other groups of edges, which is added; None for zero.
            needs_input: whether the gradient of x is needed.

        Returns:
            The gradient of x, (N, H, W, C), a new tensor; None where not needed.
        """
        dx = None
        if stage is not None:
            d_values, _ = self.convolve_backward(
                x.unsqueeze(0), None, stage, needs_input=needs_input
            )
            dx = None if d_values is None else d_values[0]
        if not needs_input:
            return None
        if dx is None:
            dx = torch.zeros_like(x)
        if edges:
            self.pools_backward(x, stride, edges, dx)
        return dx if before is None else dx + before

    def pack(self, plan: CellPlan, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """The parameters, in a form that is prepared once for all calls of one evaluation."""
        return parameters

    def finish(  # noqa: B027 - a backend that delays nothing has nothing to do
        self, parameters: Sequence[Tensor], weight_gradients: Sequence[Tensor | None]
    ) -> None:
        """Write the weight gradients that calls with packed parameters have delayed."""

    def source_forward(
        self,
        x: Tensor,
        stride: int,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        needs_pools: bool,
        filled: TableRows | None = None,
    ) -> tuple[Pools | None, Tensor | None]:
        """`convolve` of a state's first stages, and `pools`, with their batch norms.

        Args:
            x: the state, (N, H, W, C).
            stride: of all convolutions and pools.
            convolutions: the B first-stage convolutions, possibly none.
            parameters: the cell's parameters, which `Convolution.weights` index.
            needs_pools: whether the pools are needed.
            filled: rows to fill from the statistics of the outputs, then of the maximum and the
                mean; None for none.

        Returns:
            The pools, None if not needed; outputs (B, N, OH, OW, C), None without convolutions.
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
        self._fill(torch.cat(found) if found else none, filled, parameters)
        return pools, outputs

    def stage_forward(
        self,
        values: Tensor,
        table: Tensor | None,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        filled: TableRows | None = None,
    ) -> Tensor:
        """Outputs of `convolve`, and rows that are filled from their statistics."""
        outputs, statistics = self.convolve(values, table, convolutions, parameters)
        self._fill(statistics, filled, parameters)
        return outputs

    def _fill(
        self, statistics: Tensor, filled: TableRows | None, parameters: Sequence[Tensor]
    ) -> None:
        if filled is not None:
            gammas = [None if n.gamma is None else parameters[n.gamma] for n in filled.norms]
            betas = [None if n.beta is None else parameters[n.beta] for n in filled.norms]
            self.normalise(statistics, gammas, betas, filled.out, filled.sources)

    def reduce_terms(
        self,
        terms: Sequence[tuple[Tensor, Value]],
        norms: NormTerms,
        parameters: Sequence[Tensor] = (),
    ) -> NormGradients:
        """`reduce` of pairs (g, z), and `normalise_backward` of their sums.

        Args:
            terms: R pairs.
            norms: of the terms.
            parameters: the cell's parameters, if the terms are those of a cell.
        """
        rows = norms.table.unbind()
        sums = self.reduce([(g, z, rows[r]) for (g, z), r in zip(terms, norms.rows, strict=True)])
        return self.normalise_backward(sums, norms)

    def stage_backward(
        self, values: Tensor, stage: StageBackward, norms: NormTerms
    ) -> tuple[Tensor, NormGradients]:
        """`convolve_backward` of a second stage, and `normalise_backward` of the first.

        Args:
            values: outputs of the first stage, (R, N, H, W, C).
            stage: the convolutions and the gradients of their outputs.
            norms: the values that the convolutions read, in ascending order.

        Returns:
            The gradient with respect to the values after the table, (R, N, H, W, C), and those of
            the norms.
        """
        table = norms.table[: len(values)]
        d_values, sums = self.convolve_backward(values, table, stage, needs_input=True)
        assert d_values is not None
        assert sums is not None
        return d_values, self.normalise_backward(sums, norms, norms.rows)

    def normalise(
        self,
        statistics: Tensor,
        gammas: Sequence[Tensor | None],
        betas: Sequence[Tensor | None],
        out: Tensor,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Fill the rows of a table from statistics.

        Args:
            statistics: of at least R tensors, (_, 2, C).
            gammas: scales of the norms, vectors of at most C elements; None for ones.
            betas: shifts of the norms, likewise; None for zeros.
            out: the rows of the table to fill, (R, 6, C).
            rows: for each row of `out` the row of the statistics to use; -1, which only the last
                may be, makes it the identity. None for the first R in order.
        """
        if rows is not None:
            known = [row for row in rows if row >= 0]
            identity = out[len(known) :]
            identity.zero_()
            for position in (SCALE, RSTD):
                identity[:, position].fill_(1.0)
            # An index that is a list would be copied to a GPU at every call.
            if known != list(range(len(known))):
                statistics = torch.stack([statistics[row] for row in known])
            out = out[: len(known)]
        if len(out):
            fill_table(statistics[: len(out)], gammas, betas, out)

    def normalise_backward(
        self, sums: Tensor, terms: NormTerms, sum_rows: Sequence[int] | None = None
    ) -> NormGradients:
        """Gradients of R normalised terms w_k y_k.

        Args:
            sums: of at least R terms, (_, 2, C).
            terms: their norms and weights.
            sum_rows: for each term its row of `sums`; None for 0 to R - 1.
        """
        sums = sums if sum_rows is None else sums[list(sum_rows)]
        table, weights = terms.table[list(terms.rows)], terms.weights
        if weights is not None and terms.positions is not None:
            weights = weights[list(terms.positions)]
        own = None if terms.batch is None else torch.tensor(terms.batch).to(table)
        coefficients, d_chosen, d_gamma, d_beta = gradients_of_terms(
            sums, table, weights, terms.pixels, own
        )
        if terms.d_weights is not None:
            positions = list(terms.positions or range(len(sums)))
            terms.d_weights[positions] = d_chosen.to(terms.d_weights.dtype)
            d_chosen = terms.d_weights
        return NormGradients(coefficients, d_chosen, d_gamma, d_beta)
