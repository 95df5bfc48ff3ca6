"""Zero-cost scores against closed forms on networks small enough to have them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space
from torch import nn
from torch.nn.functional import cross_entropy

from hwnas.evaluators.zero_cost import COUNTS, JITTER, SCORES, ZeroCost

SPACE = tiny_space("nasbench201")


def chain(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten()]
    for c_in, c_out in itertools.pairwise(widths):
        layers += [nn.Linear(c_in, c_out, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batch(count: int = 6):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (count,), generator=generator)
    return torch.randn(count, 1, 9, 7, generator=generator), labels


def test_synflow_of_a_chain_is_its_product_of_absolute_weights() -> None:
    network = chain(63, 5, 4, 3)
    weights = [p.detach().double().abs() for p in network.parameters()]
    total = float((weights[2] @ weights[1] @ weights[0]).sum())
    # R has degree one in each of the three matrices.
    assert SCORES["synflow"](network, *batch(), cross_entropy) == pytest.approx(math.log(3 * total))


def test_gradient_norm_is_that_of_the_loss() -> None:
    network = chain(63, 3)
    images, labels = batch()
    x = images.flatten(start_dim=1)
    p = (x @ network[1].weight.T).softmax(dim=1)
    gradient = (p - nn.functional.one_hot(labels, 3)).T @ x / len(x)
    expected = float(gradient.detach().norm())
    found = SCORES["gradient_norm"](network, images, labels, cross_entropy)
    assert found == pytest.approx(expected, rel=1e-5)


def test_naswot_counts_agreeing_relus() -> None:
    network = chain(63, 8, 3)
    images, labels = batch(4)
    with torch.no_grad():
        code = (network[1](images.flatten(start_dim=1)) > 0).numpy()
    kernel = (code[:, None, :] == code[None, :, :]).sum(axis=2) + JITTER * np.eye(4)
    expected = np.linalg.slogdet(kernel)[1]
    assert SCORES["naswot"](network, images, labels, cross_entropy) == pytest.approx(expected)


@pytest.mark.parametrize("activation", ["relu6", "hswish"])
def test_activations_of_mobile_networks_count_as_relu(activation: str) -> None:
    """They have ReLU's sign, and in synflow its values too: bounded ones would end the flow."""
    given = (*batch(4), cross_entropy)
    scores = {}
    for name in ("relu", activation):
        space = tiny_space("mbconv", activation=name)
        torch.manual_seed(0)
        network = space.network(space.sample(np.random.default_rng(0)))
        scores[name] = [SCORES[score](network, *given) for score in ("synflow", "naswot")]
    assert scores[activation][0] == pytest.approx(scores["relu"][0])
    assert scores[activation][1] > 4 * math.log(JITTER) + 1


def test_jacob_cov_of_a_linear_network_is_that_of_equal_rows() -> None:
    """All images have one Jacobian: one eigenvalue is their number, the others are 0."""
    images, labels = batch(5)
    found = SCORES["jacob_cov"](chain(63, 3), images, labels, cross_entropy)
    eigenvalues = np.array([JITTER] * 4 + [5 + JITTER])
    assert found == pytest.approx(-(np.log(eigenvalues) + 1 / eigenvalues).sum(), rel=1e-3)


@pytest.mark.parametrize("score", [*SCORES, *COUNTS])
def test_every_score_orders_architectures_and_leaves_them_alone(score: str) -> None:
    evaluator = ZeroCost(SPACE, score, *batch(), seed=0)
    dense, sparse = SPACE.architecture([3] * 6), SPACE.architecture([0, 0, 0, 1, 0, 0])
    values = [evaluator(a) for a in (dense, sparse)]
    assert all(math.isfinite(value) for value in values)
    assert [ZeroCost(SPACE, score, *batch(), seed=0)(a) for a in (dense, sparse)] == values
    if score in (*COUNTS, "synflow", "naswot"):
        assert values[0] > values[1]
        assert evaluator.rank([dense, sparse]) == [0.5, 0.0]


@pytest.mark.parametrize("score", SCORES)
def test_a_cell_without_a_path_is_the_worst(score: str) -> None:
    evaluator = ZeroCost(SPACE, score, *batch(), seed=0)
    assert evaluator(SPACE.architecture([0] * 6)) <= evaluator(SPACE.architecture([2] * 6))


def test_the_batch_and_the_weights_stay_as_they_are() -> None:
    network = chain(63, 8, 3)
    before = [p.detach().clone() for p in network.parameters()]
    images, labels = batch()
    kept = images.clone()
    for score in SCORES.values():
        score(network, images, labels, cross_entropy)
    assert torch.equal(images, kept)
    assert images.grad is None
    for parameter, value in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
