"""The backend in C++ (`kernels/cpu/`): binding and choice of the processor's instruction set."""

from __future__ import annotations

import ctypes
import importlib.machinery
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwnas.kernels.backend import (
    Backend,
    MixTerm,
    Pooled,
    PoolGradient,
    Pools,
    Value,
)
from hwnas.kernels.cpu.memory import MEMORY
from hwnas.kernels.plan import Convolution

INSTRUCTIONS = ("avx512", "avx2", "portable")
LANES: dict[torch.dtype, dict[str, tuple[int, ...]]] = {
    torch.float32: {"avx512": (8, 16), "avx2": (8,), "portable": (4,)},
    torch.float64: {"avx2": (4,), "portable": (4,)},
}
"""Lanes of a vector that the kernels were compiled for."""
KINDS = {"separable": 0, "dense": 1, "factorized": 2}


class _Shape(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int64) for n in ("images", "height", "width_px", "out_height")),
        *((n, ctypes.c_int64) for n in ("out_width", "channels", "width")),
        *((n, ctypes.c_int32) for n in ("lanes", "is_double", "threads", "reserved")),
    ]


class _Convolution(ctypes.Structure):
    _fields_ = [
        *(
            (n, ctypes.c_int32)
            for n in ("kind", "kernel", "dilation", "stride", "reads", "reserved")
        ),
        *((n, ctypes.c_void_p) for n in ("first", "second", "first_gradient", "second_gradient")),
        *((n, ctypes.c_void_p) for n in ("gradient", "coefficients", "row")),
    ]


class _Value(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((n, ctypes.c_int64) for n in ("height", "width_px")),
        *((n, ctypes.c_int32) for n in ("kind", "stride")),
    ]


class _MixTerm(ctypes.Structure):
    _fields_ = [("value", _Value), ("row", ctypes.c_void_p), ("weight", ctypes.c_double)]


class _ReduceTerm(ctypes.Structure):
    _fields_ = [("value", _Value), ("gradient", ctypes.c_void_p), ("row", ctypes.c_void_p)]


class _PoolGradient(ctypes.Structure):
    _fields_ = [
        (n, ctypes.c_void_p)
        for n in ("gradient", "maximum", "maximum_row", "mean", "mean_row", "identity")
    ]


class UnavailableError(RuntimeError):
    """The backend can't be used here; the message says why."""


@cache
def _library() -> ctypes.CDLL:
    """The compiled kernels.

    They use the OpenMP runtime that PyTorch brought along, so that there is one pool of threads.

    Raises:
        UnavailableError: when the extension was not built or can't be loaded.
    """
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_library{suffix}"
        if path.exists():
            break
    else:
        raise UnavailableError(
            "the C++ kernels were not built: install again with a C++17 compiler"
        )
    try:
        for runtime in (Path(torch.__file__).parent / "lib").glob("lib*omp*.so*"):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(path))
        library.hwnas_instructions.restype = ctypes.c_char_p
        return library
    except (OSError, AttributeError) as error:
        raise UnavailableError(f"the C++ kernels can't be loaded: {error}") from None


