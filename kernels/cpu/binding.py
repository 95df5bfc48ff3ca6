"""The compiled C++ kernels, and what they are called with: addresses, once they are checked."""

from __future__ import annotations

import ctypes
import importlib.machinery
import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from hwnas.kernels.cpu.openmp import load_with_openmp
from hwnas.kernels.cpu.structures import (
    KINDS,
    ConvolutionEntry,
    MixEntry,
    PoolGradientEntry,
    ReduceEntry,
    Shape,
    ValueEntry,
)
from hwnas.kernels.operands import MixTerm, Pooled, PoolGradient, StageBackward, Value
from hwnas.kernels.plan import Convolution

INSTRUCTIONS = ("avx512", "avx2", "portable")
LANES: dict[torch.dtype, dict[str, tuple[int, ...]]] = {
    torch.float32: {"avx512": (8, 16), "avx2": (8,), "portable": (4,)},
    torch.float64: {"avx2": (4,), "portable": (4,)},
}
"""Numbers of lanes that the kernels are compiled for, by type and instruction set."""

_P, _I = ctypes.c_void_p, ctypes.c_int
FUNCTIONS: dict[str, tuple[type, ...]] = {
    "convolve": (_P, _P, _P, _I, _P, _P, _P),
    "convolve_backward": (_P, _P, _P, _I, _P, _P, _P, _I, _P, _I, _I, _P, _P),
    "pool_statistics": (_P, _P, _I, _P),
    "mix": (_P, _I, _P, _P),
    "reduce": (_P, _I, _P, _P),
    "statistics": (_P, _I, _P, _P),
    "apply": (_P, _I, _P, _P, _P),
    "relu_pointwise": (_P, _P, _I, _P, _P),
    "relu_pointwise_backward": (_P, _P, _I, _P, _P, _P, _P),
    "run": (_P, _P, _P),
}
"""The exported functions and the types of their arguments, as `kernels.cpp` declares them.

Without types, an address that is a Python integer would be passed as 32 bits.
"""


class UnavailableError(RuntimeError):
    """The C++ kernels cannot be used on this machine; the message says why."""


