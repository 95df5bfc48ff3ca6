"""Counts the multiply-accumulates of any module by running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _convolution(args: Sequence[Any], output: Tensor) -> int:
    return output.numel() * int(args[1][0].numel())


def _transposed_convolution(args: Sequence[Any], output: Tensor) -> int:
    return int(args[0].numel() * args[1][0].numel())


def _product(args: Sequence[Any], output: Tensor) -> int:
    return output.numel() * int(args[0].shape[-1])


def _added_product(args: Sequence[Any], output: Tensor) -> int:
    return output.numel() * int(args[1].shape[-1])


def _attention(args: Sequence[Any], output: Tensor) -> int:
    """The two matrix products of attention."""
    return int((args[0].numel() + output.numel()) * args[1].shape[-2])


def _multi_head_attention(args: Sequence[Any], output: Any) -> int:
    """Four projections, and two matrix products, of queries (L, N, E) and keys (S, N, E)."""
    queries, keys = args[0], args[1]
    projections = 2 * (queries.numel() + keys.numel()) * queries.shape[-1]
    return int(projections + 2 * queries.numel() * keys.shape[0])


COUNTED: dict[Any, Callable[[Sequence[Any], Any], int]] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _transposed_convolution
    ),
    **dict.fromkeys(
        (F.linear, torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.mm),
        _product,
    ),
    **dict.fromkeys((torch.addmm, torch.baddbmm), _added_product),
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
}
"""The functions whose multiply-accumulates are counted; recurrent layers are counted as modules."""


class _Counter(TorchFunctionMode):
    """Adds up the multiply-accumulates of the functions that are called."""

    macs = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in COUNTED:
            self.macs += COUNTED[func](args, output)
        return output


def count(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[int, int]:
    """The number of a module's parameters, and its multiply-accumulates for one sample.

    They are counted in convolutions, matrix products, attention and recurrent layers.

    Args:
        module: in evaluation mode.
        inputs: its inputs, (N, ...) each.
    """
    counter = _Counter()

    def add(layer: nn.RNNBase, given: tuple[Any, ...], output: Any) -> None:
        # Every weight matrix is applied at each step of the sequence.
        steps = given[0].numel() // given[0].shape[-1]
        counter.macs += steps * sum(p.numel() for p in layer.parameters() if p.dim() == 2)

    layers = [layer for layer in module.modules() if isinstance(layer, nn.RNNBase)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter:
            module(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
    return sum(p.numel() for p in module.parameters()), counter.macs // inputs[0].shape[0]
