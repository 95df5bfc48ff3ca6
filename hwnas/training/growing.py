"""Networks that grow while they are trained, and compute the same after it.

Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016 (arXiv 1511.05641).
A layer is widened by new channels whose outgoing weights are zero, and its kernel by a border of
zeros; a residual layer is added with a last batch norm that returns zero (Wei et al., "Network
Morphism", ICML 2016, arXiv 1603.01670).

Which part grows first is decided by gradients: the loss falls, to first order, by the learning rate
times the squared norm of the gradient of what is new (Wu et al., "Firefly Neural Architecture
Descent", NeurIPS 2020, arXiv 2102.08574, section 2.2; Evci et al., "GradMax", ICLR 2022, arXiv
2201.05125).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwnas.architecture import Architecture
from hwnas.ops import build
from hwnas.ops.macro import Residual
from hwnas.ops.mobile import MBConv
from hwnas.spaces.elastic import ElasticSpace
from hwnas.spaces.layers import SKIP, LayerNetwork
from hwnas.spaces.macro import MacroSpace
from hwnas.spaces.mbconv import MbconvSpace

GrowingSpace = MbconvSpace | MacroSpace | ElasticSpace
"""The spaces whose networks can grow."""
GROWING_SPACES = tuple(space.name for space in (MbconvSpace, MacroSpace, ElasticSpace))


def smallest_start(space: GrowingSpace, architecture: Architecture) -> Architecture:
    """The smallest architecture whose network can grow into that of the given one.

    Residual layers that can be left out are, stages are as shallow as can be, and the other layers
    have the option of the fewest parameters among those with no larger kernel and no more channels.
    """
    chosen = space.chosen(architecture)
    with torch.device("meta"):
        return space.architecture(
            [_smallest_option(space, row, option) for row, option in enumerate(chosen)]
        )


def places(space: GrowingSpace, now: Architecture, end: Architecture) -> list[str]:
    """The choices whose parts can grow next, on the way from one architecture to another."""
    idle = space.idle(space.chosen(now))
    return [
        choice.name
        for row, choice in enumerate(space.choices)
        if row not in idle and now[choice.name] != end[choice.name]
    ]


def grown_at(
    space: GrowingSpace, now: Architecture, end: Architecture, names: Sequence[str]
) -> Architecture:
    """The architecture after some choices have grown to what they take at the end.

    Layers that begin to run because a stage becomes deeper take what they take at the end.
    """
    present, final = space.chosen(now), space.chosen(end)
    idle = space.idle(present)
    return space.architecture(
        [
            final[row] if row in idle or space.choices[row].name in names else present[row]
            for row in range(len(present))
        ]
    )


def order_of_growth(
    space: GrowingSpace,
    now: Architecture,
    end: Architecture,
    gains: Mapping[str, float],
) -> list[tuple[str, float]]:
    """The choices that can grow, the one with the largest gain first, each with its gain.

    Args:
        space: the search space.
        now: the architecture of the network as it is.
        end: the architecture that it grows into.
        gains: of each choice whose layers change, see `gains_of`.
    """
    found = {}
    for name in places(space, now, end):
        after = grown_at(space, now, end, [name])
        changed = [c.name for c in space.choices if now[c.name] != after[c.name]]
        # A layer that runs with its first option does not change when its stage becomes deeper.
        changed += [
            space.choices[row].name
            for row in set(space.idle(space.chosen(now))) - set(space.idle(space.chosen(after)))
        ]
        found[name] = sum(gains.get(one, 0.0) for one in dict.fromkeys(changed))
    return sorted(found.items(), key=lambda pair: -pair[1])


@torch.no_grad()
def grow(small: LayerNetwork, large: LayerNetwork) -> None:
    """Give a new, larger network what a smaller one computes, in training and in evaluation mode.

    Args:
        small: a network of `smallest_start`, or of `grown_at`.
        large: the network of a larger architecture, with new weights; changed in place.
    """
    for name in ("stem", "head"):
        getattr(large, name).load_state_dict(getattr(small, name).state_dict())
    before = _blocks(small)
    for name, block in _blocks(large).items():
        if name in before:
            _grow_module(before[name], block)
        else:
            norm = _last_norm(block)
            assert norm is not None
            norm.weight.zero_()
            norm.bias.zero_()


def gains_of(small: LayerNetwork, large: LayerNetwork) -> dict[str, float]:
    """The squared norm of the gradient of what is new in a grown network, for each choice.

    What both networks have has the same gradient in both, since they compute the same, so the
    squared norms are subtracted.

    Args:
        small: the network before it grew, with gradients.
        large: the network that it became, with gradients of the same loss on the same batch.
    """
    before = {name: _squared_norm(block) for name, block in _blocks(small).items()}
    return {
        name: max(0.0, _squared_norm(block) - before.get(name, 0.0))
        for name, block in _blocks(large).items()
    }


def _blocks(network: LayerNetwork) -> dict[str, nn.Module]:
    """The layers by the names of their choices."""
    return {
        name: network.get_submodule(path)
        for path, name in network.choice_modules.items()
        if path.startswith("blocks.")
    }


def _squared_norm(module: nn.Module) -> float:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return float(sum(gradient.double().square().sum() for gradient in gradients))


def _smallest_option(space: GrowingSpace, row: int, option: int) -> int:
    """The smallest option of a choice that can grow into another one."""
    if isinstance(space, ElasticSpace) and row not in space.layer_rows:
        is_depth = any(row == depth for depth, _ in space.depths)
        return 0 if is_depth else option
    options = space.choices[row].options
    if options[option] == SKIP:
        return option
    final = _layer(space, row, option)
    if SKIP in options and _last_norm(final) is not None:
        return options.index(SKIP)
    sizes = {}
    for number, name in enumerate(options):
        if name != SKIP:
            layer = _layer(space, row, number)
            if _grows_into(layer, final):
                sizes[number] = sum(p.numel() for p in layer.parameters())
    return min(sizes, key=lambda number: sizes[number])


def _layer(space: GrowingSpace, row: int, option: int) -> nn.Module:
    """The module of one option of a layer."""
    if isinstance(space, ElasticSpace):
        return build(space.spec(row, option, len(space.layouts) - 1))
    return space.layer(row, space.choices[row].options[option])


def _last_norm(layer: nn.Module) -> _BatchNorm | None:
    """The batch norm that a residual layer's branch ends with; None for other layers."""
    branch: nn.Module | None = None
    if isinstance(layer, MBConv) and layer.residual:
        branch = layer
    elif isinstance(layer, Residual):
        branch = layer.layers
    if branch is None:
        return None
    parts = [one for one in branch.children() if not isinstance(one, nn.Identity)]
    return parts[-1] if isinstance(parts[-1], _BatchNorm) else None


