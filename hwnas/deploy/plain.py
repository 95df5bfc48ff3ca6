"""A trained network as a module that is made of PyTorch's own parts alone."""

from __future__ import annotations

import copy

from torch import fx, nn

from hwnas.errors import InputError
from hwnas.spaces.networks import Network


def plain_module(network: nn.Module) -> nn.Module:
    """A copy of a network that needs nothing of hwnas.

    Its forward pass is traced by torch.fx down to the modules of `torch.nn` and the functions of
    PyTorch, so that it can be pickled, loaded where hwnas is not installed, compiled, and trained
    further. Parameters and buffers keep their names.

    Args:
        network: is not changed. What only training needs is left out.

    Returns:
        The module in eval mode, with tensors of its own.

    Raises:
        InputError: when the forward pass depends on values that only a call knows, which networks
            of spaces that come from elsewhere may do.
    """
    copied = copy.deepcopy(network).eval()
    if isinstance(copied, Network):
        copied.drop_training_parts()
    try:
        traced = fx.symbolic_trace(copied)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            "torch.fx cannot trace the network's forward pass",
            where=type(network).__name__,
            actual=str(error).split(". ")[0],
            mend="loop over a number that the module knows, and decide nothing by a tensor's shape",
        ) from None
    for node in traced.graph.nodes:
        # Annotations that are written as texts cannot be pickled, and the rest names its origin.
        node.type = None
        node.meta.clear()
    traced.recompile()
    return traced
