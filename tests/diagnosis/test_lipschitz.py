"""Lipschitz bounds of linear networks, where both are exact, and their order elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny import TINY_SIZES, tiny_space
from torch import fx, nn

from hwnas.deploy.fold import fold_batch_norms
from hwnas.deploy.plain import plain_module
from hwnas.diagnosis.lipschitz import UnboundedError, jacobian_norms, lipschitz_bounds, upper_bound


def traced(*modules: nn.Module) -> fx.GraphModule:
    torch.manual_seed(0)
    return fx.symbolic_trace(nn.Sequential(*modules).eval())


def test_both_bounds_of_a_linear_network_are_its_norm() -> None:
    network = traced(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * 25, 4))
    inputs = torch.randn(3, 2, 5, 5)
    jacobian = torch.autograd.functional.jacobian(network, inputs[:1]).reshape(4, -1)
    exact = float(torch.linalg.svdvals(jacobian)[0])
    found = lipschitz_bounds(network, inputs)
    assert found.upper == pytest.approx(exact, rel=1e-3)
    assert found.lower == pytest.approx(exact, rel=1e-3)
    assert found.lower <= exact * (1 + 1e-6)


def test_norms_of_layers_multiply_between_activations() -> None:
    network = traced(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3))
    exact = 0.25
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            exact *= float(torch.linalg.svdvals(layer.weight)[0])
    found, norms = upper_bound(network, (6,))
    assert found == pytest.approx(exact, rel=1e-3)
    assert list(norms) == ["0", "2", "4"]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = self.relu(x) + self.relu(2 * x)
        return torch.cat((added, self.relu(4 * x)), dim=1)


def test_branches_are_added_or_joined() -> None:
    found, _ = upper_bound(fx.symbolic_trace(Branches().eval()), (3, 4, 4))
    assert found == pytest.approx(5.0)  # sqrt((1 + 2)^2 + 4^2)


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=pytest.mark.slow if seed >= 6 else ()) for seed in range(20)],
)
def test_bounds_of_random_networks_are_in_the_right_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    space = tiny_space(("nasbench201", "darts")[seed % 2])
    network = space.network(space.sample(rng))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 2.0)
            module.running_mean.normal_()
    plain = plain_module(fold_batch_norms(network))
    shape = (TINY_SIZES["input_channels"], TINY_SIZES["height"], TINY_SIZES["width"])
    inputs = torch.randn(4, *shape)
    found = lipschitz_bounds(plain, inputs)
    assert found.upper is not None, found.unbounded
    assert 0 < found.median <= found.lower <= found.upper * (1 + 1e-4)
    steps = 1e-3 * torch.randn(4, *shape)
    moved = (plain(inputs + steps) - plain(inputs)).norm(dim=1) / steps.flatten(1).norm(dim=1)
    assert float(moved.max()) <= found.upper


def test_jacobians_of_single_samples() -> None:
    network = traced(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    inputs = torch.randn(3, 8, dtype=torch.float64)
    found = jacobian_norms(network, inputs, steps=60)
    for sample, norm in zip(inputs, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(network, sample[None]).reshape(3, 8)
        assert float(norm) == pytest.approx(float(torch.linalg.svdvals(jacobian)[0]), rel=1e-6)


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


def test_products_of_activations_have_no_bound_and_say_so() -> None:
    gate = fx.symbolic_trace(Gate())
    with pytest.raises(UnboundedError, match="`mul` has no Lipschitz constant"):
        upper_bound(gate, (4,))
    found = lipschitz_bounds(gate, torch.randn(5, 4))
    assert found.upper is None and "mul" in found.unbounded and found.lower > 0
