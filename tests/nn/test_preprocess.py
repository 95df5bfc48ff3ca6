"""What brings states to the channels of a cell: kernels, or its modules where they matter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwnas import kernels
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_op import preprocess
from hwnas.ops import build


@pytest.fixture
def module() -> nn.Sequential:
    torch.manual_seed(0)
    found = build(OpSpec("nor_conv_1x1", 16, 8, 6, 5, 1), affine=False)
    assert isinstance(found, nn.Sequential)
    return found


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Channels of the calls of the operator."""
    made: list[int] = []
    inner = kernels.relu_pointwise

    def counted(x, weight):
        made.append(len(weight))
        return inner(x, weight)

    monkeypatch.setattr(kernels, "relu_pointwise", counted)
    return made


def test_it_is_the_module(module, calls) -> None:
    x = torch.randn(2, 16, 6, 5, requires_grad=True)
    expected = module(x)
    torch.testing.assert_close(preprocess(module, x, "auto"), expected)
    torch.testing.assert_close(preprocess(module, x, "torch"), expected)
    assert calls == [8]


@pytest.mark.parametrize("part", ["", "relu", "conv"])
def test_hooks_are_called(module, calls, part) -> None:
    heard: list[nn.Module] = []
    module.get_submodule(part).register_forward_hook(lambda m, *_: heard.append(m))
    preprocess(module, torch.randn(2, 16, 6, 5), "auto")
    assert heard == [module.get_submodule(part)] and not calls


@pytest.mark.parametrize(
    "spec",
    [
        OpSpec("nor_conv_3x3", 16, 8, 6, 5, 1),
        OpSpec("factorized_reduce", 16, 8, 6, 5, 2),
        OpSpec("nor_conv_1x1", 16, 8, 6, 5, 2),
    ],
    ids=lambda spec: f"{spec.name} {spec.stride}",
)
def test_other_operators_are_called(spec, calls) -> None:
    module, x = build(spec, affine=False), torch.randn(2, 16, 6, 5)
    torch.testing.assert_close(preprocess(module, x, "auto"), module(x))
    assert not calls
