"""FactorizedReduce in training takes pixels out first; it must equal its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.ops.cells import FactorizedReduce


def defined(module: FactorizedReduce, x: Tensor) -> Tensor:
    """Two convolutions with stride 2, the second of them shifted by a pixel."""
    x = F.relu(x)
    return torch.cat((module.conv1(x), module.conv2(module.shift(x))), dim=1)


@pytest.mark.parametrize("height, width", [(6, 8), (5, 8), (7, 3), (1, 1)])
@pytest.mark.parametrize("c_out", [4, 5])
def test_training_equals_the_definition(c_out: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    module = FactorizedReduce(3, c_out, affine=False).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    expected = F.batch_norm(defined(module, x), None, None, training=True)
    found = module(x)
    torch.testing.assert_close(found, expected)
    sources = (x, module.conv1.weight, module.conv2.weight)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((y * weights).sum(), sources) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_gradient_keeps_the_channels_last() -> None:
    """Other layouts would be converted in each operator before this one."""
    x = torch.randn(2, 3, 6, 8).contiguous(memory_format=torch.channels_last)
    state = F.relu(x.requires_grad_())
    given: list[Tensor] = []
    state.register_hook(given.append)
    FactorizedReduce(3, 4, affine=False)(state).square().sum().backward()
    assert given[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("differentiated", [False, True])
def test_layers_are_called_for_whoever_listens(differentiated) -> None:
    module, calls = FactorizedReduce(3, 4, affine=False), list[str]()
    for name in ("conv1", "conv2"):
        getattr(module, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    module(torch.randn(2, 3, 6, 8, requires_grad=differentiated))
    assert calls == ["conv1", "conv2"]


@pytest.mark.parametrize(
    "change", [nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"]
)
def test_changed_layers_are_called(change) -> None:
    module = FactorizedReduce(3, 4, affine=False)
    change(module.conv1), change(module.conv2)
    x = torch.randn(2, 3, 6, 8, requires_grad=True)
    for _ in range(2):
        module(x).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
