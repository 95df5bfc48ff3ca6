"""Folds batch norms into the convolutions that precede them."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hwnas.ops.cells import FactorizedReduce
from hwnas.spaces.networks import Network


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold each batch norm that follows a convolution into the convolution's weights.

    Args:
        module: a network or an operator; it is not changed.

    Returns:
        A deep copy in eval mode that computes the same function; a network loses what only training
        needs. Its weights are contiguous: in the channels_last memory format global pooling is
        exported as three operators more.
    """
    folded = copy.deepcopy(module).eval()
    if isinstance(folded, Network):
        folded.drop_training_parts()
    folded.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # in no stub
    return _fold(folded)


def _fold(module: nn.Module) -> nn.Module:
    if isinstance(module, FactorizedReduce) and isinstance(module.bn, nn.BatchNorm2d):
        # One batch norm follows two convolutions whose outputs are concatenated.
        split = module.conv1.out_channels
        module.conv1 = _fuse(module.conv1, module.bn, slice(0, split))
        module.conv2 = _fuse(module.conv2, module.bn, slice(split, None))
        module.bn = nn.Identity()
        return module
    previous = None
    for name, child in list(module.named_children()):
        child = _fold(child)
        is_convolution = isinstance(previous, nn.Conv2d | nn.ConvTranspose2d)
        follows = isinstance(module, nn.Sequential) and is_convolution
        if follows and isinstance(child, nn.BatchNorm2d):
            transposed = isinstance(previous, nn.ConvTranspose2d)
            fused = fuse_conv_bn_eval(previous, child, transposed)  # type: ignore[type-var]
            module[list(module._modules).index(name) - 1] = fused  # type: ignore[operator]
            child = nn.Identity()
        setattr(module, name, child)
        previous = child
    return module


def _fuse(conv: nn.Conv2d, bn: nn.BatchNorm2d, part: slice) -> nn.Conv2d:
    """Fold the given channels of a batch norm into the convolution that computes them."""
    own = nn.BatchNorm2d(conv.out_channels, eps=bn.eps, affine=bn.affine).to(conv.weight).eval()
    own.load_state_dict(
        {name: value if value.ndim == 0 else value[part] for name, value in bn.state_dict().items()}
    )
    return fuse_conv_bn_eval(conv, own)
