"""The weighted sum of normalised branches against plain PyTorch in float64."""

from __future__ import annotations

import pytest
import torch
from helpers.cells import relative_error
from torch.library import opcheck

from hwnas.kernels import weighted_norms
from hwnas.kernels.weighted_norms import weighted_norms_op

pytestmark = pytest.mark.usefixtures("needs_kernels")


def evaluate(impl: str, dtype: torch.dtype, shape, k: int, *, affine, mean=0.0, **settings):
    """Output, gradients and running statistics of k random branches.

    `affine` is "both", "scales", "shifts" or "none".
    """
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    branches = [(mean + noise(*shape)).to(dtype).requires_grad_() for _ in range(k)]
    weights = noise(k).to(dtype).requires_grad_()
    vectors = [[noise(shape[1]).to(dtype).requires_grad_() for _ in range(k)] for _ in range(2)]
    running = [noise(shape[1]).to(dtype) for _ in range(k)]
    spread = [noise(shape[1]).abs().to(dtype) for _ in range(k)]
    scales = vectors[0] if affine in ("both", "scales") else None
    shifts = vectors[1] if affine in ("both", "shifts") else None
    out = weighted_norms(branches, weights, running, spread, scales, shifts, impl=impl, **settings)
    leaves = [*branches, weights, *(scales or []), *(shifts or [])]
    gradients = torch.autograd.grad(out, leaves, noise(*shape).to(dtype))
    return [out.detach(), *gradients, *running, *spread]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", ["both", "scales", "shifts", "none"])
@pytest.mark.parametrize("shape", [(3, 16, 6, 5), (1, 7, 9, 4), (2, 40, 3, 3)])
def test_float64_is_exact(shape, affine, training) -> None:
    settings = {"affine": affine, "training": training, "momentum": 0.3}
    exact = evaluate("torch", torch.float64, shape, 3, **settings)
    found = evaluate("cpu", torch.float64, shape, 3, **settings)
    for mine, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_float32_is_as_exact_as_pytorch(mean) -> None:
    results = [
        evaluate(impl, dtype, (4, 24, 10, 9), 6, affine="both", mean=mean)
        for impl, dtype in (
            ("torch", torch.float64), ("torch", torch.float32), ("cpu", torch.float32),
        )
    ]  # fmt: skip
    for exact, plain, found in zip(*results, strict=True):
        allowed = 4 * relative_error(plain, exact) + 1e-5
        assert relative_error(found, exact) <= allowed


def test_opcheck() -> None:
    branches = [torch.randn(2, 5, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = torch.rand(3, dtype=torch.float64, requires_grad=True)
    affine = [torch.rand(5, dtype=torch.float64, requires_grad=True) for _ in range(6)]
    opcheck(weighted_norms_op, (branches, weights, affine, [], "cpu"))


@pytest.mark.parametrize(
    "shapes, vectors, message",
    [
        ([(2, 4, 3, 3)] * 2, 1, "2 branches, 2 mixing weights, 1 running means"),
        ([], 2, "0 branches"),
        ([(2, 4, 3, 3), (2, 4, 3, 2)], 2, "must have the same shape"),
        ([(0, 4, 3, 3)] * 2, 2, "the branches are empty"),
        ([(1, 4, 1, 1)] * 2, 2, "more than one value"),
    ],
)
def test_wrong_arguments_are_refused(shapes, vectors, message) -> None:
    branches = [torch.randn(shape) for shape in shapes]
    running = [torch.ones(4)] * vectors
    with pytest.raises(ValueError, match=message):
        weighted_norms(branches, torch.rand(2), running, running)
