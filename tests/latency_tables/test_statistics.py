"""The reported value and its interval, against scipy's binomial and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hwnas.errors import InputError
from hwnas.latency_tables.statistics import interval_ranks, paired_ratio, percentiles_ms, summarise

times = st.floats(min_value=1e-6, max_value=1e6)


@given(st.lists(times, min_size=1, max_size=60), st.sampled_from(["p10", "median"]))
def test_value_lies_in_its_interval_and_quantiles_are_ordered(rounds_ms, statistic):
    summary = summarise(rounds_ms, statistic)
    assert summary.ci_low_ms <= summary.value_ms <= summary.ci_high_ms
    assert min(rounds_ms) <= summary.p10_ms <= summary.median_ms <= summary.p90_ms
    assert summary.p90_ms <= max(rounds_ms)
    assert summary.rounds == len(rounds_ms)
    assert summary.value_ms == (summary.p10_ms if statistic == "p10" else summary.median_ms)


@given(st.permutations([3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0, 3.5]))
def test_order_of_rounds_does_not_matter(rounds_ms):
    assert summarise(rounds_ms, "p10") == summarise(sorted(rounds_ms), "p10")


@pytest.mark.parametrize("q", [0.1, 0.5])
@pytest.mark.parametrize("n", [1, 2, 5, 10, 35, 36, 50, 100, 200, 501])
def test_ranks_are_the_tightest_that_the_binomial_allows(n, q):
    low, high = interval_ranks(n, q)
    below = binom(n, q)
    # Rank r lies above the quantile iff at most r observations are below it.
    fitting_low = [r for r in range(n) if below.cdf(r) <= 0.025]
    fitting_high = [r for r in range(n) if below.sf(r) <= 0.025]
    assert low == max(fitting_low, default=0)
    assert high == min(fitting_high, default=n - 1)


@pytest.mark.parametrize("statistic, q", [("p10", 0.1), ("median", 0.5)])
def test_interval_covers_the_true_quantile_in_95_percent_of_samples(statistic, q):
    rng = np.random.default_rng(7)
    # A mixture of two machine speeds, as on a shared CPU, which is far from a normal distribution.
    population = rng.lognormal(0, 0.1, 100_000) * rng.choice([1.0, 1.6], 100_000)
    truth = np.quantile(population, q)
    trials = 800
    covered = 0
    for _ in range(trials):
        summary = summarise(rng.choice(population, 80), statistic)
        covered += summary.ci_low_ms <= truth <= summary.ci_high_ms
    # At least 95 %, less three standard errors of the simulation; 100 % would be too wide.
    assert 0.927 <= covered / trials <= 0.99


def test_a_small_sample_clamps_to_its_minimum_and_maximum():
    summary = summarise([2.0, 1.0, 3.0], "median")
    assert (summary.ci_low_ms, summary.value_ms, summary.ci_high_ms) == (1.0, 2.0, 3.0)
    assert summary.half_width_ms == 1.0


@pytest.mark.parametrize("rounds_ms", [[], [1.0, float("nan")], [float("inf")]])
def test_invalid_rounds_are_refused(rounds_ms):
    with pytest.raises(InputError):
        summarise(rounds_ms, "p10")


def test_a_paired_ratio_is_not_affected_by_changes_of_the_machines_speed():
    rng = np.random.default_rng(3)
    speed = rng.choice([1.0, 1.6], 300)
    reference_ms = 2.0 * speed * rng.normal(1, 0.02, 300)
    ratio = paired_ratio(1.8 * speed * rng.normal(1, 0.02, 300), reference_ms)
    assert ratio.ci_low < 0.9 < ratio.ci_high
    assert ratio.ci_high - ratio.ci_low < 0.02
    same = paired_ratio(reference_ms, reference_ms)
    assert (same.value, same.ci_low, same.ci_high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0], [1.0, 2.0])


def test_percentiles_need_enough_samples():
    samples = list(range(1, 1001))
    found = {n: percentiles_ms(samples[:n]) for n in (1, 63, 64, 661, 662)}
    assert [found[n]["p90_ms"] is None for n in found] == [True, True, False, False, False]
    assert [found[n]["p99_ms"] is None for n in found] == [True] * 4 + [False]
    assert found[662]["p50_ms"] == np.median(samples[:662])
    assert found[662]["samples"] == 662
