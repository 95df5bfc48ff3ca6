"""Gradient noise of a loss whose gradients are known, effective rates, and trends."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.diagnosis.convergence import effective_learning_rates, gradient_noise, last_trend


def test_noise_of_a_quadratic_loss_is_the_covariance_of_the_samples() -> None:
    # The gradient of 0.5 |w - x|^2 at w = 0 is -x.
    torch.manual_seed(0)
    mean, deviation = torch.tensor([3.0, -4.0]), torch.tensor([2.0, 1.0])
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    batches = [
        ((mean + deviation * torch.randn(8, 2)).double(), torch.zeros(8)) for _ in range(1000)
    ]
    found = gradient_noise(lambda x, _: 0.5 * ((w - x) ** 2).sum(dim=1).mean(), [w], batches)
    assert found.norm == pytest.approx(5.0, rel=0.02)
    assert found.variance == pytest.approx(5.0, rel=0.08)
    assert found.scale == pytest.approx(5.0 / 25.0, rel=0.1)
    assert found.batches == 1000


def test_a_gradient_of_pure_noise_has_no_scale() -> None:
    torch.manual_seed(1)
    w = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    pair = torch.randn(4, 50, dtype=torch.float64)
    batches = [(pair, torch.zeros(4)), (-pair, torch.zeros(4))]
    found = gradient_noise(lambda x, _: (w * x).sum(dim=1).mean(), [w], batches)
    assert (found.norm, found.scale) == (0.0, None)


def test_effective_rates_are_those_of_normalised_weights_alone() -> None:
    conv = nn.Conv2d(2, 3, 1, bias=False)
    nn.init.constant_(conv.weight, 0.5)
    parts = OrderedDict(conv=conv, bn=nn.BatchNorm2d(3), relu=nn.ReLU(), head=nn.Conv2d(3, 4, 1))
    found = effective_learning_rates(nn.Sequential(OrderedDict(block=nn.Sequential(parts))), 0.3)
    assert found == {"block.conv": pytest.approx(0.3 / (6 * 0.25))}


def test_a_trend_is_the_line_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(1, 201, dtype=float)
    noise = rng.normal(0, 0.05, 200)
    falling = last_trend(steps, 3 - 1.0 * steps / 200 + noise)
    assert falling is not None
    assert falling.slope == pytest.approx(-1.0, abs=3 * falling.error)
    assert falling.records == 41 and not falling.has_ended
    flat = last_trend(steps, np.maximum(3 - 2 * steps / 200, 1.5) + noise)
    assert flat is not None and flat.has_ended
    assert last_trend([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) is None
    assert last_trend([], []) is None