@cache
def load_library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        UnavailableError: when the extension was not built or cannot be loaded.
    """
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_library{suffix}"
        if path.exists():
            break
    else:
        raise UnavailableError(
            "the C++ kernels were not built: reinstall hwnas with a C++17 compiler available"
        )
    try:
        library = load_with_openmp(path)
        library.hwnas_instructions.restype = ctypes.c_char_p
        found = set()
        for name, instructions in itertools.product(FUNCTIONS, INSTRUCTIONS):
            if function := getattr(library, f"hwnas_{name}_{instructions}", None):
                function.argtypes = FUNCTIONS[name]
                found.add(name)
    except (OSError, AttributeError) as error:
        raise UnavailableError(f"the C++ kernels cannot be loaded: {error}") from None
    missing = sorted(FUNCTIONS.keys() - found)
    if missing:
        raise UnavailableError(
            f"the C++ kernels were built from other sources, without {', '.join(missing)}: "
            "reinstall hwnas"
        )
    return library


def available_instructions(dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
    """Instruction sets that the kernels were built for and this processor has, fastest first.

    Args:
        dtype: of the activations.

    Raises:
        UnavailableError: when the kernels cannot be loaded.
    """
    library = load_library()
    best = library.hwnas_instructions().decode()
    usable = INSTRUCTIONS[INSTRUCTIONS.index(best) :]
    return tuple(
        name for name in usable if name in LANES[dtype] and hasattr(library, f"hwnas_mix_{name}")
    )


def vectors(tensor: Tensor | None, shape: Shape) -> int | None:
    """The address of data that the kernels access by vectors: activations, tables, coefficients.

    Args:
        tensor: the data; None for NULL.
        shape: of the call.

    Raises:
        ValueError: for a tensor that the kernels cannot access.
    """
    if tensor is None:
        return None
    address = tensor.data_ptr()
    if (
        address % shape.vector_bytes
        or tensor.dtype is not shape.dtype
        or not tensor.is_contiguous()
        or not tensor.is_cpu
    ):
        _refuse(tensor, shape.dtype, shape.vector_bytes)
    return address


def elements(tensor: Tensor | None, dtype: torch.dtype) -> int | None:
    """The address of data that the kernels access element by element: weights, statistics, sums.

    Args:
        tensor: the data; None for NULL.
        dtype: the type that the kernels take it for.

    Raises:
        ValueError: for a tensor that the kernels cannot access.
    """
    if tensor is None:
        return None
    address = tensor.data_ptr()
    if (
        address % dtype.itemsize
        or tensor.dtype is not dtype
        or not tensor.is_contiguous()
        or not tensor.is_cpu
    ):
        _refuse(tensor, dtype, dtype.itemsize)
    return address


def _refuse(tensor: Tensor, dtype: torch.dtype, alignment: int) -> NoReturn:
    """Raise a ValueError that says why the kernels cannot access a tensor."""
    if tensor.dtype != dtype or not tensor.is_cpu or not tensor.is_contiguous():
        layout = "contiguous" if tensor.is_contiguous() else "not contiguous"
        raise ValueError(
            f"the C++ kernels expect contiguous tensors of {dtype} on cpu, got {tensor.dtype} on "
            f"{tensor.device}, {layout}"
        )
    raise ValueError(
        f"the C++ kernels expect data at a multiple of {alignment} bytes, got an address "
        f"{tensor.data_ptr() % alignment} bytes after one: pass a copy of the tensor"
    )


def convolution_array(
    convolutions: Sequence[Convolution], parameters: Sequence[Tensor], dtype: torch.dtype
) -> ctypes.Array[ConvolutionEntry]:
    """What the forward pass of some convolutions reads."""
    array = (ConvolutionEntry * len(convolutions))()
    for entry, convolution in zip(array, convolutions, strict=True):
        entry.kind = KINDS[convolution.kind]
        entry.kernel = convolution.kernel
        entry.dilation = convolution.dilation
        entry.stride = convolution.stride
        entry.reads = convolution.reads or 0
        for field, position in zip(("first", "second"), convolution.weights, strict=False):
            setattr(entry, field, elements(parameters[position], dtype))
    return array


def backward_array(stage: StageBackward | None, shape: Shape) -> ctypes.Array[ConvolutionEntry]:
    """What the backward pass of a stage reads and writes; empty without a stage."""
    if stage is None:
        return (ConvolutionEntry * 0)()
    array = convolution_array(stage.convolutions, stage.parameters, shape.dtype)
    for i, (entry, convolution) in enumerate(zip(array, stage.convolutions, strict=True)):
        for field, position in zip(("first", "second"), convolution.weights, strict=False):
            gradient = elements(stage.weight_gradients[position], shape.dtype)
            setattr(entry, f"{field}_gradient", gradient)
        entry.gradient = vectors(stage.gradients[i], shape)
        entry.coefficients = vectors(stage.coefficients[i], shape)
        entry.row = vectors(stage.rows[i], shape)
    return array


def pool_gradient_array(
    edges: Sequence[PoolGradient], shape: Shape
) -> ctypes.Array[PoolGradientEntry]:
    """The gradients that pools and skip connections pass on to the state that they read."""
    array = (PoolGradientEntry * len(edges))()
    for entry, edge in zip(array, edges, strict=True):
        entry.gradient = vectors(edge.gradient, shape)
        entry.identity = vectors(edge.identity, shape)
        if edge.maximum is not None:
            entry.maximum, entry.maximum_row = (vectors(t, shape) for t in edge.maximum)
        if edge.mean is not None:
            entry.mean, entry.mean_row = (vectors(t, shape) for t in edge.mean)
    return array


def mix_array(
    terms: Sequence[MixTerm], weights: Sequence[float], shape: Shape
) -> ctypes.Array[MixEntry]:
    """The terms of a weighted sum; `MixTerm.weight_index` indexes the weights."""
    array = (MixEntry * len(terms))()
    for entry, term in zip(array, terms, strict=True):
        _set_value(entry.value, term.value, shape)
        entry.row = vectors(term.row, shape)
        entry.weight = weights[term.weight_index]
    return array


def reduce_array(
    terms: Sequence[tuple[Tensor, Value, Tensor]], shape: Shape
) -> ctypes.Array[ReduceEntry]:
    """Terms given as triples of gradient, value and table row."""
    array = (ReduceEntry * len(terms))()
    for entry, (gradient, value, row) in zip(array, terms, strict=True):
        entry.gradient = vectors(gradient, shape)
        _set_value(entry.value, value, shape)
        entry.row = vectors(row, shape)
    return array


def _set_value(entry: ValueEntry, value: Value, shape: Shape) -> None:
    """Fill in where a term's value is stored, or which tensor it is a pool of."""
    if isinstance(value, Pooled):
        entry.data = vectors(value.x, shape)
        entry.height, entry.width_px = value.x.shape[1:3]
        entry.kind, entry.stride = value.kind, value.stride
    else:
        entry.data = vectors(value, shape)
