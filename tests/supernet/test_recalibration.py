"""Batch norms get the statistics of the network that is evaluated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hwnas.architecture import Mixture
from hwnas.spaces.networks import Supernet
from hwnas.supernet.evaluate import recalibrate


class Normalised(Supernet):
    """A supernet that is nothing but a batch norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        outputs: Tensor = self.norm(x)
        return outputs


@pytest.mark.parametrize(
    "make, shape", [(nn.BatchNorm1d, (8, 3, 5)), (nn.BatchNorm2d, (8, 3, 4, 4))]
)
def test_statistics_are_averages_over_the_batches(
    make: Callable[..., nn.Module], shape: tuple[int, ...]
) -> None:
    supernet = Normalised(make(3, momentum=0.3)).eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        (2 + torch.randn(shape, generator=generator), torch.zeros(8, dtype=torch.int64))
        for _ in range(4)
    ]
    recalibrate(supernet, Mixture(torch.ones(1, 1)), batches)
    over = [0, *range(2, len(shape))]
    means = torch.stack([inputs.mean(over) for inputs, _ in batches]).mean(0)
    variances = torch.stack([inputs.var(over) for inputs, _ in batches]).mean(0)
    torch.testing.assert_close(supernet.norm.running_mean, means)
    torch.testing.assert_close(supernet.norm.running_var, variances)
    assert supernet.norm.momentum == 0.3
    assert not supernet.training
