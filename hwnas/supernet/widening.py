"""Widening of the candidate operators of a supernet with partial channel connections.

In a supernet with partial channel connections, only 1 in K channels passes through the candidate
operators. DrNAS (Chen et al., ICLR 2021, arXiv 2006.10355) lowers K during the search, so that the
operators become wider and keep what they have learned.

Weights are transferred as in Net2WiderNet (Chen, Goodfellow & Shlens, "Net2Net", ICLR 2016, arXiv
1511.05641): channel j of the wider operator is a copy of channel `j mod n` of the n old ones, and
the weights of copied inputs are divided by the number of copies. Net2Net selects the copied
channels at random; here every channel is copied equally often, so the result is deterministic.

For inputs whose channels repeat in this way, a wider operator returns the repeated outputs of the
old one (for FactorizedReduce, this holds for each of its two convolutions, in training mode). The
supernet as a whole is not preserved, because channels that bypassed the operators now pass through
them; as their inputs differ, the copies diverge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwnas.nn.mixed_edge import MixedOp
from hwnas.nn.mixed_op import MixedCell

SQUARED_GRADIENTS = "exp_avg_sq"
"""Key of the mean of squared gradients in the state of AdamW."""


def partial_channels(supernet: nn.Module) -> int:
    """Return K if 1 in K channels passes through the candidates of cells; 1 without cells."""
    cells = (module for module in supernet.modules() if isinstance(module, MixedCell))
    return next((cell.partial for cell in cells), 1)


def widen(supernet: nn.Module, optimizer: torch.optim.Optimizer, partial: int) -> None:
    """Let 1 in `partial` channels pass through the candidates of all cells, in place.

    The optimiser's momentum is transferred by the same linear map as the weights, so a step by
    momentum alone and the widening commute.

    Args:
        supernet: a supernet in which 1 in K channels passes; `partial` divides K.
        optimizer: optimiser of all its parameters, in one parameter group.
        partial: the new K.
    """
    for cell in supernet.modules():
        if isinstance(cell, MixedCell):
            for index, mixed_op in enumerate(cell.mixed_ops):
                assert isinstance(mixed_op, MixedOp)
                cell.mixed_ops[index] = wide = _widened(mixed_op, partial)
                _widen_states(optimizer, mixed_op, wide)
            cell.partial = partial
    (group,) = optimizer.param_groups
    group["params"] = list(supernet.parameters())


def _widened(mixed_op: MixedOp, partial: int) -> MixedOp:
    """Return a mixed operator with the same candidates on more channels."""
    with torch.device("meta"):
        wide = MixedOp(mixed_op.specs, normalise_pools=mixed_op.normalise_pools, partial=partial)
    statistics = []
    for candidate in mixed_op.kernel_candidates():
        name = candidate.name
        parameters, buffers = wide.layouts[name].parameters, wide.layouts[name].buffers
        slots = {**parameters, **buffers}
        tensors = {n: repeat_channels(t, slots[n].shape) for n, t in candidate.views().items()}
        if parameters:
            wide.register_parameter(name, nn.Parameter(parameters.joined(tensors)))
        if buffers:
            statistics.append(buffers.joined(tensors))
    wide.statistics = torch.cat(statistics) if statistics else None
    return wide


def _widen_states(optimizer: torch.optim.Optimizer, narrow: MixedOp, wide: MixedOp) -> None:
    """Move the optimiser's state to the wider weights; entries of another shape are kept."""
    for name, weights in narrow.named_parameters():
        if weights not in optimizer.state:
            continue
        state = optimizer.state[wide.get_parameter(name)] = optimizer.state.pop(weights)
        slots = wide.layouts[name].parameters
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == weights.shape:
                power = 2 if key == SQUARED_GRADIENTS else 1
                tensors = narrow.layouts[name].parameters.separated(value)
                state[key] = slots.joined(
                    {n: repeat_channels(tensors[n], s.shape, power) for n, s in slots.items()}
                )


def repeat_channels(tensor: Tensor, shape: Sequence[int], power: int = 1) -> Tensor:
    """Repeat channels up to a shape, and divide by the number of copies of each input.

    Args:
        tensor: weights (c_out, c_in / groups, KH, KW) of a convolution, or one value per channel
            (c,).
        shape: shape of the result, whose number of inputs is a multiple of the tensor's.
        power: power of the divisor; 2 for squared quantities.
    """
    for axis, (had, has) in enumerate(zip(tensor.shape, shape, strict=True)):
        if had != has:
            tensor = tensor.index_select(axis, torch.arange(has, device=tensor.device) % had)
            if axis == 1:
                tensor = tensor / (has // had) ** power
    return tensor
