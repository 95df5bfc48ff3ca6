"""Mixed inverted bottlenecks against the weighted sum of their blocks."""

from __future__ import annotations

import copy

import pytest
import torch

from hwnas.architecture import Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_op import MixedBlocks, use_kernels

NAMES = ("mbconv_3x3_e1_g2_relu", "mbconv_5x5_e3_relu", "mbconv_3x3_e6_se_hswish", "skip_connect")
SHAPES = {"residual": (8, 8, 1), "wider": (8, 16, 1), "half the size": (8, 8, 2)}


@pytest.fixture(params=SHAPES)
def mixed(request) -> MixedBlocks:
    c_in, c_out, stride = SHAPES[request.param]
    names = NAMES if request.param == "residual" else NAMES[:-1]
    torch.manual_seed(0)
    specs = [OpSpec(name, c_in, c_out, 7, 6, stride) for name in names]
    return MixedBlocks(specs).double().train()


def inputs(mixed: MixedBlocks) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 8, 7, 6, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, len(mixed.candidates), generator=generator, dtype=torch.float64)
    return x.requires_grad_(), weights.requires_grad_()


def definition(mixed: MixedBlocks, x, weights, active) -> torch.Tensor:
    return sum(weights[1, k] * mixed.candidates[k](x) for k in active)


def results(
    mixed: MixedBlocks, active=None, defined: bool = False, passes: int = 1
) -> list[torch.Tensor]:
    """Output, gradients and running statistics in a copy, after some passes."""
    mixed = copy.deepcopy(mixed)
    x, weights = inputs(mixed)
    leaves = [x, weights, *mixed.parameters()]
    for _ in range(passes):
        if defined:
            out = definition(mixed, x, weights, active or range(len(mixed.candidates)))
        else:
            out = mixed(x, Mixture(weights, None if active is None else ((), active)), 1)
        upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        gradients = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
    found = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]
    statistics = [b.clone() for name, b in mixed.named_buffers() if "running" in name]
    return [out.detach(), *found, *statistics]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("active", [None, (1,), (0, 2)])
def test_results_are_those_of_the_weighted_sum(mixed, active, impl, training) -> None:
    use_kernels(mixed, impl, "nothing")
    mixed.train(training)
    exact = results(mixed, active, defined=True)
    for mine, expected in zip(results(mixed, active), exact, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


def test_recomputation_is_bitwise_equal(mixed) -> None:
    """After two passes, so that running statistics that are updated twice would show."""
    kept = results(mixed, passes=2)
    use_kernels(mixed, "auto", "all")
    for mine, expected in zip(results(mixed, passes=2), kept, strict=True):
        assert torch.equal(mine, expected)


def test_a_skipped_layer_is_the_identity() -> None:
    mixed = MixedBlocks([OpSpec(name, 8, 8, 7, 6) for name in NAMES])
    x = torch.randn(2, 8, 7, 6)
    weights = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert torch.equal(mixed(x, Mixture(weights, ((3,),)), 0), x)
