"""Networks of inverted bottlenecks that grow while they are trained, and compute the same after it.

Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016 (arXiv 1511.05641).
A layer is widened by new channels whose outgoing weights are zero, and its kernel by a border of
zeros; a residual layer is added with a last batch norm that returns zero (Wei et al., "Network
Morphism", ICML 2016, arXiv 1603.01670).
"""

from __future__ import annotations

import torch
from torch import nn

from hwnas.architecture import Architecture
from hwnas.ops.mobile import MBConv
from hwnas.spaces.layers import SKIP
from hwnas.spaces.mbconv import MbconvNetwork, MbconvSpace


def smallest_start(space: MbconvSpace, architecture: Architecture) -> Architecture:
    """The smallest architecture whose network can grow into that of the given one.

    Layers that can be left out are, and the others have the option of the fewest parameters among
    those with no larger kernel and no more channels.
    """
    chosen: dict[str, str] = {}
    with torch.device("meta"):
        for row, (name, option) in enumerate(architecture):
            options = space.choices[row].options
            if option == SKIP or SKIP in options:
                chosen[name] = SKIP
                continue
            blocks = {one: space.layer(row, one) for one in options}
            able = {o: block for o, block in blocks.items() if _grows_into(block, blocks[option])}
            chosen[name] = min(able, key=lambda one: _parameters(able[one]))
    return space.architecture(chosen)


@torch.no_grad()
def grow(small: MbconvNetwork, large: MbconvNetwork) -> None:
    """Give a new, larger network what a smaller one computes, in training and in evaluation mode.

    Args:
        small: a network of `smallest_start`.
        large: the network of the architecture, with new weights; changed in place.
    """
    for name in ("stem", "head"):
        getattr(large, name).load_state_dict(getattr(small, name).state_dict())
    of_small = {choice: small.get_submodule(path) for path, choice in small.choice_modules.items()}
    for path, choice in large.choice_modules.items():
        block = large.get_submodule(path)
        assert isinstance(block, MBConv)
        if choice in of_small:
            before = of_small[choice]
            assert isinstance(before, MBConv)
            _grow_block(before, block)
        else:
            block.bn3.weight.zero_()
            block.bn3.bias.zero_()


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _grows_into(small: nn.Module, large: nn.Module) -> bool:
    """Whether a block is a part of another one; groups and gates mix channels, and cannot widen."""
    assert isinstance(small, MBConv) and isinstance(large, MBConv)
    same = small.expand.groups == large.expand.groups
    same &= hasattr(small, "excitation") == hasattr(large, "excitation")
    widens = small.expand.out_channels < large.expand.out_channels
    mixes = large.expand.groups > 1 or hasattr(large, "excitation")
    fits = small.expand.out_channels <= large.expand.out_channels
    fits &= small.depthwise.kernel_size[0] <= large.depthwise.kernel_size[0]
    return same and fits and not (widens and mixes)


def _grow_block(small: MBConv, large: MBConv) -> None:
    """Copy a block into a larger one; what is new has no influence on the output."""
    channels = small.expand.out_channels
    border = (large.depthwise.kernel_size[0] - small.depthwise.kernel_size[0]) // 2
    side = small.depthwise.kernel_size[0]
    for name, module in small.named_children():
        if name not in ("expand", "bn1", "depthwise", "bn2", "project"):
            large.get_submodule(name).load_state_dict(module.state_dict())
    large.expand.weight[:channels] = small.expand.weight
    for grown, norm in ((large.bn1, small.bn1), (large.bn2, small.bn2)):
        for name, value in norm.state_dict().items():
            own = grown.state_dict()[name]
            part = own[:channels] if own.dim() else own
            part.copy_(value)
    large.depthwise.weight[:channels] = 0
    inner = slice(border, border + side)
    large.depthwise.weight[:channels, :, inner, inner] = small.depthwise.weight
    large.project.weight[:, channels:] = 0
    large.project.weight[:, :channels] = small.project.weight
