"""The choice of an implementation of the mixed operators."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from hwnas.kernels.transforms import active_transform
from hwnas.kernels.triton.layout import fits as fits_triton

IMPLEMENTATIONS = ("auto", "triton", "cpu", "torch")
"""What `impl` may be."""


def choose_implementation(
    impl: str,
    inputs: Sequence[Tensor],
    misfit: Callable[[Tensor], str | None] | None = None,
    *,
    convolutions: bool = True,
) -> str:
    """The implementation to use. "auto" falls back to "torch" and warns once for each reason.

    Args:
        impl: one of `IMPLEMENTATIONS`.
        inputs: the states of the operator, or its branches.
        misfit: returns why its tensors do not suit a state, None if they do.
        convolutions: whether the operator may have convolutions, for which there are kernels of
            fewer channels.

    Raises:
        RuntimeError: when the requested implementation cannot be used here.
    """
    if impl == "torch":
        return "torch"
    x = inputs[0]
    natural = "triton" if x.is_cuda else "cpu"
    asked = natural if impl == "auto" else impl
    reason = unsupported(asked, inputs, misfit, convolutions=convolutions)
    if reason is None:
        return asked
    if impl != "auto":
        raise RuntimeError(f"impl={impl!r} cannot be used: {reason}")
    _warn_once(f"mixed operators run in plain PyTorch: {reason}")
    return "torch"


def unsupported(
    impl: str,
    inputs: Sequence[Tensor],
    misfit: Callable[[Tensor], str | None] | None = None,
    *,
    convolutions: bool = True,
) -> str | None:
    """Why the kernels "triton" or "cpu" cannot be used; None if they can.

    Args:
        impl: of the kernels.
        inputs: as for `choose_implementation`, and so are the other arguments.
        misfit: returns why the operator's tensors do not suit a state.
        convolutions: whether the operator may have convolutions.
    """
    x = inputs[0]
    transform = active_transform()
    if transform is not None:
        return f"there are no kernels for {transform}"
    if x.layout is not torch.strided:
        return f"no kernels for tensors with layout {x.layout}"
    dtype = compute_dtype(x)
    allowed = {
        "cpu": (torch.float32, torch.float64),
        "triton": (torch.float32, torch.float16, torch.bfloat16),
    }[impl]
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if x.device.type != ("cuda" if impl == "triton" and not interpreted else "cpu"):
        return f"the tensors are on {x.device.type}"
    if dtype not in allowed:
        return f"no kernels for {dtype}"
    for state in inputs:
        if state.shape[:2] != x.shape[:2] or state.device != x.device or state.dtype != x.dtype:
            return "the inputs differ in batch, channels, type or device"
        if not torch.compiler.is_compiling() and state.is_neg():
            return "an input is negated when it is read (torch.resolve_neg)"
    channels = x.shape[1]
    pixels = max(state.shape[0] * state.shape[2] * state.shape[3] for state in inputs)
    if channels * pixels == 0:
        return "the inputs are empty"
    if impl == "triton" and not fits_triton(channels, pixels, convolutions=convolutions):
        return f"no kernels for {channels} channels of {pixels} pixels"
    reason: str | None = (misfit(x) if misfit else None) or _loading_error(impl, dtype)
    return reason


def _loading_error(impl: str, dtype: torch.dtype) -> str | None:
    """Why a backend cannot be loaded, None if it can; `torch.compile` treats it as a constant."""
    return _cached_loading_error(impl, dtype)


# All that `torch.compiler.assume_constant_result` does. A call of it would import torch._dynamo,
# which takes longer than the import of everything else in this package.
vars(_loading_error)["_dynamo_marked_constant"] = True


@cache
def _cached_loading_error(impl: str, dtype: torch.dtype) -> str | None:
    from hwnas.kernels.operator import backend_for

    try:
        backend_for(impl, dtype)
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=5)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of activations inside the operator.

    It is autocast's type on CUDA under autocast, float32 for half precision on CPUs, and else the
    type of x.
    """
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return x.dtype
