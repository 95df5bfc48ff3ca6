"""Hessians against dense ones, and sharpness where the maximum is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian

from hwnas.diagnosis.curvature import Hessian, hutchinson_trace, lanczos, sharpness


@pytest.fixture(scope="module")
def small_network():
    """A convolutional network of about 2,000 parameters, its loss, and its dense Hessian."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 16, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(16 * 4, 12), nn.Tanh(), nn.Linear(12, 3),
    ).double()  # fmt: skip
    inputs = torch.randn(12, 1, 6, 6, dtype=torch.float64)
    targets = torch.randint(3, (12,))
    names = [name for name, _ in network.named_parameters()]
    sizes = [p.numel() for p in network.parameters()]
    shapes = [p.shape for p in network.parameters()]

    def loss_at(flat: torch.Tensor) -> torch.Tensor:
        parts = [v.view(s) for v, s in zip(torch.split(flat, sizes), shapes, strict=True)]
        outputs = functional_call(network, dict(zip(names, parts, strict=True)), (inputs,))
        return F.cross_entropy(outputs, targets)

    flat = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert 1900 <= len(flat) <= 2300
    dense = hessian(loss_at, argnums=0)(flat)
    return network, lambda: F.cross_entropy(network(inputs), targets), dense


def test_eigenvalues_are_those_of_the_dense_hessian(small_network) -> None:
    network, loss, dense = small_network
    exact = torch.linalg.eigvalsh(dense)
    exact = exact[exact.abs().argsort(descending=True)]
    found = Hessian(loss, list(network.parameters()))
    spectrum = lanczos(found, found.size, k=3)
    for value, error, true in zip(spectrum.values, spectrum.errors, exact.tolist(), strict=False):
        assert value == pytest.approx(true, rel=0.01)
        assert abs(value - true) <= error + 1e-9
    assert spectrum.steps == found.applications < 60


def test_the_trace_is_that_of_the_dense_hessian(small_network) -> None:
    network, loss, dense = small_network
    found = Hessian(loss, list(network.parameters()))
    trace, error = hutchinson_trace(found, found.size, probes=60)
    assert trace == pytest.approx(float(dense.trace()), abs=4 * error)
    assert error < 0.3 * abs(float(dense.trace()))


def test_lanczos_finds_negative_values_and_small_matrices() -> None:
    values = torch.tensor([3.0, -5.0, 1.0, 0.5], dtype=torch.float64)
    found = lanczos(lambda v: values * v, 4, k=2)
    assert found.values == pytest.approx([-5.0, 3.0], rel=1e-6)
    assert lanczos(lambda v: 2 * v, 5, k=3).values == pytest.approx([2.0])
    assert lanczos(lambda v: 0 * v, 5).values == [0.0]


def test_sharpness_of_linear_and_quadratic_losses() -> None:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert sharpness(lambda: slope @ w, [w], radius=0.1) == pytest.approx(0.5)
    curvature = torch.tensor([1.0, 2.0, 10.0], dtype=torch.float64)
    with torch.no_grad():
        w.fill_(1e-3)

    def bowl() -> torch.Tensor:
        return 0.5 * (curvature * w * w).sum()

    # Around the minimum the largest growth is along the largest curvature: lambda r^2 / 2.
    found = sharpness(bowl, [w], radius=0.1, steps=20)
    assert found == pytest.approx(0.5 * 10 * 0.1**2, rel=0.03)
    assert torch.equal(w.detach(), torch.full((3,), 1e-3, dtype=torch.float64))
