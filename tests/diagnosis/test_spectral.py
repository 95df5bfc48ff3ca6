"""Spectral norms against dense singular value decompositions of the whole maps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hwnas.diagnosis.spectral import circular_conv_norm, operator_norm, pool_norm


def dense_norm(function, shape) -> float:
    """The largest singular value of the matrix of an affine map."""
    offset = function(torch.zeros(shape, dtype=torch.float64)).flatten()
    units = torch.eye(math.prod(shape), dtype=torch.float64)
    columns = [function(unit.view(shape)).flatten() - offset for unit in units]
    return float(torch.linalg.svdvals(torch.stack(columns))[0])


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).double()


@pytest.mark.parametrize(
    "kernel, options",
    [
        ((4, 3, 3, 3), {"padding": 1}),
        ((4, 3, 3, 3), {"padding": 1, "stride": 2}),
        ((3, 1, 5, 5), {"padding": 4, "dilation": 2, "groups": 3}),
        ((6, 3, 1, 1), {}),
    ],
)
def test_zero_padded_convolutions(kernel, options) -> None:
    w, bias = weight(*kernel), weight(kernel[0])
    found = operator_norm(lambda x: F.conv2d(x, w, bias, **options), (1, 3, 7, 6))
    exact = dense_norm(lambda x: F.conv2d(x, w, None, **options), (1, 3, 7, 6))
    assert found == pytest.approx(exact, rel=1e-3)


def test_circular_convolutions() -> None:
    w = weight(4, 3, 3, 3)

    def circular(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), w)

    exact = dense_norm(circular, (1, 3, 7, 6))
    assert circular_conv_norm(w, (7, 6)) == pytest.approx(exact, rel=1e-9)
    assert operator_norm(circular, (1, 3, 7, 6)) == pytest.approx(exact, rel=1e-3)
    # The norm of the reshaped kernel is not that of the convolution.
    assert float(torch.linalg.svdvals(w.flatten(1))[0]) < 0.8 * exact


def test_sequences_of_maps_have_one_norm() -> None:
    first, second = weight(4, 3, 3, 3), weight(2, 4, 1, 1)

    def both(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(F.conv2d(F.conv2d(x, first, padding=1), second), 2)

    exact = dense_norm(both, (1, 3, 6, 6))
    assert operator_norm(both, (1, 3, 6, 6)) == pytest.approx(exact, rel=1e-3)


def test_small_and_empty_maps() -> None:
    w = weight(3, 2)
    assert operator_norm(lambda x: F.linear(x, w), (1, 2)) == pytest.approx(
        float(torch.linalg.svdvals(w)[0]), rel=1e-6
    )
    assert operator_norm(lambda x: 0 * x + 1, (1, 40)) == 0.0


def test_max_pooling_grows_by_its_overlaps() -> None:
    assert pool_norm((2, 2), (2, 2)) == 1.0
    assert pool_norm((3, 3), (1, 1)) == 3.0
    assert pool_norm((3, 3), (2, 2)) == 2.0
    # One pixel that is the largest of all nine windows is copied nine times.
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1.0
    assert float(F.max_pool2d(x, 3, 1).norm()) == 3.0
