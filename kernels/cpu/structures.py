"""The structures of `src/interface.h`, which describes their fields, for calls by `ctypes`."""

from __future__ import annotations

import ctypes

import torch

KINDS = {"separable": 0, "dense": 1, "factorized": 2}
"""Kinds of convolutions, by the names of `hwnas.kernels.plan.Convolution`."""

TENSOR, MAXIMUM, MEAN_OF_WINDOW, SHORT_TENSOR = range(4)
"""Kinds of values."""

STEPS = (
    "convolve", "convolve_backward", "pool_statistics", "mix", "reduce", "normalise",
    "normalise_backward", "read_in", "write_out", "clear",
)  # fmt: skip
"""Kinds of steps, in the order of their numbers."""


class Shape(ctypes.Structure):
    """Sizes of a call.

    Attributes:
        dtype: the type of activations, tables, coefficients and weights.
        vector_bytes: bytes of a vector, of which the addresses of vectors are multiples.
    """

    _fields_ = [
        *((n, ctypes.c_int64) for n in ("images", "height", "width_px", "out_height")),
        *((n, ctypes.c_int64) for n in ("out_width", "channels", "width")),
        *((n, ctypes.c_int32) for n in ("lanes", "is_double", "threads", "short_stages")),
    ]

    def __init__(self, **fields: int) -> None:
        super().__init__(**fields)
        self.dtype = torch.float64 if self.is_double else torch.float32
        self.vector_bytes = int(self.lanes) * self.dtype.itemsize


class ConvolutionEntry(ctypes.Structure):
    """A convolution of a stage, forward and backward."""

    _fields_ = [
        *(
            (n, ctypes.c_int32)
            for n in ("kind", "kernel", "dilation", "stride", "reads", "reserved")
        ),
        *((n, ctypes.c_void_p) for n in ("first", "second", "first_gradient", "second_gradient")),
        *((n, ctypes.c_void_p) for n in ("gradient", "coefficients", "row")),
    ]


class ValueEntry(ctypes.Structure):
    """Where a term's value is stored, or which tensor it is a pool of."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((n, ctypes.c_int64) for n in ("height", "width_px")),
        *((n, ctypes.c_int32) for n in ("kind", "stride")),
    ]


class MixEntry(ctypes.Structure):
    """A term of a weighted sum."""

    _fields_ = [
        ("value", ValueEntry),
        ("row", ctypes.c_void_p),
        ("weight", ctypes.c_double),
        ("position", ctypes.c_int64),
    ]


class ReduceEntry(ctypes.Structure):
    """A term whose sums are computed."""

    _fields_ = [("value", ValueEntry), ("gradient", ctypes.c_void_p), ("row", ctypes.c_void_p)]


class PoolGradientEntry(ctypes.Structure):
    """What pools and the skip connection of an edge pass on to the state that they read."""

    _fields_ = [
        (n, ctypes.c_void_p)
        for n in ("gradient", "maximum", "maximum_row", "mean", "mean_row", "identity")
    ]


class NormEntry(ctypes.Structure):
    """A batch norm whose table row is computed."""

    _fields_ = [
        (n, ctypes.c_void_p) for n in ("row", "statistics", "gamma", "beta", "mean", "variance")
    ]


class NormGradientEntry(ctypes.Structure):
    """A term whose gradients are computed from its sums."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("row", "sums", "coefficients", "d_gamma", "d_beta")),
        *((n, ctypes.c_int64) for n in ("position", "batch")),
    ]


class StepEntry(ctypes.Structure):
    """A step of a program."""

    _fields_ = [
        ("shape", Shape),
        *((n, ctypes.c_int32) for n in ("kind", "stride", "first", "count", "first_edge")),
        *((n, ctypes.c_int32) for n in ("edges", "reads", "reserved")),
        *((n, ctypes.c_void_p) for n in ("values", "table", "before", "outputs", "d_values")),
        ("statistics", ctypes.c_void_p),
        ("strides", ctypes.c_int64 * 3),
    ]


LISTS = (
    StepEntry, ConvolutionEntry, MixEntry, ReduceEntry, PoolGradientEntry, NormEntry,
    NormGradientEntry,
)  # fmt: skip
"""What the lists of a program hold, in the order of its fields."""


class ProgramEntry(ctypes.Structure):
    """The lists of a program and their lengths."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("steps", "convolutions", "mix_terms", "reduce_terms")),
        *((n, ctypes.c_void_p) for n in ("pool_gradients", "norms", "norm_gradients")),
        ("counts", ctypes.c_int64 * len(LISTS)),
    ]


class CallEntry(ctypes.Structure):
    """What a call of a program hands over."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("bases", "weights", "d_weights")),
        ("momentum", ctypes.c_double),
        ("threads", ctypes.c_int64),
    ]
