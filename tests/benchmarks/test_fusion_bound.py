"""What the bound of fused layers counts and runs: the parts of the layers that a search has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fusion_bound import CONFIGS, Convolution, convolutions_of, layers_of, merged, run_alone
from torch import nn


def convolution(kernel: int, stride: int, groups: int) -> Convolution:
    """Of two images with four channels and 5 x 4 pixels, to six channels or as many."""
    x, weight = (
        torch.randn(2, 4, 5, 4),
        torch.randn(6 if groups == 1 else 4, 4 // groups, *[kernel] * 2),
    )
    sizes = (stride, stride), (kernel // 2, kernel // 2), (1, 1), groups
    return Convolution(x, torch.randn_like(F.conv2d(x, weight, None, *sizes)), weight, sizes)


@pytest.mark.parametrize("kernel, stride, groups", [(1, 1, 1), (3, 1, 1), (5, 2, 1), (3, 2, 4)])
def test_operations_of_the_padding_do_not_count(kernel, stride, groups) -> None:
    c = convolution(kernel, stride, groups)
    reads = range(-(kernel // 2), kernel // 2 + 1)
    taps = sum(
        0 <= y + dy < 5 and 0 <= x + dx < 4
        for y in range(0, 5, stride)
        for x in range(0, 4, stride)
        for dy in reads
        for dx in reads
    )
    c_out, c_in = c.weight.shape[:2]
    assert c.operations(train=False) == 2 * (2 * 2 * c_out * c_in * taps)
    assert c.operations(train=True) == 3 * (2 * 2 * c_out * c_in * taps)


@pytest.mark.parametrize("config", CONFIGS)
def test_parts_are_those_of_the_layers(config) -> None:
    torch.manual_seed(0)
    layers = layers_of(config, batch=2)
    parts = [(layer, convolutions_of(layer)) for layer in layers]
    for layer, found in parts:
        modules = [m for m in layer.mixed.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert sum(c.weight.numel() for c in found) == sum(m.weight.numel() for m in modules)
        joined = merged(layer, found)
        assert len(joined) < len(found), "options of a layer have convolutions of the same kind"
        for train in (False, True):
            count = sum(c.operations(train) for c in joined)
            assert count == sum(c.operations(train) for c in found)
    layer, found = parts[-1]
    for c in merged(layer, found):
        run_alone(c, train=True)
    layer.run(train=False)
