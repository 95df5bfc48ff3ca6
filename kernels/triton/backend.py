"""The backend in Triton: allocation of results, and launches of the kernels of convolutions.

Each of the G programs of a launch writes partial statistics (R, G, 4, C) or sums (R, G, 2, C). The
last one combines all of them in a fixed order, so results are bitwise repeatable for the same
shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hwnas.kernels.operands import (
    NormGradients,
    NormTerms,
    PoolGradient,
    Pools,
    StageBackward,
    TableRows,
)
from hwnas.kernels.plan import Convolution
from hwnas.kernels.triton.arguments import (
    NO_EDGES,
    EdgeGradients,
    Size,
    StageWork,
    rows_to_fill,
    stage_arguments,
)
from hwnas.kernels.triton.backward_inputs import stage_backward_inputs
from hwnas.kernels.triton.backward_outputs import stage_backward_outputs
from hwnas.kernels.triton.forward import stage_forward
from hwnas.kernels.triton.launch import interpreted
from hwnas.kernels.triton.launch_norms import NormLauncher
from hwnas.kernels.triton.layout import (
    FORWARD_WAVES,
    INPUT_WAVES,
    WEIGHT_WAVES,
    divisors,
    norm_width,
)
from hwnas.kernels.triton.packing import PackedParameters, WeightSums


class TritonBackend(NormLauncher):
    """The kernels in Triton, on an NVIDIA GPU or in Triton's interpreter.

    Args:
        precision: precision of float32 matrix products, `ieee` or `tf32`.

    Raises:
        ValueError: for another precision.
    """

    def width(self, channels: int) -> int:
        return norm_width(channels)

    def pools(self, x: Tensor, stride: int) -> Pools:
        pools, _ = self.source_forward(x, stride, (), (), True)
        assert pools is not None
        return pools._replace(statistics=self.statistics(pools[:2]))

    def convolve(
        self,
        values: Tensor,
        table: Tensor | None,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        outputs = self.stage_forward(values, table, convolutions, parameters)
        return outputs, self.statistics(outputs.unbind())

    def stage_forward(
        self,
        values: Tensor,
        table: Tensor | None,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        filled: TableRows | None = None,
    ) -> Tensor:
        _, outputs = self._forward(values, table, convolutions, parameters, None, filled)
        assert outputs is not None
        return outputs

    def source_forward(
        self,
        x: Tensor,
        stride: int,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        needs_pools: bool,
        filled: TableRows | None = None,
    ) -> tuple[Pools | None, Tensor | None]:
        if not convolutions and not needs_pools:
            return super().source_forward(x, stride, (), parameters, False, filled)
        pool_stride = stride if needs_pools else None
        return self._forward(x.unsqueeze(0), None, convolutions, parameters, pool_stride, filled)

    def _forward(
        self,
        values: Tensor,
        table: Tensor | None,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
        pool_stride: int | None,
        filled: TableRows | None,
    ) -> tuple[Pools | None, Tensor | None]:
        """The convolutions of a stage, and with a `pool_stride` the pools, in one launch."""
        values, device = values.contiguous(), values.device
        stride = convolutions[0].stride if pool_stride is None else pool_stride
        size = Size.of(values, stride)
        count = len(convolutions)
        outputs = pooled = None
        if count:
            outputs = self.empty((count, *size.output), values.dtype, device)
        if pool_stride is not None:
            pooled = self.empty((2, *size.output), values.dtype, device)
        norms = () if filled is None else filled.norms
        packed = self._packed(parameters, convolutions, size.width, norms)
        tables = self._tables(values, convolutions, packed)
        columns = count if pooled is None else count + 1
        groups = self._groups(size.pixels, size, "forward", FORWARD_WAVES, columns, device)
        rows = count if pooled is None else count + 2
        partials = self.empty((rows, groups, 4, size.width), torch.float32, device)
        filling: tuple[Any, ...] = (None, None, 0, None)
        if filled is not None:
            filling = (
                filled.out, rows_to_fill(filled, packed, device), len(filled.sources),
                self._counters(parameters, columns, device),
            )  # fmt: skip
        self._launch(
            stage_forward,
            (groups, columns),
            values, values if table is None else table, None if packed is None else packed.flat,
            None if tables is None else tables.convolutions, outputs,
            None if pooled is None else pooled[0], None if pooled is None else pooled[1],
            partials, *filling, *size.shape, size.output_divisors(device), values.stride(0),
            size.pixels * size.width, count, NORMALISED=table is not None,
            PIN=not interpreted(), **self._options(size, "forward", convolutions),
        )  # fmt: skip
        return None if pooled is None else Pools(pooled[0], pooled[1], None), outputs

    def convolve_backward(
        self, values: Tensor, table: Tensor | None, stage: StageBackward, *, needs_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        d_values, sums, _ = self._backward(values, table, stage, None, None, needs_input)
        return d_values, None if sums is None else sums.sum(1)

    def stage_backward(
        self, values: Tensor, stage: StageBackward, norms: NormTerms
    ) -> tuple[Tensor, NormGradients]:
        table = norms.table[: len(values)]
        d_values, _, found = self._backward(values, table, stage, None, None, True, norms=norms)
        assert d_values is not None
        assert found is not None
        return d_values, found

    def pools_backward(
        self, x: Tensor, stride: int, edges: Sequence[PoolGradient], dx: Tensor
    ) -> None:
        of_edges = EdgeGradients(edges, stride)
        self._backward(x.unsqueeze(0), None, None, of_edges, dx, True, in_place=True)

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
        of_edges = EdgeGradients(edges, stride) if edges and needs_input else None
        if stage is None and of_edges is None:
            return None
        before = None if before is None else before.contiguous()
        dx, _, _ = self._backward(x.unsqueeze(0), None, stage, of_edges, before, needs_input)
        return None if dx is None else dx[0]

    def _backward(
        self,
        values: Tensor,
        table: Tensor | None,
        stage: StageBackward | None,
        edges: EdgeGradients | None,
        before: Tensor | None,
        needs_input: bool,
        in_place: bool = False,
        norms: NormTerms | None = None,
    ) -> tuple[Tensor | None, Tensor | None, NormGradients | None]:
        """Both launches of a stage's backward pass.

        With `in_place` the gradient of the values is written to `before`.

        Returns:
            The gradient of the values and its partial sums, None where not needed; and the
            gradients of `norms`, of the values that are read.
        """
        values = values.contiguous()
        needs_weights = stage is not None and stage.needs_weights
        if not needs_input and not needs_weights:
            return None, None, None
        work = self._backward_outputs(values, table, stage, edges, needs_weights)
        d_values = before.unsqueeze(0) if in_place and before is not None else None
        if needs_input and d_values is None:
            d_values = self.empty(values.shape, values.dtype, values.device)
        sums, found = self._backward_inputs(values, table, work, edges, before, d_values, norms)
        if work.partials is not None:
            assert stage is not None
            assert work.tables is not None
            assert work.packed is not None
            weight_sums = WeightSums(
                work.partials, work.tables, tuple(stage.convolutions), work.packed.channels,
                work.packed.width,
            )  # fmt: skip
            if isinstance(stage.parameters, PackedParameters):
                stage.parameters.pending.append(weight_sums)
            else:
                self._write_weight_gradients(
                    [weight_sums], stage.parameters, stage.weight_gradients
                )
        return d_values, sums, found

    def _backward_outputs(
        self,
        values: Tensor,
        table: Tensor | None,
        stage: StageBackward | None,
        edges: EdgeGradients | None,
        needs_weights: bool,
    ) -> StageWork:
        """The first launch: dy or dz of the convolutions, and dz of the pools."""
        convolutions = () if stage is None else stage.convolutions
        stride = edges.stride if edges is not None else convolutions[0].stride
        size, count = Size.of(values, stride), len(convolutions)
        device, dtype = values.device, values.dtype
        parameters = () if stage is None else stage.parameters
        packed = self._packed(parameters, convolutions, size.width)
        tables = self._tables(values, convolutions, packed)
        work = StageWork(size, convolutions, parameters, tables, packed)
        if stage is not None:
            work.intermediate = self.empty((count, *size.output), dtype, device)
        if edges is not None and edges.has_pools:
            work.d_pools = self.empty((2, *size.output), dtype, device)
            work.winners = self.empty(size.output, torch.int8, device)
        columns = count + (work.winners is not None)
        if columns == 0:
            return work
        waves = WEIGHT_WAVES if needs_weights else FORWARD_WAVES
        groups = self._groups(size.pixels, size, "outputs", waves, columns, device)
        if needs_weights:
            assert tables is not None
            work.partials = self.empty((groups, tables.elements), torch.float32, device)
        d_maximum, d_mean = (None, None) if work.d_pools is None else work.d_pools
        self._launch(
            stage_backward_outputs, (groups, columns),
            values, values if table is None else table, work.flat, work.convolution_table,
            *stage_arguments(stage), work.intermediate,
            work.intermediate if work.partials is None else work.partials,
            *(NO_EDGES if edges is None else edges.arguments), d_maximum, d_mean, work.winners,
            *size.shape, size.output_divisors(device), values.stride(0),
            size.pixels * size.width, 0 if tables is None else tables.elements, count,
            NORMALISED=table is not None, NEEDS_WEIGHTS=needs_weights, PIN=not interpreted(),
            **self._options(size, "outputs", convolutions),
        )  # fmt: skip
        return work

    def _backward_inputs(
        self,
        values: Tensor,
        table: Tensor | None,
        work: StageWork,
        edges: EdgeGradients | None,
        before: Tensor | None,
        d_values: Tensor | None,
        norms: NormTerms | None,
    ) -> tuple[Tensor | None, NormGradients | None]:
        """The second launch: fills `d_values`, finishes `work.partials`.

        Returns:
            Partial sums of `d_values` and the gradients of `norms`; None where not needed.
        """
        size, tables, sums = work.size, work.tables, None
        pixels = size.shape[0] * size.shape[1] * size.shape[2]
        read = 1 if tables is None else len(tables.read_values)
        groups = self._groups(pixels, size, "inputs", INPUT_WAVES, read, values.device)
        programs = 0
        if d_values is not None:
            programs = groups * read
            if table is not None:
                shape = (len(values), groups, 2, size.width)
                sums = self.empty(shape, torch.float32, values.device)
        found: NormGradients | None = None
        differentiated: tuple[Any, ...] = (None, None, None, None, 1)
        if norms is not None and sums is not None:
            found = self._norm_gradients(read, None, None, sums)
            own = norms.batch is None or all(norms.batch)
            counters = self._counters(work.parameters, read, values.device)
            differentiated = found.coefficients, found.d_gamma, found.d_beta, counters, int(own)
        part_groups, parts = 1, None
        if work.partials is not None:
            assert tables is not None
            part_groups, parts = len(work.partials), tables.parts
        d_maximum, d_mean = (None, None) if work.d_pools is None else work.d_pools
        of_edges = NO_EDGES if edges is None else edges.arguments
        self._launch(
            stage_backward_inputs,
            (programs + (0 if parts is None else part_groups * len(parts)),),
            values, values if table is None else table, work.flat, work.convolution_table,
            *((None,) * 3 if tables is None else tables[1:4]), parts, work.intermediate, before,
            d_values, values if sums is None else sums, *differentiated, work.partials, d_maximum,
            d_mean, work.winners, *of_edges[:4], of_edges[6] + of_edges[7], of_edges[8],
            *size.shape, divisors(size.shape[1], size.shape[2], values.device),
            size.output_divisors(values.device), values.stride(0), size.pixels * size.width,
            0 if tables is None else tables.elements, programs, groups, part_groups,
            NORMALISED=table is not None,
            **self._options(size, "inputs", work.convolutions),
        )  # fmt: skip
        return sums, found
