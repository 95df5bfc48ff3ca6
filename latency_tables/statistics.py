"""A latency and its 95 % confidence interval from the medians of several rounds.

The latency is a quantile of the round medians: the 10th percentile on CPUs, where changing clocks
and other processes make medians differ by a quarter between runs, and the median on GPUs.
The interval is the distribution-free one from order statistics: the number of observations below
the true q-quantile is binomial(n, q), so two ranks can be chosen that enclose it with the required
probability, whatever the distribution (H. A. David and H. N. Nagaraja, Order Statistics, 3rd
edition, section 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from hwnas.errors import InputError

Statistic = Literal["p10", "median"]
Status = Literal["ok", "noisy", "throttled", "timeout"]

QUANTILE: dict[Statistic, float] = {"p10": 0.10, "median": 0.50}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Quantiles of the round medians, the reported value and its 95 % interval, in ms.

    Attributes:
        median_ms: median.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        value_ms: the reported quantile.
        ci_low_ms: lower end of its interval.
        ci_high_ms: upper end of its interval.
        rounds: number of rounds.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    value_ms: float
    ci_low_ms: float
    ci_high_ms: float
    rounds: int

    @property
    def half_width_ms(self) -> float:
        """Half the length of the confidence interval."""
        return (self.ci_high_ms - self.ci_low_ms) / 2


def summarise(round_medians_ms: Sequence[float], statistic: Statistic) -> Summary:
    """Summarise one candidate's rounds.

    Args:
        round_medians_ms: one number for each round, in ms; differences may be negative.
        statistic: which quantile is the reported value.

    Returns:
        The summary; `ci_low_ms <= value_ms <= ci_high_ms` always holds.

    Raises:
        InputError: there is no round, or a number is not finite.
    """
    if len(round_medians_ms) == 0:
        raise InputError("no rounds to summarise", expected="at least one", actual=0)
    ordered = np.sort(np.asarray(round_medians_ms, dtype=np.float64))
    if not np.isfinite(ordered).all():
        raise InputError(
            "the time of a round is not finite", expected="finite ms", actual="NaN or Inf"
        )
    p10, median, p90 = (float(value) for value in np.quantile(ordered, [0.10, 0.50, 0.90]))
    value = {"p10": p10, "median": median}[statistic]
    low, high = interval_ranks(len(ordered), QUANTILE[statistic])
    return Summary(
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        value_ms=value,
        # The value is interpolated and may lie just outside two neighbouring ranks.
        ci_low_ms=min(float(ordered[low]), value),
        ci_high_ms=max(float(ordered[high]), value),
        rounds=len(ordered),
    )


PERCENTILE_SAMPLES = {"p50_ms": (0.50, 1), "p90_ms": (0.90, 64), "p99_ms": (0.99, 662)}
"""Percentiles of single calls, and how many samples each needs."""


def percentiles_ms(samples_ms: Sequence[float] | np.ndarray) -> dict[str, float | int | None]:
    """Return percentiles of the latencies of single calls.

    Args:
        samples_ms: one latency for each call, in ms.

    Returns:
        `p50_ms`, `p90_ms` and `p99_ms`, each None if the tail beyond it would have fewer than
        about six samples (see `PERCENTILE_SAMPLES`), and the number of `samples`.
    """
    found: dict[str, float | int | None] = {
        name: float(np.quantile(samples_ms, q)) if len(samples_ms) >= fewest else None
        for name, (q, fewest) in PERCENTILE_SAMPLES.items()
    }
    return found | {"samples": len(samples_ms)}


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of two candidates' rounds, and its 95 % interval.

    Attributes:
        value: below 1 if the candidate is faster than the reference.
        ci_low: lower end of the interval.
        ci_high: upper end of the interval.
    """

    value: float
    ci_low: float
    ci_high: float


def paired_ratio(rounds_ms: Sequence[float], reference_ms: Sequence[float]) -> Ratio:
    """Compare two candidates round by round, so that slowdowns of whole rounds cancel.

    Args:
        rounds_ms: the candidate's time in each round, in ms.
        reference_ms: the reference's time in the same rounds, in ms.

    Raises:
        InputError: there is no round, or a number is not finite.
        ValueError: the lengths differ.
    """
    ratios = [a / b for a, b in zip(rounds_ms, reference_ms, strict=True)]
    summary = summarise(ratios, "median")
    return Ratio(summary.value_ms, summary.ci_low_ms, summary.ci_high_ms)


@lru_cache(maxsize=4096)
def interval_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Return the 0-based ranks of the sorted sample that enclose the q-quantile.

    Each tail has a probability of at most (1 - confidence) / 2. If the sample is too small for
    that, the rank is that of the minimum or maximum, and the interval covers less.

    Args:
        n: sample size, at least 1.
        q: the quantile, between 0 and 1.
        confidence: required coverage.

    Returns:
        (low, high) with 0 <= low <= high < n.
    """
    tail = (1 - confidence) / 2
    # cumulative[k] = P(at most k observations lie below the quantile)
    cumulative = np.cumsum([_binomial(n, k, q) for k in range(n + 1)])
    # The observation of rank r (0-based) lies above the quantile iff at most r are below it.
    low = int(np.searchsorted(cumulative, tail, side="right")) - 1
    high = int(np.searchsorted(cumulative, 1 - tail, side="left"))
    return max(low, 0), min(max(high, 0), n - 1)


def _binomial(n: int, k: int, q: float) -> float:
    """Return P(K = k) for K ~ binomial(n, q); logarithms keep large n from overflowing."""
    log_choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log_choose + k * math.log(q) + (n - k) * math.log1p(-q))
