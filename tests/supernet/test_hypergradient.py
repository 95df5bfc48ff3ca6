"""The hypergradient against automatic differentiation, and its second order where it vanishes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.supernet_searches import CONFIG, make_search

from hwnas.architecture import Mixture
from hwnas.errors import InputError
from hwnas.nn.mixed_op import use_kernels
from hwnas.supernet.hypergradient import hypergradient


def test_its_length_is_that_of_the_derivative_by_the_parameters() -> None:
    search = make_search("nasbench201", CONFIG)
    use_kernels(search.supernet, "torch", "nothing")
    search.multiplier = 0.3
    found = hypergradient(search)
    strategy, limit = search.strategy, search.limits[0]
    inputs, targets = search.validation.batch(0)
    weights = strategy.mixing_weights()
    ratio = limit.ratio(Mixture(weights))
    loss = F.cross_entropy(search.supernet.train()(inputs, Mixture(weights)), targets)
    objective = loss + search.multiplier * (ratio - 1)
    (expected,) = torch.autograd.grad(objective, strategy.parameters)
    assert found.norm == pytest.approx(float(expected.norm()), rel=1e-4)


def test_both_orders_agree_for_weights_that_hardly_move() -> None:
    search = make_search("nasbench201", CONFIG.model_copy(update={"learning_rate": 1e-6}))
    still = hypergradient(search)
    assert still.relative_error < 1e-3
    assert still.cosine == pytest.approx(1.0, abs=1e-5)
    moving = hypergradient(
        make_search("nasbench201", CONFIG.model_copy(update={"learning_rate": 0.5}))
    )
    assert moving.relative_error > 10 * still.relative_error
    assert (moving.learning_rate, still.learning_rate) == (0.5, 1e-6)


def test_the_search_is_left_as_it_was() -> None:
    search = make_search("nasbench201", CONFIG)
    search.advance()
    before = [p.detach().clone() for p in search.supernet.parameters()]
    rate, parameters = search.optimizer.param_groups[0]["lr"], search.strategy.parameters.clone()
    found = hypergradient(search)
    assert found.eigenvalue is not None
    assert all(torch.equal(a, b) for a, b in zip(before, search.supernet.parameters(), strict=True))
    assert torch.equal(parameters, search.strategy.parameters)
    assert search.optimizer.param_groups[0]["lr"] == rate


def test_random_mixtures_have_no_hessian_and_other_strategies_no_gradient() -> None:
    stochastic = make_search("nasbench201", CONFIG.model_copy(update={"strategy": "gdas"}))
    assert hypergradient(stochastic).eigenvalue is None
    with pytest.raises(InputError, match=r"gradient strategy.*spos with sgd"):
        hypergradient(make_search("nasbench201", CONFIG.model_copy(update={"strategy": "spos"})))
