"""The backend in C++: allocation of results, and calls of the compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hwnas.kernels.backend import Backend
from hwnas.kernels.cpu.binding import (
    LANES,
    UnavailableError,
    available_instructions,
    backward_array,
    convolution_array,
    elements,
    load_library,
    mix_array,
    pool_gradient_array,
    reduce_array,
    vectors,
)
from hwnas.kernels.cpu.memory import MEMORY
from hwnas.kernels.cpu.structures import Shape
from hwnas.kernels.operands import (
    MixTerm,
    Pooled,
    PoolGradient,
    Pools,
    StageBackward,
    Value,
)
from hwnas.kernels.plan import Convolution


class CpuBackend(Backend):
    """The kernels in C++, for float32 and float64 on CPUs.

    Results are bitwise repeatable for a fixed number of threads. The number of threads only changes
    the order in which the gradients of weights, and statistics of fewer images than threads, are
    added up.

    Args:
        dtype: type of all activations and tables.
        instructions: one of `available_instructions(dtype)`; None for the fastest.

    Raises:
        UnavailableError: when the kernels cannot be loaded, or the instruction set is not available
            for this type.
    """

    def __init__(self, dtype: torch.dtype, instructions: str | None = None) -> None:
        usable = available_instructions(dtype)
        self.instructions = instructions or usable[0]
        if self.instructions not in usable:
            raise UnavailableError(
                f"instruction set {self.instructions!r} is not one of {', '.join(usable)}"
            )
        self.dtype = dtype

    def lanes(self, channels: int) -> int:
        """Lanes of a vector: the fewest that hold all channels, else the most there are."""
        lanes = LANES[self.dtype][self.instructions]
        return next((n for n in lanes if n >= channels), lanes[-1])

    def width(self, channels: int) -> int:
        lanes = self.lanes(channels)
        return -(-channels // lanes) * lanes

    def pools(self, x: Tensor, stride: int) -> Pools:
        statistics = self._doubles(2, x.shape[-1])
        shape = self._shape(x, stride)
        self._call("pool_statistics", shape, vectors(x, shape), stride, _doubles_at(statistics))
        return self.pool_values(x, stride)._replace(statistics=statistics)

    def convolve(
        self,
        values: Tensor,
        table: Tensor | None,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        channels = _channels(convolutions[0], parameters)
        shape = self._shape(values[0], convolutions[0].stride, channels)
        outputs = self._outputs(len(convolutions), shape)
        statistics = self._doubles(len(convolutions), values.shape[-1])
        array = convolution_array(convolutions, parameters, self.dtype)
        self._call(
            "convolve", shape, vectors(values, shape), vectors(table, shape), len(array), array,
            vectors(outputs, shape), _doubles_at(statistics),
        )  # fmt: skip
        return outputs, statistics

    def convolve_backward(
        self, values: Tensor, table: Tensor | None, stage: StageBackward, *, needs_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        stride = stage.convolutions[0].stride
        shape = self._shape(values[0], stride, _channels(stage.convolutions[0], stage.parameters))
        array = backward_array(stage, shape)
        d_values = MEMORY.empty(values.shape, self.dtype) if needs_input else None
        sums = None
        if table is not None:
            sums = self._doubles(len(values), values.shape[-1])
        self._call(
            "convolve_backward", shape, vectors(values, shape), vectors(table, shape), len(array),
            array, vectors(stage.outputs, shape), vectors(d_values, shape), len(values),
            _doubles_at(sums), stride, 0, None, None,
        )  # fmt: skip
        return d_values, sums

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
        channels, outputs = None, None
        if stage is not None:
            channels, outputs = _channels(stage.convolutions[0], stage.parameters), stage.outputs
        shape = self._shape(x, stride, channels)
        array, of_edges = backward_array(stage, shape), pool_gradient_array(edges, shape)
        dx = MEMORY.empty(x.shape, self.dtype) if needs_input else None
        self._call(
            "convolve_backward", shape, vectors(x, shape), None, len(array), array,
            vectors(outputs, shape), vectors(dx, shape), 1, None, stride, len(of_edges), of_edges,
            vectors(before, shape),
        )  # fmt: skip
        return dx

    def pools_backward(
        self, x: Tensor, stride: int, edges: Sequence[PoolGradient], dx: Tensor
    ) -> None:
        total = self.source_backward(x, stride, None, edges, dx, needs_input=True)
        assert total is not None
        dx.copy_(total)

    def mix(self, terms: Sequence[MixTerm], weights: Tensor) -> Tensor:
        value = terms[0].value
        shape = (
            self._shape(value.x, value.stride)
            if isinstance(value, Pooled)
            else self._shape(value, 1)
        )
        array = mix_array(terms, weights.tolist(), shape)
        outputs = self._outputs(1, shape)[0]
        self._call("mix", shape, len(array), array, vectors(outputs, shape))
        return outputs

    def statistics(self, values: Sequence[Tensor]) -> Tensor:
        shape = self._shape(values[0], 1)
        pointers = (ctypes.c_void_p * len(values))(*(vectors(z, shape) for z in values))
        out = self._doubles(len(values), shape.width)
        self._call("statistics", shape, len(values), pointers, _doubles_at(out))
        return out

    def apply(
        self, terms: Sequence[tuple[Tensor, Tensor, Tensor]], coefficients: Tensor
    ) -> list[Tensor]:
        shape = self._shape(terms[0][0], 1)
        outputs = self._outputs(len(terms), shape)
        array = reduce_array(terms, shape)
        self._call(
            "apply", shape, len(array), array, vectors(coefficients, shape),
            vectors(outputs, shape),
        )  # fmt: skip
        return list(outputs.unbind())

    def reduce(self, terms: Sequence[tuple[Tensor, Value, Tensor]]) -> Tensor:
        shape = self._shape(terms[0][0], 1)
        array = reduce_array(terms, shape)
        sums = self._doubles(len(terms), shape.width)
        self._call("reduce", shape, len(array), array, _doubles_at(sums))
        return sums

    def common_lanes(self, *channels: int) -> int | None:
        """The most lanes of a vector that divide all these numbers of channels, None if none do."""
        lanes = reversed(LANES[self.dtype][self.instructions])
        return next((n for n in lanes if all(c % n == 0 for c in channels)), None)

    def relu_pointwise(self, x: Tensor, weight: Tensor) -> Tensor:
        """`conv2d(relu(x), weight)`.

        Args:
            x: (N, H, W, C), where the vectors of `common_lanes(C, O)` exist.
            weight: (O, C, 1, 1).

        Returns:
            (N, H, W, O).
        """
        shape = self._shape_between(x, weight)
        z = MEMORY.empty((*x.shape[:3], len(weight)), self.dtype)
        self._call(
            "relu_pointwise", shape, vectors(x, shape), len(weight), elements(weight, self.dtype),
            vectors(z, shape),
        )  # fmt: skip
        return z

    def relu_pointwise_backward(
        self, x: Tensor, weight: Tensor, gradient: Tensor, needed: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of x and of the weight, as far as they are needed; else None.

        Args:
            x: as for `relu_pointwise`, and so is `weight`.
            weight: (O, C, 1, 1).
            gradient: of the result, (N, H, W, O).
            needed: whether the gradient of x and that of the weight are needed.
        """
        shape = self._shape_between(x, weight)
        dx = MEMORY.empty(x.shape, self.dtype) if needed[0] else None
        dw = weight.new_empty(weight.shape) if needed[1] else None
        self._call(
            "relu_pointwise_backward", shape, vectors(x, shape), len(weight),
            elements(weight, self.dtype), vectors(gradient, shape), vectors(dx, shape),
            elements(dw, self.dtype),
        )  # fmt: skip
        return dx, dw

    def _shape_between(self, x: Tensor, weight: Tensor) -> Shape:
        """Sizes of a pointwise convolution from the channels of x to others."""
        lanes = self.common_lanes(x.shape[-1], len(weight))
        assert lanes is not None
        return self._shape(x, 1, lanes=lanes)

    def _shape(
        self, x: Tensor, stride: int, channels: int | None = None, lanes: int | None = None
    ) -> Shape:
        """Sizes of a call that reads x, (N, H, W, C)."""
        images, height, width_px, width = x.shape
        channels = width if channels is None else channels
        return Shape(
            images=images,
            height=height,
            width_px=width_px,
            out_height=-(-height // stride),
            out_width=-(-width_px // stride),
            channels=channels,
            width=width,
            lanes=self.lanes(width) if lanes is None else lanes,
            is_double=self.dtype == torch.float64,
            threads=torch.get_num_threads(),
        )

    def _outputs(self, count: int, shape: Shape) -> Tensor:
        sizes = (count, shape.images, shape.out_height, shape.out_width, shape.width)
        return MEMORY.empty(sizes, self.dtype)

    def _doubles(self, rows: int, width: int) -> Tensor:
        """Memory for statistics or sums, (rows, 2, width)."""
        return torch.empty(rows, 2, width, dtype=torch.float64, device="cpu")

    def _call(self, name: str, shape: Shape, *arguments: Any) -> None:
        """Run a kernel.

        Raises:
            MemoryError: when the kernel could not allocate memory.
            RuntimeError: when the kernel was not compiled for the number of lanes.
        """
        function: Callable[..., int] = getattr(load_library(), f"hwnas_{name}_{self.instructions}")
        status = function(ctypes.byref(shape), *arguments)
        if status == 1:
            raise MemoryError(f"kernel {name}: out of memory")
        if status:
            raise RuntimeError(f"kernel {name}: not compiled for {shape.lanes} lanes")


def _doubles_at(tensor: Tensor | None) -> int | None:
    """The address of statistics or sums."""
    return elements(tensor, torch.float64)


def _channels(convolution: Convolution, parameters: Sequence[Tensor]) -> int:
    """Channels without those that pad the layout: the input channels of the last weight."""
    return parameters[convolution.weights[-1]].shape[1]
