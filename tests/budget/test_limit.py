"""Limits: latency ratios, exact decoding with a confidence, several devices at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.tiny import table_of, tiny_space
from scipy.stats import norm

from hwnas.architecture import Mixture
from hwnas.budget.coefficients import architecture_features
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit, largest_ratio
from hwnas.calibration.fit import fit
from hwnas.calibration.make import fitted_table
from hwnas.calibration.prior import Prior, from_counts
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EDGE_RULES

SPACE = tiny_space("nasbench201")
CELLS = [SPACE.architecture(list(cell)) for cell in itertools.product(range(5), repeat=6)]
SCORES = np.random.default_rng(4).normal(size=SPACE.mask.shape)
TOTALS = np.array([SCORES[range(6), SPACE.chosen(cell)].sum() for cell in CELLS])


def calibrated(edges: str, seed: int = 0) -> CostModel:
    """Return an uncertain model, fitted to few networks on a device with a given edge rule."""
    rng = np.random.default_rng(seed)
    networks = [SPACE.sample(rng) for _ in range(8)]
    costs = np.concatenate([[2.0], np.tile([0.2 * (edges == "all"), 0.1, 1, 2, 0.5], 6)])
    latency_ms = architecture_features(SPACE, networks, edges) @ costs
    only = [c for c in from_counts(SPACE).components if c.edges == edges]
    table = fitted_table(SPACE, Prior(tuple(only), None, "test"), networks, latency_ms, "d")
    model = CostModel(SPACE, table)
    assert model.edges == edges
    return model


@pytest.mark.parametrize("edges", EDGE_RULES)
@pytest.mark.parametrize("confidence", [None, 0.6, 0.95])
def test_decoding_is_exact_under_every_rule_and_confidence(edges, confidence) -> None:
    model = calibrated(edges)
    expected_ms, std_ms = model.predict(CELLS)
    bound_ms = expected_ms + (norm.ppf(confidence) if confidence else 0.0) * std_ms
    budget_ms = float(np.quantile(bound_ms, 0.3))
    limit = Limit(model, budget_ms, confidence)
    found = Decoder([limit]).best(SCORES, k=3)
    order = np.argsort(-np.where(bound_ms <= budget_ms * (1 + 1e-6), TOTALS, -np.inf))
    assert [TOTALS[CELLS.index(a)] for a in found] == pytest.approx(TOTALS[order[:3]])
    for architecture in found:
        assert limit.is_kept(architecture)
        if confidence:
            assert limit.probability(architecture) >= confidence - 1e-6


@pytest.mark.parametrize("edges", EDGE_RULES)
def test_margin_is_a_tangent_that_lies_below_everywhere(edges) -> None:
    """Decoding prunes by it: above the margin anywhere, it would lose architectures."""
    limit = Limit(calibrated(edges), 1.0, 0.9)
    rows = architecture_features(SPACE, CELLS, edges)
    margins_ms = norm.ppf(0.9) * limit.cost.predict(CELLS)[1]
    for index in np.random.default_rng(1).choice(len(CELLS), 20, replace=False):
        gradient, constant_ms = limit.margin(CELLS[index])
        tangent_ms = rows @ gradient + constant_ms
        assert tangent_ms[index] == pytest.approx(margins_ms[index])
        assert (tangent_ms <= margins_ms + 1e-9).all()


def test_higher_confidence_lowers_the_best_score() -> None:
    model = calibrated("all")
    budget_ms = float(np.quantile(model.predict(CELLS)[0], 0.1))
    found = [Decoder([Limit(model, budget_ms, p)]).best(SCORES)[0] for p in (0.5, 0.8, 0.99)]
    totals = [TOTALS[CELLS.index(architecture)] for architecture in found]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]


def test_decoding_keeps_the_budgets_of_all_devices() -> None:
    models = [calibrated("live"), calibrated("all", seed=1)]
    latencies = np.array([model.predict(CELLS)[0] for model in models])
    budgets_ms = np.quantile(latencies, 0.2, axis=1)
    limits = [Limit(m, float(b)) for m, b in zip(models, budgets_ms, strict=True)]
    (found,) = Decoder(limits).best(SCORES)
    feasible = (latencies <= budgets_ms[:, None] * (1 + 1e-6)).all(axis=0)
    assert TOTALS[CELLS.index(found)] == pytest.approx(TOTALS[feasible].max())
    # Each budget on its own allows a better score: both are active.
    alone = [TOTALS[latency <= b].max() for latency, b in zip(latencies, budgets_ms, strict=True)]
    assert min(alone) > TOTALS[CELLS.index(found)]


def test_incompatible_budgets_are_refused() -> None:
    model = calibrated("live")
    low_ms = float(model.predict(CELLS)[0].min())
    with pytest.raises(InputError, match="no architecture keeps the budget"):
        Decoder([Limit(model, 100 * low_ms), Limit(model, 0.9 * low_ms)]).best(SCORES)


def test_largest_ratio_has_the_value_and_gradient_of_the_binding_device() -> None:
    models = [calibrated("live"), calibrated("all", seed=1)]
    weights = torch.softmax(torch.randn(SPACE.mask.shape, dtype=torch.float64), dim=1)
    weights.requires_grad_()
    limits = [Limit(models[0], 1.0), Limit(models[1], 1000.0)]
    ratio = largest_ratio(limits, Mixture(weights))
    assert ratio.item() == pytest.approx(float(models[0](Mixture(weights.detach()))))
    (gradient,) = torch.autograd.grad(ratio, weights)
    alone = torch.autograd.grad(models[0](Mixture(weights)), weights)[0]
    torch.testing.assert_close(gradient, alone)


@pytest.mark.parametrize("edges", EDGE_RULES)
def test_latency_of_a_mixture_is_the_expectation_over_architectures(edges) -> None:
    """For independent choices it is exact under the rule "all" and approximate otherwise."""
    model = calibrated(edges)
    weights = torch.softmax(torch.randn(SPACE.mask.shape, dtype=torch.float64), dim=1)
    probability = np.array(
        [np.prod(weights.numpy()[range(6), SPACE.chosen(cell)]) for cell in CELLS]
    )
    exact = float(probability @ model.predict(CELLS)[0])
    assert float(model(Mixture(weights))) == pytest.approx(
        exact, rel=1e-9 if edges == "all" else 0.1
    )


def test_corrected_model_predicts_the_measured_latencies() -> None:
    space = tiny_space("darts")
    cost = CostModel(space, table_of(space))
    rng = np.random.default_rng(0)
    networks = [space.sample(rng) for _ in range(4)]
    latency_ms = [0.7 * cost.latency_ms(a) for a in networks]
    corrected = cost.corrected(networks, latency_ms)
    found_ms, std_ms = corrected.predict(networks)
    np.testing.assert_allclose(found_ms, latency_ms, rtol=0.02)
    assert (std_ms < 0.2 * cost.predict(networks)[1]).all()
    assert cost.corrected([], []).latency_ms(networks[0]) == cost.latency_ms(networks[0])


def test_prior_from_operator_counts_can_be_fitted() -> None:
    prior = from_counts(SPACE)
    rows = {edges: architecture_features(SPACE, CELLS[:9], edges) for edges in EDGE_RULES}
    assert fit(prior, rows, np.linspace(1, 2, 9)).coefficients.mean.shape == (31,)
