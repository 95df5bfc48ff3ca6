"""Statistics of the audit against their definitions, and the audits of shipped tables."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space
from scipy.stats import kendalltau, spearmanr

from hwnas.budget.cost import CostModel
from hwnas.calibration.audit import audit, rank_correlations
from hwnas.errors import InputError
from hwnas.latency_tables.shipped import load_shipped, shipped_names


def test_statistics_match_their_definitions(rng) -> None:
    space = tiny_space("darts")
    table = table_of(space)
    networks = [space.sample(rng) for _ in range(40)]
    predicted_ms, std_ms = CostModel(space, table).predict(networks)
    latency_ms = predicted_ms * (1 + 0.08 * rng.normal(size=40))
    again_ms = latency_ms * np.where(np.arange(40) % 2, 1.01, 0.97)
    found = audit(space, table, networks, latency_ms, again_ms)
    error = np.abs(predicted_ms - latency_ms) / latency_ms
    assert found.spearman == pytest.approx(spearmanr(predicted_ms, latency_ms).statistic)
    assert found.kendall == pytest.approx(kendalltau(predicted_ms, latency_ms).statistic)
    assert found.median_error == pytest.approx(np.median(error))
    assert found.p95_error == pytest.approx(np.quantile(error, 0.95))
    assert found.within_10_percent == np.mean(error <= 0.1)
    inside = np.abs(predicted_ms - latency_ms) <= 1.6448536 * std_ms
    assert found.within_90_interval == pytest.approx(np.mean(inside))
    params, macs = zip(*(space.params_and_macs(n) for n in networks), strict=True)
    assert spearmanr(params, latency_ms).statistic != spearmanr(macs, latency_ms).statistic
    for proxy, counts in ((found.params, params), (found.macs, macs)):
        assert proxy.spearman == pytest.approx(spearmanr(counts, latency_ms).statistic)
        assert proxy.kendall == pytest.approx(kendalltau(counts, latency_ms).statistic)
    assert found.networks == found.repeatability.networks == 40
    assert found.repeatability.median_difference == pytest.approx(0.02, abs=1e-9)
    assert found.repeatability.p95_difference == pytest.approx(0.03, abs=1e-9)


def test_audit_tells_if_macs_rank_better_than_the_table(rng) -> None:
    space = tiny_space("darts")
    table = table_of(space)
    networks = [space.sample(rng) for _ in range(30)]
    macs = np.array([space.params_and_macs(n)[1] for n in networks], dtype=float)
    assert audit(space, table, networks, macs).loses_to_macs
    predicted_ms, _ = CostModel(space, table).predict(networks)
    assert not audit(space, table, networks, predicted_ms).loses_to_macs


def test_too_few_networks_are_refused(rng) -> None:
    space = tiny_space("darts")
    with pytest.raises(InputError, match="too few networks"):
        audit(space, table_of(space), [space.sample(rng)], np.ones(1))


def test_rank_correlation_of_equal_latencies_is_zero() -> None:
    assert rank_correlations(np.arange(5.0), np.ones(5)).spearman == 0.0


def test_shipped_tables_have_a_source_and_a_good_audit() -> None:
    names = shipped_names()
    assert sum(name.startswith("nasbench201-") for name in names) >= 19
    for name in names:
        table = load_shipped(name)
        assert table.source is not None or table.operators
        if table.calibration is not None and table.source is not None:
            assert table.audit is not None
            assert table.audit.spearman > 0.93
            assert not table.audit.loses_to_macs, name
