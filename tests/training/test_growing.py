"""Networks that grow compute the same before and after it, and can learn with what is new."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space

from hwnas.training.growing import grow, smallest_start

IMAGES = (4, 1, 9, 7)


def networks(seed: int, **options):
    """A smallest network with trained running statistics, and the one that it grew into."""
    space = tiny_space("mbconv", stage_layers=2, **options)
    architecture = space.sample(np.random.default_rng(seed))
    torch.manual_seed(seed)
    start = smallest_start(space, architecture)
    small, large = space.network(start), space.network(architecture)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    small.train()(torch.randn(IMAGES))
    grow(small, large)
    return space, architecture, small, large


@pytest.mark.parametrize("squeeze", ["none", "choice"])
@pytest.mark.parametrize("seed", range(4))
def test_a_grown_network_computes_the_same(seed: int, squeeze: str) -> None:
    space, architecture, small, large = networks(seed, squeeze_excitation=squeeze)
    x = torch.randn(IMAGES)
    torch.testing.assert_close(large.eval()(x), small.eval()(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(large.train()(x), small.train()(x), atol=1e-5, rtol=1e-4)
    params = [sum(p.numel() for p in network.parameters()) for network in (small, large)]
    assert params[0] <= params[1] == space.params_and_macs(architecture)[0]


def test_what_is_new_learns() -> None:
    """Every weight has a gradient in the second step at the latest."""
    _, _, small, large = networks(0)
    assert len(large.blocks) > len(small.blocks)
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in large.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            large(torch.randn(IMAGES)), torch.arange(4) % 3
        ).backward()
        optimizer.step()
    unmoved = [n for n, p in large.named_parameters() if torch.equal(p, before[n])]
    assert not unmoved


def test_a_start_leaves_out_what_can_be_left_out() -> None:
    space = tiny_space("mbconv", stage_layers=2)
    architecture = space.architecture([len(c.options) - 1 for c in space.choices])
    for row, (name, option) in enumerate(smallest_start(space, architecture)):
        can_skip = "skip_connect" in space.choices[row].options
        assert (option == "skip_connect") == can_skip, name
