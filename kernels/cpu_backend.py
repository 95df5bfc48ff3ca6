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

from hwnas.kernels.backend import Backend, MixTerm, PoolGradient, Pools
from hwnas.kernels.plan import Convolution

INSTRUCTIONS = ("avx512", "avx2", "portable")
LANES = {
    torch.float32: {"avx512": (8, 16), "avx2": (8,), "portable": (4,)},
    torch.float64: {"avx2": (4,), "portable": (4,)},
}
"""Lanes of a vector that the kernels were compiled for."""
ALIGNMENT = 64
KINDS = {"separable": 0, "dense": 1, "factorized": 2}


class _Shape(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int64) for n in ("images", "height", "width_px", "out_height")),
        *((n, ctypes.c_int64) for n in ("out_width", "channels", "width")),
        *((n, ctypes.c_int32) for n in ("lanes", "is_double", "threads", "reserved")),
    ]


class _Convolution(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int32) for n in ("kind", "kernel", "dilation", "stride", "reads", "pad")),
        *((n, ctypes.c_void_p) for n in ("first", "second", "first_gradient", "second_gradient")),
        *((n, ctypes.c_void_p) for n in ("gradient", "coefficients", "row")),
    ]


class _MixTerm(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("row", ctypes.c_void_p), ("weight", ctypes.c_double)]


class _ReduceTerm(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("gradient", "value", "row")]


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
        path = folder / f"_cpu{suffix}"
        if path.exists():
            break
    else:
        raise UnavailableError(
            "the C++ kernels were not built: install again with a C++17 compiler"
        )
    for runtime in (Path(torch.__file__).parent / "lib").glob("lib*omp*.so*"):
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    try:
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
        shape = self._shape(x, stride)
        outputs = self._outputs(2, shape)
        statistics = torch.empty(2, 2, x.shape[-1], dtype=torch.float64)
        self._call("pools", shape, _pointer(x), stride, _pointer(outputs), _pointer(statistics))
        return Pools(outputs[0], outputs[1], statistics)

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
            _describe(entry, convolution, parameters)
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
        channels = _channels(convolutions[0], parameters)
        shape = self._shape(values[0], convolutions[0].stride, channels)
        array = (_Convolution * len(convolutions))()
        for i, (entry, convolution) in enumerate(zip(array, convolutions, strict=True)):
            _describe(entry, convolution, parameters, weight_gradients)
            entry.gradient = _pointer(gradients[i])
            entry.coefficients = _pointer(coefficients[i])
            entry.row = _pointer(rows[i])
        d_values = torch.zeros_like(values) if needs_input and table is not None else None
        if needs_input and table is None:
            d_values = torch.empty_like(values)
        sums = None
        if table is not None:
            sums = torch.empty(len(values), 2, values.shape[-1], dtype=torch.float64)
        self._call(
            "convolve_backward", shape, _pointer(values), _pointer(table), len(array), array,
            _pointer(outputs), _pointer(d_values), len(values), _pointer(sums),
        )  # fmt: skip
        return d_values, sums

    def mix(self, terms: Sequence[MixTerm], weights: Tensor) -> Tensor:
        values = weights.tolist()
        array = (_MixTerm * len(terms))()
        for entry, term in zip(array, terms, strict=True):
            entry.value = _pointer(term.value)
            entry.row = _pointer(term.row)
            entry.weight = values[term.index]
        shape = self._shape(terms[0].value, 1)
        outputs = self._outputs(1, shape)[0]
        self._call("mix", shape, len(array), array, _pointer(outputs))
        return outputs

    def reduce(self, terms: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        array = (_ReduceTerm * len(terms))()
        for entry, (gradient, value, row) in zip(array, terms, strict=True):
            entry.gradient = _pointer(gradient)
            entry.value = _pointer(value)
            entry.row = _pointer(row)
        shape = self._shape(terms[0][0], 1)
        sums = torch.empty(len(terms), 2, shape.width, dtype=torch.float64)
        self._call("reduce", shape, len(array), array, _pointer(sums))
        return sums

    def pools_backward(
        self, x: Tensor, stride: int, edges: Sequence[PoolGradient], dx: Tensor
    ) -> None:
        array = (_PoolGradient * len(edges))()
        for entry, edge in zip(array, edges, strict=True):
            entry.gradient = _pointer(edge.gradient)
            entry.identity = _pointer(edge.identity)
            if edge.maximum is not None:
                entry.maximum, entry.maximum_row = (_pointer(t) for t in edge.maximum)
            if edge.mean is not None:
                entry.mean, entry.mean_row = (_pointer(t) for t in edge.mean)
        shape = self._shape(x, stride)
        self._call("pools_backward", shape, _pointer(x), stride, len(array), array, _pointer(dx))

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
        return torch.empty(sizes, dtype=self.dtype)

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
    gradients: Sequence[Tensor | None] | None = None,
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
