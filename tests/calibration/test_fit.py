"""Fitting coefficients: reference formulas, devices with known coefficients, and plausibility."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from hwnas.budget.coefficients import Coefficients, architecture_features, condition
from hwnas.budget.cost import CostModel
from hwnas.calibration import fit as fit_module
from hwnas.calibration.design import design, homogeneous
from hwnas.calibration.fit import fit, to_calibration
from hwnas.calibration.make import all_cells, fitted_table
from hwnas.calibration.prior import Component, Prior, from_counts, from_devices, from_table
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EDGE_RULES
from hwnas.latency_tables.shipped import calibrated_for, load_shipped
from hwnas.latency_tables.table import LatencyTable
from hwnas.spaces import build_space
from hwnas.spaces.nasbench201 import EDGES, PRIMITIVES

SPACE = build_space("nasbench201", {})


def true_costs(edges: str) -> np.ndarray:
    """Coefficients in ms: fixed part 4, operators 0.1 to 3 and slightly more on later edges."""
    costs = np.array([[0.3, 0.1, 1.0, 3.0, 0.6]]) * (1 + 0.02 * np.arange(6))[:, None]
    if edges != "all":
        costs[:, 0] = 0
    return np.concatenate([[4.0], costs.ravel()])


def rows_of(networks) -> dict:
    return {edges: architecture_features(SPACE, networks, edges) for edges in EDGE_RULES}


def sampled(count: int, seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def test_condition_matches_the_information_form_of_bayes_rule() -> None:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(6, 6))
    covariance, mean = root @ root.T + np.eye(6), 50 + rng.normal(size=6)
    rows, deviation = rng.normal(size=(9, 6)), rng.uniform(0.1, 1, 9)
    observed = rows @ mean + deviation * rng.normal(size=9)
    found, left = condition(mean, covariance, rows, observed, deviation)
    precision = np.linalg.inv(covariance) + rows.T @ (rows / deviation[:, None] ** 2)
    expected = np.linalg.solve(
        precision, np.linalg.solve(covariance, mean) + rows.T @ (observed / deviation**2)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(left, np.linalg.inv(precision), atol=1e-6)


@pytest.mark.parametrize("edges", EDGE_RULES)
def test_device_and_edge_rule_are_identified_from_ten_networks(edges: str) -> None:
    prior = from_devices(SPACE, calibrated_for("nasbench201"))
    networks = design(SPACE, prior, 10)
    rows = rows_of(networks)
    latency_ms = rows[edges] @ true_costs(edges)
    fitted = fit(prior, rows, latency_ms)
    assert fitted.edges == edges
    assert fitted.probabilities[edges] > 0.9
    held_out = rows_of(sampled(300))[edges]
    predicted, truth = fitted.coefficients.latency_ms(held_out), held_out @ true_costs(edges)
    assert np.median(np.abs(predicted / truth - 1)) < 0.03
    assert spearmanr(predicted, truth).statistic > 0.99


def test_device_similar_to_a_known_one_is_fitted_from_homogeneous_networks() -> None:
    """The device is 2.5 times slower than a known one and otherwise equal."""
    prior = from_devices(SPACE, DEVICES)
    model = CostModel(SPACE, DEVICES[1])
    networks, held_out = homogeneous(SPACE), sampled(300)
    fitted = fit(prior, rows_of(networks), 2.5 * model.predict(networks)[0])
    assert fitted.edges == model.edges
    predicted = fitted.coefficients.latency_ms(rows_of(held_out)[fitted.edges])
    np.testing.assert_allclose(predicted, 2.5 * model.predict(held_out)[0], rtol=0.03)


def test_posterior_of_a_mixture_prior_matches_importance_sampling() -> None:
    """The measured device lies between two components of the prior."""
    rng = np.random.default_rng(4)
    centres = np.array([[1.0, 0.4], [0.5, 0.9]])
    spread, noise, noise_spread = np.diag([0.02, 0.01]), 0.05, 0.3
    prior = Prior(
        tuple(
            Component("live", centre, spread, probability, noise, noise_spread)
            for centre, probability in zip(centres, (0.3, 0.7), strict=True)
        ),
        None,
        "two devices",
    )
    rows, wanted = rng.uniform(0.2, 1.0, (8, 2)), np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    latency_ms = 3 * (rows @ [0.75, 0.65] + 0.05 * rng.normal(size=8))
    fitted = fit(prior, {"live": rows}, latency_ms).coefficients

    draws = 1_000_000
    of_first = rng.random(draws) < 0.3
    costs = np.where(of_first[:, None], *centres) + rng.normal(size=(draws, 2)) * np.sqrt(
        np.diag(spread)
    )
    scale = np.exp(rng.uniform(np.log(1.5), np.log(6.0), draws))
    deviation = scale * noise * np.exp(noise_spread * rng.normal(size=draws))
    distance = (latency_ms - scale[:, None] * (costs @ rows.T)) / deviation[:, None]
    log_weight = -0.5 * (distance**2).sum(axis=1) - 8 * np.log(deviation)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    assert 1 / (weight**2).sum() > 3_000
    sampled_ms = scale[:, None] * (costs @ wanted.T)
    mean_ms = weight @ sampled_ms
    std_ms = np.sqrt(weight @ (sampled_ms - mean_ms) ** 2)
    np.testing.assert_allclose(fitted.latency_ms(wanted), mean_ms, rtol=0.01)
    known = Coefficients(fitted.mean, fitted.covariance, 0.0)
    np.testing.assert_allclose(known.std_ms(wanted), std_ms, rtol=0.15)


def test_reducing_the_rows_does_not_change_the_fit(monkeypatch) -> None:
    prior = from_counts(SPACE)
    networks = sampled(80)
    rows = rows_of(networks)
    rng = np.random.default_rng(1)
    latency_ms = rows["all"] @ true_costs("all") * (1 + 0.02 * rng.normal(size=80))
    reduced = fit(prior, rows, latency_ms)
    whole = classmethod(lambda cls, rows, latency: cls(rows, latency, 0.0, len(rows)))
    monkeypatch.setattr(fit_module._Observed, "of", whole)
    full = fit(prior, rows, latency_ms)
    assert reduced.edges == full.edges
    np.testing.assert_allclose(reduced.coefficients.mean, full.coefficients.mean, atol=1e-4)
    np.testing.assert_allclose(
        reduced.coefficients.covariance, full.coefficients.covariance, atol=1e-5
    )


def test_scaling_the_latencies_scales_the_coefficients() -> None:
    prior = from_counts(SPACE)
    networks = sampled(12)
    rows = rows_of(networks)
    latency_ms = rows["live"] @ true_costs("live")
    small, large = fit(prior, rows, latency_ms), fit(prior, rows, 1e3 * latency_ms)
    np.testing.assert_allclose(large.coefficients.mean, 1e3 * small.coefficients.mean, atol=1e-3)
    assert large.coefficients.noise == pytest.approx(small.coefficients.noise)


@settings(max_examples=25, deadline=None)
@given(
    latency_ms=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    devices=st.booleans(),
)
def test_predictions_are_never_negative_and_never_fall_with_more_operators(
    latency_ms, seed, devices
) -> None:
    prior = from_devices(SPACE, DEVICES) if devices else from_counts(SPACE)
    networks = sampled(len(latency_ms), seed)
    fitted = fit(prior, rows_of(networks), np.array(latency_ms))
    known = fitted.coefficients
    assert (known.mean >= 0).all()
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 5, size=(40, 6))
    more = np.where((cells == 0) & (rng.random(cells.shape) < 0.5), 3, cells)
    pairs = [[SPACE.architecture(list(map(int, c))) for c in side] for side in (cells, more)]
    fewer_ms, more_ms = (architecture_features(SPACE, side, "live") @ known.mean for side in pairs)
    assert (more_ms >= fewer_ms - 1e-9).all()


DEVICES = [load_shipped(f"nasbench201-{name}") for name in ("1080ti_32", "gold_6240", "pixel3")]


def test_missing_or_invalid_latencies_are_refused() -> None:
    prior = from_counts(SPACE)
    for latency_ms in ([], [np.nan], [0.0], [1.0, np.inf], [1.0, np.nan], [-2.0, 1.0]):
        with pytest.raises(InputError, match="no latencies"):
            fit(prior, rows_of(sampled(len(latency_ms))), np.array(latency_ms))


def test_90_percent_intervals_cover_about_90_percent() -> None:
    """The true devices are drawn from the prior around a table."""
    space = tiny_space("darts")
    table = table_of(space)
    prior = from_table(space, table)
    (given,) = prior.components
    rule = given.edges
    rng = np.random.default_rng(5)
    networks = [space.sample(rng) for _ in range(60)]
    rows = architecture_features(space, networks, rule)
    inside = []
    for _ in range(20):
        costs = np.maximum(rng.multivariate_normal(given.mean, given.covariance), 0)
        latency_ms = 7 * (rows @ costs) * (1 + 0.02 * rng.normal(size=60))
        fitted = fit(prior, {rule: rows[:10]}, latency_ms[:10])
        known = fitted.coefficients
        error = np.abs(known.latency_ms(rows[10:]) - latency_ms[10:])
        inside.append(np.mean(error <= 1.645 * known.std_ms(rows[10:])))
    assert 0.85 <= np.mean(inside) <= 0.97


def test_calibration_is_saved_and_loaded(tmp_path) -> None:
    space = tiny_space("darts")
    table = table_of(space)
    prior = from_table(space, table)
    networks = homogeneous(space)
    latency_ms = 1.5 * CostModel(space, table).predict(networks)[0]
    fitted = fitted_table(space, prior, networks, latency_ms, "another device")
    fitted.save(tmp_path / "t.json")
    loaded = LatencyTable.load(tmp_path / "t.json")
    assert loaded == fitted
    expected, std_ms = CostModel(space, fitted).predict(networks)
    found, found_std_ms = CostModel(space, loaded).predict(networks)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found_std_ms, std_ms, rtol=1e-6)
    np.testing.assert_allclose(found, latency_ms, rtol=0.02)


def test_calibrated_table_keeps_the_operators_of_the_same_device_only(tmp_path) -> None:
    space = tiny_space("darts")
    table = table_of(space)
    path = tmp_path / "t.json"
    table.save(path)
    networks = homogeneous(space)
    latency_ms = 1.2 * CostModel(space, table).predict(networks)[0]
    prior = from_table(space, table)
    own = fitted_table(space, prior, networks, latency_ms, table.device.device, path)
    assert own.operators == table.operators
    assert own.calibration is not None
    assert not fitted_table(space, prior, networks, latency_ms, "other", path).operators


def test_sizes_without_calibration_are_refused() -> None:
    with pytest.raises(InputError, match="calibrated for another search space or other sizes"):
        CostModel(tiny_space("nasbench201"), load_shipped("nasbench201-1080ti_1"))


def test_factors_reproduce_the_covariance() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 20))
    known = Coefficients(np.ones(20), root.T @ root, 0.1)
    factors = known.factors()
    assert len(factors) == 3
    np.testing.assert_allclose(factors.T @ factors, known.covariance, atol=1e-8)


def test_edge_rules_match_an_enumeration_of_paths() -> None:
    """The edges that run in each of 625 cells are found by enumerating the paths of the graph."""
    paths = [(0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)]
    ends = {node: list(_ends(node)) for node in (1, 2)}
    row = {edge: index for index, edge in enumerate(EDGES)}
    rng = np.random.default_rng(0)
    for cell in rng.integers(0, 5, size=(625, 6)):
        present = {edge for edge in EDGES if cell[row[edge]] != 0}
        whole = [p for p in paths if set(itertools.pairwise(p)) <= present]
        live = {edge for path in whole for edge in itertools.pairwise(path)}
        read = {
            (source, target)
            for source, target in present
            if whole
            and (
                target == 3 or any(set(itertools.pairwise(end)) <= present for end in ends[target])
            )
        }
        network = SPACE.architecture([int(i) for i in cell])
        for rule, expected in (("live", live), ("read", read)):
            runs = architecture_features(SPACE, [network], rule)[0, 1:].reshape(6, 5)
            found = {edge for edge in EDGES if runs[row[edge]].sum() > 0.5}
            assert found == expected, (rule, SPACE.to_genotype(network))


def _ends(node: int) -> list[tuple[int, ...]]:
    return [(1, 3), (1, 2, 3)] if node == 1 else [(2, 3)]


def test_published_device_is_predicted_from_ten_designed_networks(real_data) -> None:
    with np.load(real_data / "help_nb201_latency_ms.npz", allow_pickle=False) as file:
        column = [str(d) for d in file["devices"]].index("silver_4210r")
        latency_ms = file["latency_ms"][:, column].astype(float)
    others = [t for t in calibrated_for("nasbench201") if "Silver" not in t.device.device]
    assert len(others) == 17
    prior = from_devices(SPACE, others)
    cells = all_cells(SPACE)
    index = {cell: i for i, cell in enumerate(cells)}
    measured = [index[network] for network in design(SPACE, prior, 10)]
    rows = {edges: architecture_features(SPACE, cells, edges) for edges in EDGE_RULES}
    fitted = fit(prior, {e: r[measured] for e, r in rows.items()}, latency_ms[measured])
    assert fitted.edges == "all"
    predicted = fitted.coefficients.latency_ms(rows["all"])
    assert spearmanr(predicted, latency_ms).statistic > 0.98


def test_calibration_lists_the_coefficients_in_the_order_of_the_space() -> None:
    networks = sampled(20)
    rows = rows_of(networks)
    fitted = fit(from_counts(SPACE), rows, rows["all"] @ true_costs("all"))
    calibration = to_calibration(SPACE, fitted, networks=20, prior="none")
    assert list(calibration.costs_ms) == [choice.name for choice in SPACE.choices]
    assert all(tuple(costs) == PRIMITIVES for costs in calibration.costs_ms.values())
