"""Parameters and multiply-accumulates of a network, counted while it runs."""

from __future__ import annotations

from torch import Tensor, nn


def counts_of(network: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """Parameters, and MACs of the convolutions and linear layers for one sample (1, ...)."""
    macs = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            macs += layer.weight[0].numel() * output.numel()
        elif isinstance(layer, nn.Linear):
            macs += layer.in_features * output.numel()

    for layer in network.modules():
        layer.register_forward_hook(count)
    network.eval()(inputs)
    return sum(p.numel() for p in network.parameters()), macs
