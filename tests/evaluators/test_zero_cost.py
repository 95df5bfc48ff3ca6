"""Zero-cost scores against closed forms on small networks."""

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


def test_synflow_of_linear_layers_is_the_product_of_absolute_weights() -> None:
    network = chain(63, 5, 4, 3)
    weights = [p.detach().double().abs() for p in network.parameters()]
    total = float((weights[2] @ weights[1] @ weights[0]).sum())
    # R is linear in each of the three matrices, so each contributes R once to the sum.
    assert SCORES["synflow"](network, *batch(), cross_entropy) == pytest.approx(math.log(3 * total))


def test_gradient_norm_matches_the_closed_form() -> None:
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
    """naswot uses their sign, which is that of ReLU; synflow replaces them by ReLU."""
    given = (*batch(4), cross_entropy)
    scores = {}
    for name in ("relu", activation):
        space = tiny_space("mbconv", activation=name)
        torch.manual_seed(0)
        network = space.network(space.sample(np.random.default_rng(0)))
        scores[name] = [SCORES[score](network, *given) for score in ("synflow", "naswot")]
    assert scores[activation][0] == pytest.approx(scores["relu"][0])
    assert scores[activation][1] > 4 * math.log(JITTER) + 1


def test_jacob_cov_of_a_linear_network_matches_the_closed_form() -> None:
    """All n images have the same Jacobian, so one eigenvalue is n and the others are 0."""
    images, labels = batch(5)
    found = SCORES["jacob_cov"](chain(63, 3), images, labels, cross_entropy)
    eigenvalues = np.array([JITTER] * 4 + [5 + JITTER])
    assert found == pytest.approx(-(np.log(eigenvalues) + 1 / eigenvalues).sum(), rel=1e-3)


@pytest.mark.parametrize("score", [*SCORES, *COUNTS])
def test_scores_are_finite_and_repeatable_and_rank_dense_above_sparse_cells(score: str) -> None:
    evaluator = ZeroCost(SPACE, score, *batch(), seed=0)
    dense, sparse = SPACE.architecture([3] * 6), SPACE.architecture([0, 0, 0, 1, 0, 0])
    values = [evaluator(a) for a in (dense, sparse)]
    assert all(math.isfinite(value) for value in values)
    assert [ZeroCost(SPACE, score, *batch(), seed=0)(a) for a in (dense, sparse)] == values
    if score in (*COUNTS, "synflow", "naswot"):
        assert values[0] > values[1]
        assert evaluator.rank([dense, sparse]) == [0.5, 0.0]


@pytest.mark.parametrize("score", SCORES)
def test_disconnected_cell_does_not_score_above_a_connected_one(score: str) -> None:
    evaluator = ZeroCost(SPACE, score, *batch(), seed=0)
    assert evaluator(SPACE.architecture([0] * 6)) <= evaluator(SPACE.architecture([2] * 6))


@pytest.mark.parametrize("score", SCORES)
def test_scores_leave_the_batch_and_the_network_unchanged(score: str) -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), chain(63, 8, 3)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, labels = batch()
    kept = images.clone()
    SCORES[score](network, images, labels, cross_entropy)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    after = network.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value), name
