"""ReLU and pointwise convolution as one operator, which brings states to the channels of a cell.

PyTorch stores the rectified states, reads them again in the convolution, and masks the gradient in
a pass of its own. The kernel rectifies and masks what it holds in the cache anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.kernels.choice import IMPLEMENTATIONS, unsupported
from hwnas.kernels.cpu.backend import CpuBackend
from hwnas.kernels.operator import backend_for, from_layout, readable, to_layout, without_base
from hwnas.kernels.saved_tensors import SavedTensors, refuse_second_derivatives
from hwnas.kernels.transforms import is_traced, refuse_batched

Gradients = tuple[Tensor | None, Tensor | None]
"""Gradients of the input and of the weight, None where they are not needed."""


def relu_pointwise(x: Tensor, weight: Tensor, *, impl: str = "auto") -> Tensor:
    """`conv2d(relu(x), weight)` for a kernel of 1 x 1 and stride 1.

    Args:
        x: (N, C, H, W), in any memory format.
        weight: (O, C, 1, 1).
        impl: one of `IMPLEMENTATIONS`. There is a kernel for CPUs, for channels that fill whole
            vectors; where it cannot be used "auto" takes plain PyTorch.

    Returns:
        (N, O, H, W); the kernel returns it in channels_last.

    Raises:
        ValueError: for an unknown `impl`, or a weight that does not suit x.
        RuntimeError: when the requested `impl` cannot be used here.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[1:] != (x.shape[1], 1, 1):
        raise ValueError(
            "a pointwise convolution of (N, C, H, W) has a weight (O, C, 1, 1), got "
            f"{tuple(x.shape)} and {tuple(weight.shape)}"
        )
    reason = None if impl == "torch" else _misfit(impl, x, weight)
    if impl == "torch" or (impl == "auto" and reason is not None):
        return F.conv2d(F.relu(x), weight)
    if reason is not None:
        raise RuntimeError(f"impl={impl!r} cannot be used: {reason}")
    apply: Callable[..., Tensor] = _ReluPointwise.apply
    return apply(x, weight)


def _misfit(impl: str, x: Tensor, weight: Tensor) -> str | None:
    """Why the kernel cannot be used; None if it can."""
    if impl == "triton":
        return "there is a kernel for CPUs only"
    if is_traced(x, weight):
        return "the call is traced"
    reason = unsupported("cpu", [x])
    if reason is not None:
        return reason
    if x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        return f"no kernels for {x.dtype}, or for autocast"
    if weight.dtype != x.dtype or weight.device != x.device:
        return "the weight's type or device is another than the input's"
    if x.is_inference():
        return "the input cannot be saved for the backward pass"
    if _backend(x).common_lanes(x.shape[1], len(weight)) is None:
        return f"{x.shape[1]} or {len(weight)} channels do not fill vectors"
    return None


def _backend(x: Tensor) -> CpuBackend:
    backend = backend_for("cpu", x.dtype)
    assert isinstance(backend, CpuBackend)
    return backend


class _ReluPointwise(torch.autograd.Function):
    """The kernel with its first derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.saved = SavedTensors(ctx, [x, weight], states=2)
        values = to_layout(x, x.shape[1])
        z = _backend(x).relu_pointwise(values, readable(weight))
        return without_base(from_layout(z, len(weight)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        refuse_batched([gradient])
        x, weight = ctx.saved.of(ctx)
        if torch.is_grad_enabled():
            apply: Callable[..., Gradients] = _GradientFunction.apply
            return apply(x, weight, gradient, ctx.needs_input_grad)
        return _gradients(x, weight, gradient, ctx.needs_input_grad)


class _GradientFunction(torch.autograd.Function):
    """The first derivatives, as results that depend on the tensors (`create_graph`)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gradient: Tensor, needed: tuple[bool, bool]
    ) -> Gradients:
        return _gradients(x, weight, gradient, needed)

    backward = staticmethod(refuse_second_derivatives)


def _gradients(x: Tensor, weight: Tensor, gradient: Tensor, needed: tuple[bool, bool]) -> Gradients:
    outputs, channels = weight.shape[:2]
    dx, dw = _backend(x).relu_pointwise_backward(
        to_layout(x, channels), readable(weight), to_layout(gradient, outputs), needed
    )
    return (None if dx is None else without_base(from_layout(dx, channels))), dw