def available_instructions(dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
    """Instruction sets that the kernels were built for and this processor has, best first.

    Args:
        dtype: of the activations.

    Raises:
        UnavailableError: when the kernels can't be loaded.
    """
    library = _library()
    best = library.hwnas_instructions().decode()
    usable = INSTRUCTIONS[INSTRUCTIONS.index(best) :]
    return tuple(
        name for name in usable if name in LANES[dtype] and hasattr(library, f"hwnas_mix_{name}")
    )


class CpuBackend(Backend):
    """The kernels in C++, for float32 and float64 on CPUs.

    Results depend on the number of threads only through the order in which gradients of weights
    are added; for a fixed number they are bitwise repeatable.

    Args:
        dtype: of all activations and tables.
        instructions: one of `available_instructions()`, None for the best.

    Raises:
        UnavailableError: when the kernels can't be loaded, or not for these instructions.
    """

    def __init__(self, dtype: torch.dtype, instructions: str | None = None) -> None:
        usable = available_instructions(dtype)
        self.instructions = instructions or usable[0]
        if self.instructions not in usable:
            raise UnavailableError(f"{self.instructions}: not one of {', '.join(usable)}")
        self.dtype = dtype

    def lanes(self, channels: int) -> int:
        """Channels that one vector holds: the fewest that leave none over, or the most."""
        lanes = LANES[self.dtype][self.instructions]
        return next((n for n in lanes if n >= channels), lanes[-1])

    def width(self, channels: int) -> int:
        lanes = self.lanes(channels)
        return -(-channels // lanes) * lanes

    def pools(self, x: Tensor, stride: int) -> Pools:
        statistics = torch.empty(2, 2, x.shape[-1], dtype=torch.float64)
        shape = self._shape(x, stride)
        self._call("pool_statistics", shape, _pointer(x), stride, _pointer(statistics))
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
        statistics = torch.empty(len(convolutions), 2, values.shape[-1], dtype=torch.float64)
        array = (_Convolution * len(convolutions))()
        for entry, convolution in zip(array, convolutions, strict=True):
            _describe(entry, convolution, parameters, None)
        self._call(
            "convolve", shape, _pointer(values), _pointer(table), len(array), array,
            _pointer(outputs), _pointer(statistics),
        )  # fmt: skip
        return outputs, statistics

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
        array = _described(
            convolutions, parameters, gradients, coefficients, rows, weight_gradients
        )
        channels = _channels(convolutions[0], parameters)
        shape = self._shape(values[0], convolutions[0].stride, channels)
        d_values = MEMORY.empty(values.shape, self.dtype) if needs_input else None
        sums = None
        if table is not None:
            sums = torch.empty(len(values), 2, values.shape[-1], dtype=torch.float64)
        self._call(
            "convolve_backward", shape, _pointer(values), _pointer(table), len(array), array,
            _pointer(outputs), _pointer(d_values), len(values), _pointer(sums),
            convolutions[0].stride, 0, None, None,
        )  # fmt: skip
        return d_values, sums

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
        array = _described(
            convolutions, parameters, gradients, coefficients, rows, weight_gradients
        )
        handed = (_PoolGradient * len(edges))()
        for entry, edge in zip(handed, edges, strict=True):
            entry.gradient = _pointer(edge.gradient)
            entry.identity = _pointer(edge.identity)
            if edge.maximum is not None:
                entry.maximum, entry.maximum_row = (_pointer(t) for t in edge.maximum)
            if edge.mean is not None:
                entry.mean, entry.mean_row = (_pointer(t) for t in edge.mean)
        channels = _channels(convolutions[0], parameters) if convolutions else None
        dx = MEMORY.empty(x.shape, self.dtype) if needs_input else None
        self._call(
            "convolve_backward", self._shape(x, stride, channels), _pointer(x), None, len(array),
            array, _pointer(outputs), _pointer(dx), 1, None, stride, len(edges), handed,
            _pointer(before),
        )  # fmt: skip
        return dx

    def pools_backward(
        self, x: Tensor, stride: int, edges: Sequence[PoolGradient], dx: Tensor
    ) -> None:
        handed = self.source_backward(x, stride, (), (), None, (), (), (), (), edges, dx, True)
        assert handed is not None
        dx.copy_(handed)

    def mix(self, terms: Sequence[MixTerm], weights: Tensor) -> Tensor:
        values = weights.tolist()
        array = (_MixTerm * len(terms))()
        for entry, term in zip(array, terms, strict=True):
            _read(entry.value, term.value)
            entry.row = _pointer(term.row)
            entry.weight = values[term.weight_index]
        value = terms[0].value
        shape = (
            self._shape(value.x, value.stride)
            if isinstance(value, Pooled)
            else self._shape(value, 1)
        )
        outputs = self._outputs(1, shape)[0]
        self._call("mix", shape, len(array), array, _pointer(outputs))
        return outputs

    def statistics(self, values: Sequence[Tensor]) -> Tensor:
        pointers = (ctypes.c_void_p * len(values))(*(z.data_ptr() for z in values))
        shape = self._shape(values[0], 1)
        out = torch.empty(len(values), 2, shape.width, dtype=torch.float64)
        self._call("statistics", shape, len(values), pointers, _pointer(out))
        return out

    def apply(
        self, terms: Sequence[tuple[Tensor, Tensor, Tensor]], coefficients: Tensor
    ) -> list[Tensor]:
        shape = self._shape(terms[0][0], 1)
        outputs = self._outputs(len(terms), shape)
        array = _reduce_terms(terms)
        self._call("apply", shape, len(array), array, _pointer(coefficients), _pointer(outputs))
        return list(outputs.unbind())

    def reduce(self, terms: Sequence[tuple[Tensor, Value, Tensor]]) -> Tensor:
        array = _reduce_terms(terms)
        shape = self._shape(terms[0][0], 1)
        sums = torch.empty(len(terms), 2, shape.width, dtype=torch.float64)
        self._call("reduce", shape, len(array), array, _pointer(sums))
        return sums

    def _shape(self, x: Tensor, stride: int, channels: int | None = None) -> _Shape:
        """Sizes of a call that reads (N, H, W, C)."""
        images, height, width_px, width = x.shape
        channels = width if channels is None else channels
        return _Shape(
            images=images,
            height=height,
            width_px=width_px,
            out_height=-(-height // stride),
            out_width=-(-width_px // stride),
            channels=channels,
            width=width,
            lanes=self.lanes(width),
            is_double=self.dtype == torch.float64,
            threads=torch.get_num_threads(),
        )

    def _outputs(self, count: int, shape: _Shape) -> Tensor:
        sizes = (count, shape.images, shape.out_height, shape.out_width, shape.width)
        return MEMORY.empty(sizes, self.dtype)

    def _call(self, name: str, shape: _Shape, *arguments: Any) -> None:
        """Run a kernel.

        Raises:
            MemoryError: when it found no memory.
        """
        function: Callable[..., int] = getattr(_library(), f"hwnas_{name}_{self.instructions}")
        status = function(ctypes.byref(shape), *arguments)
        if status == 1:
            raise MemoryError(f"kernel {name}: no memory")
        if status:
            raise RuntimeError(f"kernel {name}: not compiled for {shape.lanes} lanes")


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "kernels read contiguous tensors"
    return ctypes.c_void_p(tensor.data_ptr())


def _channels(convolution: Convolution, parameters: Sequence[Tensor]) -> int:
    """Channels without those that pad the layout: the input channels of the last weight."""
    return parameters[convolution.weights[-1]].shape[1]


def _describe(
    entry: _Convolution,
    convolution: Convolution,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None] | None,
) -> None:
    entry.kind = KINDS[convolution.kind]
    entry.kernel = convolution.kernel
    entry.dilation = convolution.dilation
    entry.stride = convolution.stride
    entry.reads = convolution.reads or 0
    for field, position in zip(("first", "second"), convolution.weights, strict=False):
        setattr(entry, field, _pointer(parameters[position]))
        if gradients is not None:
            setattr(entry, f"{field}_gradient", _pointer(gradients[position]))


def _described(
    convolutions: Sequence[Convolution],
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    coefficients: Sequence[Tensor],
    rows: Sequence[Tensor],
    weight_gradients: Sequence[Tensor | None],
) -> ctypes.Array[_Convolution]:
    """Everything that the backward pass of some convolutions reads and writes."""
    array = (_Convolution * len(convolutions))()
    for i, (entry, convolution) in enumerate(zip(array, convolutions, strict=True)):
        _describe(entry, convolution, parameters, weight_gradients)
        entry.gradient = _pointer(gradients[i])
        entry.coefficients = _pointer(coefficients[i])
        entry.row = _pointer(rows[i])
    return array


def _reduce_terms(terms: Sequence[tuple[Tensor, Value, Tensor]]) -> ctypes.Array[_ReduceTerm]:
    """Triples of gradient, value and table row."""
    array = (_ReduceTerm * len(terms))()
    for entry, (gradient, value, row) in zip(array, terms, strict=True):
        entry.gradient = _pointer(gradient)
        _read(entry.value, value)
        entry.row = _pointer(row)
    return array


def _read(entry: _Value, value: Value) -> None:
    """Tell a kernel where a term's value is, or how to form it."""
    if isinstance(value, Pooled):
        entry.data = _pointer(value.x)
        entry.height, entry.width_px = value.x.shape[1:3]
        entry.kind, entry.stride = value.kind, value.stride
    else:
        entry.data = _pointer(value)
