"""Penalties of supernets whose Jacobian and Hessian are known."""

from __future__ import annotations

import pytest
import torch
from helpers.supernet_searches import CONFIG, make_search
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.pipeline.compatibility import check_strategy
from hwnas.spaces.networks import Supernet
from hwnas.supernet.penalties import curvature, jacobian_norm, weighted_penalties


class Quadratic(Supernet):
    """Outputs weights[0, 0]^2 * A x, and a loss that is their sum."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        return mixture.weights[0, 0] ** 2 * x @ self.matrix.T + mixture.weights[0, 1]


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum(dim=1).mean()


def test_the_jacobian_penalty_is_the_squared_norm_and_its_gradient_follows_the_weights() -> None:
    supernet = Quadratic()
    weights = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(20_000, 5, dtype=torch.float64)
    found = jacobian_norm(supernet, weights, (inputs, inputs), total, torch.Generator())
    norm = float(supernet.matrix.square().sum())
    assert float(found.detach()) == pytest.approx(0.6**4 * norm, rel=0.03)
    (gradient,) = torch.autograd.grad(found, weights)
    assert gradient[0].tolist() == pytest.approx([4 * 0.6**3 * norm, 0.0, 0.0], rel=0.03)


def test_the_curvature_penalty_is_the_trace_of_the_hessian() -> None:
    supernet = Quadratic()
    weights = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(7, 5, dtype=torch.float64)
    found = curvature(supernet, weights, (inputs, inputs), total, torch.Generator())
    # The loss is w^2 s plus a linear term; the option that does not exist is not moved.
    s = float((inputs @ supernet.matrix.T).sum(dim=1).mean())
    assert float(found.detach()) == pytest.approx(2 * s, rel=1e-6)


def test_penalties_change_what_a_search_follows_and_depend_on_seed_and_step_alone() -> None:
    config = CONFIG.model_copy(
        update={"penalties": {"jacobian": 1.0, "curvature": 0.1}, "warmup": 0.0}
    )
    plain, first, again = (
        make_search("nasbench201", c)
        for c in (config.model_copy(update={"penalties": {}}), config, config)
    )
    records = [[search.advance() for _ in range(2)] for search in (plain, first, again)]
    assert records[1] == records[2]
    assert not torch.equal(plain.strategy.parameters, first.strategy.parameters)
    assert torch.equal(first.strategy.parameters, again.strategy.parameters)


def test_the_sum_is_weighted() -> None:
    supernet = Quadratic()
    weights = torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64)
    inputs = torch.randn(7, 5, dtype=torch.float64)

    def at(**weighted: float) -> float:
        return float(weighted_penalties(supernet, weighted, (inputs, inputs), total, 0, 3)(weights))

    assert at(jacobian=2.0) == pytest.approx(2 * at(jacobian=1.0))
    assert at(jacobian=1.0, curvature=0.0) == pytest.approx(at(jacobian=1.0))


@pytest.mark.parametrize("changes", [["search.strategy='spos'"], ["search.order=2"]])
def test_only_first_order_gradients_are_penalised(changes) -> None:
    config = load_config("nasbench201_slice", [*changes, "search.penalties={jacobian=0.1}"])
    with pytest.raises(InputError, match="gradient strategy of first order"):
        check_strategy(config.search, "file: search")
