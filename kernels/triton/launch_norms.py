"""Launches of the weighted sums of batch-normalised values, and of their backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from hwnas.kernels.operands import MixTerm, NormGradients, NormTerms, Pooled, Value
from hwnas.kernels.triton import norms as kernels
from hwnas.kernels.triton.arguments import integers, places_of, terms_of
from hwnas.kernels.triton.launch import TritonLauncher
from hwnas.kernels.triton.layout import (
    REDUCE_WAVES,
    channel_block,
    divisors,
    elementwise_pixels,
    groups_of,
    reduce_tile,
)


class NormLauncher(TritonLauncher):
    """The kernels of `hwnas.kernels.triton.norms`."""

    def mix(self, terms: Sequence[MixTerm], weights: Tensor) -> Tensor:
        first = terms[0].value
        width, pixels = first.shape[-1], first.numel() // first.shape[-1]
        out = self.empty(first.shape, first.dtype, first.device)
        channels = channel_block(width)
        block = elementwise_pixels(pixels, channels, self.processors(first.device))
        self._launch(
            kernels.mix, (triton.cdiv(pixels, block), width // channels),
            tuple(t.value.contiguous() for t in terms), tuple(t.row.contiguous() for t in terms),
            integers(tuple(t.weight_index for t in terms), first.device), weights.contiguous(), out,
            pixels, WIDTH=width, C=channels, BLOCK=block, num_warps=4,
        )  # fmt: skip
        return out

    def reduce(self, terms: Sequence[tuple[Tensor, Value, Tensor]]) -> Tensor:
        table = torch.stack([row for _, _, row in terms])
        norms = NormTerms(table, range(len(terms)), 1)
        partials, _ = self._reduce([(g, z) for g, z, _ in terms], norms, None)
        return partials.sum(1)

    def reduce_terms(
        self,
        terms: Sequence[tuple[Tensor, Value]],
        norms: NormTerms,
        parameters: Sequence[Tensor] = (),
    ) -> NormGradients:
        _, gradients = self._reduce(terms, norms, parameters)
        assert gradients is not None
        return gradients

    def _reduce(
        self,
        terms: Sequence[tuple[Tensor, Value]],
        norms: NormTerms,
        parameters: Sequence[Tensor] | None,
    ) -> tuple[Tensor, NormGradients | None]:
        """Partial sums, and unless the parameters are None the gradients that follow from them."""
        gradients, values = zip(*terms, strict=True)
        pools = [value for value in values if isinstance(value, Pooled)]
        out_shape, device = gradients[0].shape, gradients[0].device
        width, pixels = out_shape[-1], gradients[0].numel() // out_shape[-1]
        channels = channel_block(width)
        processors = self.processors(device)
        tile = reduce_tile(pixels, channels, processors)
        columns = len(terms) * (width // channels)
        groups = groups_of(pixels, tile, REDUCE_WAVES, columns, processors)
        partials = self.empty((len(terms), groups, 2, width), torch.float32, device)
        read = tuple(v.x if isinstance(v, Pooled) else v for v in values)
        kinds = tuple(v.kind if isinstance(v, Pooled) else 0 for v in values)
        height, width_px = pools[0].x.shape[1:3] if pools else out_shape[1:3]
        found, counters = None, None
        if parameters is not None:
            found = self._norm_gradients(len(terms), norms.d_weights, norms.weights, partials)
            counters = self._counters(parameters, len(terms), device)
        weights = None if norms.weights is None else norms.weights.contiguous()
        self._launch(
            kernels.reduce, (len(terms), groups, width // channels),
            *places_of(gradients), *places_of(read), norms.table.contiguous(),
            terms_of(kinds, norms, device), partials, weights,
            *((None,) * 4 if found is None else found), counters, out_shape[0], height, width_px,
            *out_shape[1:3], divisors(out_shape[1], out_shape[2], device), POOLED=bool(pools),
            STRIDE=pools[0].stride if pools else 1, WIDTH=width, C=channels,
            BLOCK=tile.pixels, num_warps=tile.warps, maxnreg=tile.registers,
        )  # fmt: skip
        return partials, found

    def _norm_gradients(
        self, terms: int, d_weights: Tensor | None, weights: Tensor | None, like: Tensor
    ) -> NormGradients:
        """Memory for the gradients of norms."""
        width, device = like.shape[-1], like.device
        coefficients = self.empty((terms, 3, width), torch.float32, device)
        d_gamma, d_beta = (self.empty((terms, width), torch.float32, device) for _ in range(2))
        if d_weights is None:
            shape = (terms,) if weights is None else weights.shape
            d_weights = self.empty(shape, torch.float32, device)
        return NormGradients(coefficients, d_weights, d_gamma, d_beta)
