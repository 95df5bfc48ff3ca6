"""Transforms of PyTorch that the fused operators cannot be run under.

The fused operators have a forward pass and a first derivative by reverse-mode differentiation. They
have no rule for batching and none for forward-mode differentiation, for which PyTorch would take a
missing rule for a derivative of zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

SECOND_ORDER = (
    "the fused operators have first derivatives only: for a second-order search use finite "
    "differences of gradients (search.order = 2), for exact second derivatives impl='torch'"
)
"""What to do where a derivative of the fused operators' gradients is asked for."""


def active_transform() -> str | None:
    """The transform that the caller runs under, for a message; None if there is none.

    These are the transforms of `torch.func` (`grad`, `vjp`, `jvp`, `vmap`, `functionalize` and
    those made of them) and forward-mode differentiation by `torch.autograd.forward_ad`.
    """
    if torch._C._functorch.maybe_current_level() is not None:
        return "a transform of torch.func"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    return None


def is_traced(*tensors: Tensor) -> bool:
    """Whether a call is compiled or traced: its tensors may have no memory."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__ for t in tensors)
    )


def refuse_batched(gradients: Sequence[Tensor | None]) -> None:
    """Check the gradients that autograd hands to a fused operator.

    Raises:
        RuntimeError: for batched ones (`torch.autograd.grad(..., is_grads_batched=True)`).
    """
    if any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in gradients):
        raise RuntimeError(
            "the gradients of a fused operator cannot be batched (is_grads_batched): "
            "use impl='torch'"
        )
