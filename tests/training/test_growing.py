"""Networks that grow compute the same before and after it, and can learn with what is new."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import tiny_space

from hwnas.training.growing import (
    gains_of,
    grow,
    grown_at,
    order_of_growth,
    places,
    smallest_start,
)

IMAGES = (4, 1, 9, 7)
STAGE = {"layers": [1, 2, 3], "kernel": [1, 3, 5], "width": [3, 6], "residual": True}
SPACES = {
    "mbconv": {"stage_layers": 2},
    "mbconv with gates": {"stage_layers": 2, "squeeze_excitation": "choice"},
    "elastic": {"resolutions": [9], "expansions": [1, 3, 6]},
    "macro": {"stages": [STAGE | {"reduction": 2}, STAGE | {"operator": "separable"}]},
    "macro, dense and bare": {
        "stages": [
            STAGE | {"layers": 1, "norm": "none", "residual": False},
            {"operator": "dense", "channels": 4, "width": [3, 8]},
        ]
    },
}


def space_of(kind: str):
    return tiny_space(kind.split()[0].strip(","), **SPACES[kind])


def networks(kind: str, seed: int):
    """A smallest network with trained running statistics, and the one that it grew into."""
    space = space_of(kind)
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


@pytest.mark.parametrize("kind", SPACES)
def test_a_grown_network_computes_the_same(kind: str) -> None:
    larger = 0
    for seed in range(4):
        space, architecture, small, large = networks(kind, seed)
        x = torch.randn(IMAGES)
        torch.testing.assert_close(large.eval()(x), small.eval()(x), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(large.train()(x), small.train()(x), atol=1e-5, rtol=1e-4)
        params = [sum(p.numel() for p in network.parameters()) for network in (small, large)]
        assert params[0] <= params[1] == space.params_and_macs(architecture)[0]
        larger += params[0] < params[1]
    assert larger


def test_what_is_new_learns() -> None:
    """Every weight has a gradient in the second step at the latest."""
    _, _, small, large = networks("mbconv", 0)
    assert len(large.blocks) > len(small.blocks)
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in large.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(large(torch.randn(IMAGES)), torch.arange(4) % 3).backward()
        optimizer.step()
    unmoved = [n for n, p in large.named_parameters() if torch.equal(p, before[n])]
    assert not unmoved


@pytest.mark.parametrize("kind", ["mbconv", "macro", "elastic"])
def test_a_start_leaves_out_what_can_be_left_out(kind: str) -> None:
    space = space_of(kind)
    architecture = space.architecture([len(c.options) - 1 for c in space.choices])
    for row, (name, option) in enumerate(smallest_start(space, architecture)):
        if "skip_connect" in space.choices[row].options:
            assert option == "skip_connect", name
        if name.endswith("depth"):
            assert option == space.choices[row].options[0]


@pytest.mark.parametrize("kind", SPACES)
def test_all_places_lead_from_the_start_to_the_end(kind: str) -> None:
    space = space_of(kind)
    rng = np.random.default_rng(1)
    for _ in range(5):
        end = space.sample(rng)
        now = smallest_start(space, end)
        while left := places(space, now, end):
            after = grown_at(space, now, end, [str(rng.choice(left))])
            assert after != now
            now = after
        assert now == end


@pytest.mark.parametrize("kind", ["mbconv", "elastic", "macro"])
def test_gains_are_what_a_small_step_of_the_new_weights_lowers_the_loss_by(kind: str) -> None:
    """To first order, by the learning rate times the gain, also if one place alone has grown."""
    space, end, small, _ = networks(kind, 2)
    small, now = small.double(), smallest_start(space, end)
    x, y = torch.randn(IMAGES, dtype=torch.float64), torch.arange(4) % 3

    def loss_and_gradients(network) -> float:
        network.train().zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        return loss.item()

    torch.manual_seed(5)
    large = space.network(end).double()
    grow(small, large)
    before = loss_and_gradients(small)
    assert loss_and_gradients(large) == pytest.approx(before)
    gains = gains_of(small, large)
    order = order_of_growth(space, now, end, gains)
    assert [gain for _, gain in order] == sorted((g for _, g in order), reverse=True)
    assert {name for name, _ in order} == set(places(space, now, end))
    assert sum(gain for _, gain in order) == pytest.approx(sum(gains.values()), rel=1e-6)
    moved, rate = copy.deepcopy(large), 1e-6
    with torch.no_grad():
        for (path, p), q in zip(large.named_parameters(), moved.parameters(), strict=True):
            if path.startswith("blocks."):
                q -= rate * p.grad
    fall = before - F.cross_entropy(moved(x), y).item()
    of_small = sum(
        float(p.grad.square().sum()) for n, p in small.named_parameters() if n.startswith("blocks.")
    )
    assert fall / rate == pytest.approx(of_small + sum(gains.values()), rel=1e-3)