def _grows_into(small: nn.Module, large: nn.Module) -> bool:
    """Whether a layer is a part of another one: equal but for channels inside and kernels."""
    pairs = list(small.named_modules()), list(large.named_modules())
    if [(name, type(one)) for name, one in pairs[0]] != [(n, type(one)) for n, one in pairs[1]]:
        return False
    return all(_part_of(a, b) for (_, a), (_, b) in zip(*pairs, strict=True))


def _part_of(small: nn.Module, large: nn.Module) -> bool:
    """Whether a module without children is a part of another one of the same type."""
    if isinstance(small, nn.Conv2d) and isinstance(large, nn.Conv2d):
        fits = small.stride == large.stride and small.dilation == large.dilation
        for axis in (0, 1):
            margins = [
                conv.dilation[axis] * (conv.kernel_size[axis] // 2) - _padding(conv)[axis]
                for conv in (small, large)
            ]
            fits &= margins[0] == margins[1]
            fits &= small.kernel_size[axis] <= large.kernel_size[axis]
        fits &= small.out_channels <= large.out_channels
        fits &= small.in_channels <= large.in_channels
        depthwise = all(conv.groups == conv.in_channels for conv in (small, large))
        same = small.in_channels == large.in_channels and small.out_channels == large.out_channels
        # Channels of other groups would be mixed anew.
        return fits and (
            depthwise or (small.groups == large.groups and (small.groups == 1 or same))
        )
    if isinstance(small, nn.Linear) and isinstance(large, nn.Linear):
        return small.in_features <= large.in_features and small.out_features <= large.out_features
    is_sized = isinstance(small, _BatchNorm) or next(small.children(), None) is not None
    return is_sized or repr(small) == repr(large)


def _padding(conv: nn.Conv2d) -> tuple[int, ...]:
    assert not isinstance(conv.padding, str)
    return conv.padding


def _grow_module(small: nn.Module, large: nn.Module) -> None:
    """Copy a layer into a larger one; what is new has no influence on the output."""
    own = large.state_dict()
    for name, value in small.state_dict().items():
        _grow_tensor(value, own[name])


def _grow_tensor(small: Tensor, large: Tensor) -> None:
    """Copy a tensor into the first channels and the centre of the kernel of a larger one.

    Weights of new inputs are zero, and so is the border of a kernel where both channels are old.
    """
    if not large.dim():
        large.copy_(small)
        return
    if large.dim() == 1:
        large[: len(small)] = small
        return
    outputs, inputs = small.shape[:2]
    large[:outputs, :inputs] = 0
    large[:, inputs:] = 0
    centre = tuple(
        slice((b - a) // 2, (b - a) // 2 + a)
        for a, b in zip(small.shape[2:], large.shape[2:], strict=True)
    )
    large[(slice(outputs), slice(inputs), *centre)] = small
