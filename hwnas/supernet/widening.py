"""More channels through the candidates of a supernet that mixes a part of them, with what they
have learned: the second half of DrNAS' progressive scheme (Chen et al., ICLR 2021, arXiv
2006.10355).

Weights are carried over as by Net2WiderNet (Chen, Goodfellow & Shlens, "Net2Net", ICLR 2016, arXiv
1511.05641): channel j of the wider operator is a copy of channel `j mod n` of the n that there
were, and weights by copied inputs are divided by the number of copies. Where Net2Net draws which
channels are copied, all are copied equally often, so nothing is random. An operator is preserved:
inputs that repeat give the outputs that there were, repeated (those of FactorizedReduce's two
convolutions each for itself, with the statistics of the batch). The supernet as a whole is not,
since channels that went past the operators go through them. Copies part ways as their inputs
differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwnas.nn.mixed_op import MixedCell, MixedOp

SQUARES = "exp_avg_sq"
"""What AdamW calls the mean of squared gradients."""


def partial_channels(supernet: nn.Module) -> int:
    """1 of so many channels goes through the candidates of cells; 1 where there are no cells."""
    cells = (module for module in supernet.modules() if isinstance(module, MixedCell))
    return next((cell.partial for cell in cells), 1)


def widen(supernet: nn.Module, optimizer: torch.optim.Optimizer, partial: int) -> None:
    """Let 1 of `partial` channels go through the candidates of all cells, in place.

    The optimiser's momentum is carried over by the map of the weights. It is linear, so weights
    that only momentum moves get where they would have got before.

    Args:
        supernet: mixes 1 of a multiple of `partial` channels.
        optimizer: of all its parameters, in one group.
        partial: divides the channels.
    """
    before = list(supernet.parameters())
    for cell in supernet.modules():
        if isinstance(cell, MixedCell):
            for index, mixed_op in enumerate(cell.mixed_ops):
                assert isinstance(mixed_op, MixedOp)
                cell.mixed_ops[index] = _wider(mixed_op, partial)
            cell.partial = partial
    after = list(supernet.parameters())
    (group,) = optimizer.param_groups
    group["params"] = after
    for narrow, wide in zip(before, after, strict=True):
        if narrow is not wide and narrow in optimizer.state:
            optimizer.state[wide] = {
                name: _carried(name, value, narrow, wide)
                for name, value in optimizer.state.pop(narrow).items()
            }


def _wider(mixed_op: MixedOp, partial: int) -> MixedOp:
    """A choice with the same operators on more channels, and what they have learned."""
    with torch.device("meta"):
        wide = MixedOp(mixed_op.specs, normalise_pools=mixed_op.normalise_pools, partial=partial)
    learned = mixed_op.state_dict()
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    state = {name: repeated(learned[name], shape) for name, shape in shapes.items()}
    wide.load_state_dict(state, assign=True)
    return wide.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _carried(name: str, value: object, narrow: Tensor, wide: Tensor) -> object:
    """A part of the optimiser's state; what is not of the weights' shape, as a count, stays."""
    if not isinstance(value, Tensor) or value.shape != narrow.shape:
        return value
    return repeated(value, wide.shape, power=2 if name == SQUARES else 1)


def repeated(tensor: Tensor, shape: Sequence[int], power: int = 1) -> Tensor:
    """Repeat channels up to a shape, and divide by the number of copies of an input.

    Args:
        tensor: a convolution's (c_out, c_in / groups, KH, KW), or a figure for each channel (c,).
        shape: of the result; inputs are a multiple of the tensor's.
        power: of the divisor, 2 for squares.
    """
    for axis, (had, has) in enumerate(zip(tensor.shape, shape, strict=True)):
        if had != has:
            tensor = tensor.index_select(axis, torch.arange(has, device=tensor.device) % had)
            if axis == 1:
                tensor = tensor / (has // had) ** power
    return tensor
