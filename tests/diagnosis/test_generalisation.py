"""Measures of generalisation in cases whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from hwnas.diagnosis.generalisation import (
    head_rademacher,
    input_margins,
    margins,
    pac_bayes_bound,
    path_norm,
    random_label_fit,
)


def test_margins_are_distances_to_the_next_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 2.0, -1.0]])
    assert margins(logits, torch.tensor([0, 2])).tolist() == [0.5, -3.0]


def test_of_a_linear_network_the_input_margin_is_the_distance_to_the_boundary() -> None:
    torch.manual_seed(0)
    network = nn.Linear(5, 2).double()
    inputs = torch.randn(6, 5, dtype=torch.float64)
    targets = torch.tensor([0, 1, 0, 1, 0, 1])
    normal = (network.weight[0] - network.weight[1]).detach()
    signed = (inputs @ normal + network.bias.detach() @ torch.tensor([1.0, -1.0]).double()) / (
        normal.norm()
    )
    expected = torch.where(targets == 0, signed, -signed)
    torch.testing.assert_close(input_margins(network, inputs, targets), expected)


def test_the_path_norm_sums_over_all_paths() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    total = sum(
        float((first.weight[hidden, source] * second.weight[target, hidden]).detach()) ** 2
        for source, hidden, target in itertools.product(range(3), range(4), range(2))
    )
    found = path_norm(nn.Sequential(first, nn.ReLU(), second), (3,))
    assert found == pytest.approx(math.sqrt(total), rel=1e-5)
    with torch.no_grad():
        first.weight.mul_(10)
        second.weight.div_(10)
    rescaled = path_norm(nn.Sequential(first, nn.ReLU(), second), (3,))
    assert rescaled == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_is_a_layer_of_one_path_for_each_channel(affine: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, affine=affine).eval()
    norm.running_var.uniform_(0.5, 2.0)
    norm.running_mean.normal_()
    factor = (norm.running_var + norm.eps).rsqrt()
    offset = -factor * norm.running_mean
    expected = math.sqrt(float((factor**2 + offset**2).sum()) * 4)
    assert path_norm(norm, (3, 2, 2)) == pytest.approx(expected, rel=1e-4)


def test_the_sharpness_bound_of_a_quadratic_error() -> None:
    # The error |w|^2 grows by d sigma^2 on average, so sigma is sqrt(allowed / d).
    w = torch.zeros(400, dtype=torch.float64)
    start = torch.full((400,), 0.05, dtype=torch.float64)
    found = pac_bayes_bound(lambda: float(w @ w), [w], [start], 1000, bisections=14)
    sigma = math.sqrt(0.1 / 400)
    assert found.sigma == pytest.approx(sigma, rel=0.05)
    divergence = 1.0 / (4 * found.sigma**2) + math.log(1000 / 0.05) + 10
    assert found.bound == pytest.approx(math.sqrt(divergence / 999))
    assert not w.any()


def test_the_complexity_of_heads_by_all_labellings() -> None:
    torch.manual_seed(0)
    features = torch.randn(8, 5).double()
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=8))).double()
    exact = 2.0 * float((signs @ features).norm(dim=1).mean()) / 8
    assert head_rademacher(features, 2.0, draws=20_000) == pytest.approx(exact, rel=0.02)
    assert head_rademacher(torch.eye(16), 3.0) == pytest.approx(3.0 * 4 / 16)


def test_only_a_large_enough_network_fits_random_labels() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(40, 6)
    large = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 2))
    before = [p.clone() for p in large.parameters()]
    fitted = random_label_fit(large, inputs, steps=400, learning_rate=0.1)
    assert fitted > 0.9
    assert all(torch.equal(a, b) for a, b in zip(before, large.parameters(), strict=True))
    constant = nn.Linear(6, 2)
    nn.init.zeros_(constant.weight)
    assert random_label_fit(constant, 0 * inputs, steps=20) < 0.5
