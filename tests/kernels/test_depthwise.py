"""The rewritten dilated depthwise convolution against PyTorch's, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.kernels import dilated_depthwise_conv2d
from hwnas.ops.cells import DilatedDepthwiseConv2d


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([3, 5]),
    st.sampled_from([1, 2]),
)
def test_values_and_gradients_agree_with_pytorch(
    n: int, c: int, h: int, w: int, size: int, stride: int
) -> None:
    generator = torch.Generator().manual_seed(h * 100 + w)
    x = torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)
    weight = torch.randn(c, 1, size, size, generator=generator, dtype=torch.float64)
    results = []
    for rewritten in (True, False):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if rewritten:
            y = dilated_depthwise_conv2d(a, b, stride)
        else:
            y = F.conv2d(a, b, None, stride, 2 * (size // 2), 2, c)
        (y * y.detach()).sum().backward()
        results.append((y.detach(), a.grad, b.grad))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_module_computes_the_same_in_training_and_evaluation(stride: int) -> None:
    module = DilatedDepthwiseConv2d(4, 5, stride)
    x = torch.randn(2, 4, 7, 8)
    torch.testing.assert_close(module.train()(x), module.eval()(x))
