"""Mixed attention and MLP against the weighted sum of options with slices of the weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwnas.architecture import Mixture
from hwnas.nn.mixed_op import use_kernels
from hwnas.nn.mixed_tokens import MixedAttention, MixedMlp, MixedTokens
from hwnas.ops.tokens import Attention, Mlp

LARGEST, HEAD_CHANNELS = 12, 4
HEADS, RATIOS = (1, 3, 2, 0), (0.5, 2.0, 1.0, 0.0)
"""Heads and ratios of the options; the last is a skip."""


@pytest.fixture(params=["attention", "mlp"])
def mixed(request) -> MixedTokens:
    torch.manual_seed(0)
    if request.param == "attention":
        return MixedAttention(LARGEST, HEADS, HEAD_CHANNELS).double()
    return MixedMlp(LARGEST, RATIOS).double()


def option_alone(mixed: MixedTokens, option: int, channels: int) -> torch.nn.Module:
    """The module of one option, with slices of the largest one's weights."""
    module: torch.nn.Module = torch.nn.Identity()
    if isinstance(mixed, MixedAttention) and HEADS[option]:
        module = Attention(channels, HEADS[option], HEAD_CHANNELS)
    elif isinstance(mixed, MixedMlp) and RATIOS[option]:
        module = Mlp(channels, RATIOS[option])
    own = dict(module.named_parameters())
    for name, whole in mixed.named_parameters():
        inner = name.removeprefix("largest.")
        if inner in own:
            part = whole[tuple(slice(size) for size in own[inner].shape)]
            *path, leaf = inner.split(".")
            del module.get_submodule(".".join(path))._parameters[leaf]
            setattr(module.get_submodule(".".join(path)), leaf, part)
    return module


def inputs(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, channels, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), weights.requires_grad_()


@pytest.mark.parametrize("recompute", ["nothing", "all"])
@pytest.mark.parametrize("channels", [LARGEST, 8])
@pytest.mark.parametrize("active", [None, (2,), (0, 2), (3,), (1, 3)])
def test_results_are_those_of_the_weighted_sum(mixed, channels, active, recompute) -> None:
    use_kernels(mixed, "auto", recompute)
    found = []
    for one_pass in (True, False):
        x, weights = inputs(channels)
        if one_pass:
            out = mixed(x, Mixture(weights, None if active is None else ((), active)), 1)
        else:
            options = range(4) if active is None else active
            out = sum(weights[1, k] * option_alone(mixed, k, channels)(x) for k in options)
        upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        leaves = [x, weights, *mixed.parameters()]
        gradients = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
        dense = [
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ]
        found.append([out.detach(), *dense])
    for one, summed in zip(*found, strict=True):
        torch.testing.assert_close(one, summed, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("channels", [LARGEST, 8])
def test_a_single_path_needs_the_operations_of_its_option(mixed, channels) -> None:
    x, weights = inputs(channels)
    for option in range(3):
        flops = []
        for alone in (True, False):
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                if alone:
                    option_alone(mixed, option, channels)(x)
                else:
                    mixed(x, Mixture(weights, ((), (option,))), 1)
            flops.append(counter.get_total_flops())
        assert flops[0] == flops[1] > 0
