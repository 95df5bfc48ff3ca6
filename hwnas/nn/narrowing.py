"""Layers with fewer channels: the first channels of a layer whose sizes are a `Width`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hwnas.errors import InputError
from hwnas.nn.decisions import Width

Sizes = dict[str, tuple[int, ...]]
"""Leading sizes of a layer's tensors, by name."""


def _convolution_sizes(layer: Any) -> Sizes:
    weight = (layer.out_channels, layer.in_channels // layer.groups)
    if isinstance(layer, _ConvTransposeNd):
        weight = (layer.in_channels, layer.out_channels // layer.groups)
    return {"weight": weight, "bias": (layer.out_channels,)}


def _linear_sizes(layer: Any) -> Sizes:
    return {"weight": (layer.out_features, layer.in_features), "bias": (layer.out_features,)}


def _channel_sizes(attribute: str) -> Callable[[Any], Sizes]:
    """Sizes of a layer all of whose tensors have one value for each channel."""

    def sizes(layer: Any) -> Sizes:
        given = getattr(layer, attribute)
        shape = tuple(given) if isinstance(given, tuple | list) else (given,)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), shape)

    return sizes


LAYERS: dict[type[nn.Module], Callable[[Any], Sizes]] = {
    _ConvNd: _convolution_sizes,
    nn.Linear: _linear_sizes,
    _BatchNorm: _channel_sizes("num_features"),
    nn.LayerNorm: _channel_sizes("normalized_shape"),
    nn.GroupNorm: _channel_sizes("num_channels"),
    nn.PReLU: _channel_sizes("num_parameters"),
    nn.Embedding: lambda layer: {"weight": (layer.num_embeddings, layer.embedding_dim)},
}
"""The layers whose sizes may be widths, and the leading sizes of their tensors."""


def widths_of(module: nn.Module) -> Iterator[tuple[str, Width]]:
    """The attributes of one module, without its submodules, that are or contain a width."""
    for name, value in vars(module).items():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, Width):
                yield name, item


def tensor_sizes(layer: nn.Module) -> Sizes:
    """The leading sizes that the tensors of a layer have by its attributes; empty if unknown."""
    return next((sizes(layer) for kind, sizes in LAYERS.items() if isinstance(layer, kind)), {})


def require_sliceable(layer: nn.Module, where: str) -> None:
    """Check that smaller versions of a layer with widths can be made.

    Raises:
        InputError: for a layer of another kind that has weights, and for grouped convolutions that
            are not depthwise.
    """
    own = [name for name, _ in layer.named_parameters(recurse=False)]
    if own and not tensor_sizes(layer):
        kinds = ", ".join(kind.__name__.strip("_") for kind in LAYERS)
        raise InputError(
            "the weights of this layer cannot follow a Width",
            where=where,
            expected=f"one of {kinds}",
            actual=type(layer).__name__,
            mend="use a Choice between layers of each size",
        )
    if isinstance(layer, _ConvNd):
        groups: int = layer.groups
        depthwise = isinstance(groups, Width) and groups == layer.in_channels == layer.out_channels
        if groups != 1 and not depthwise:
            raise InputError(
                "a grouped convolution cannot follow a Width",
                where=where,
                expected="groups 1, or the Width itself for a depthwise convolution",
                actual=f"groups {groups}",
            )


def narrow(module: nn.Module, size: Callable[[Width], int]) -> None:
    """Replace every width in a module by a number, in place, and slice the layers' weights.

    Args:
        module: a copy of the user's module, which has weights of the largest sizes.
        size: the number of channels of a width.
    """
    shared: dict[tuple[int, tuple[int, ...]], nn.Parameter] = {}
    for layer in module.modules():
        attributes = dict(widths_of(layer))
        for name in attributes:
            setattr(layer, name, _replaced(getattr(layer, name), size))
        if attributes:
            for name, sizes in tensor_sizes(layer).items():
                tensor = getattr(layer, name, None)
                if tensor is not None:
                    sliced = tensor.detach()[tuple(slice(0, n) for n in sizes)].clone()
                    if isinstance(tensor, nn.Parameter):
                        # Tied weights stay tied.
                        key = id(tensor), sizes
                        sliced = shared.setdefault(
                            key, nn.Parameter(sliced, requires_grad=tensor.requires_grad)
                        )
                    setattr(layer, name, sliced)


def _replaced(value: Any, size: Callable[[Width], int]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_replaced(item, size) for item in value)
    return size(value) if isinstance(value, Width) else value


def widest_sum(
    outputs: Callable[[int], Tensor], weights: Tensor, widths: tuple[int, ...]
) -> Tensor:
    """The weighted sum of tensors with different numbers of channels, filled up with zeros.

    Args:
        outputs: the tensor of each option, whose last dimension is that option's width.
        weights: (options,).
        widths: of the options.
    """
    largest = max(widths)
    padded = [
        weight * nn.functional.pad(outputs(k), (0, largest - widths[k]))
        for k, weight in enumerate(weights)
    ]
    return torch.stack(padded).sum(dim=0)
