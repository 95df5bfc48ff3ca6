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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from hwnas.errors import InputError

Statistic = Literal["p10", "median"]
Status = Literal["ok", "noisy", "throttled", "timeout"]

QUANTILE: dict[Statistic, float] = {"p10": 0.10, "median": 0.50}
CONFIDENCE = 0.95
Z_95 = 1.96
"""Standard deviations of a Gaussian on each side of its mean that cover 95 %."""


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


SESSION_SPREAD, ASSUMED_SESSIONS = 0.02, 4
"""Relative standard deviation between sessions that is assumed until some were measured, and how
many sessions it counts as. Where a session's memory happens to lie moves a network by 2 to 3 %."""


def session_spread(groups: Iterable[Sequence[float]]) -> float:
    """Return the relative standard deviation of a latency between sessions.

    Only the deviations below a group's median count, twice: other work on the machine slows single
    sessions down by any amount, which says nothing about the sessions that it did not disturb.

    Args:
        groups: latencies of sessions, in ms; those of one group are of the same network.

    Returns:
        The deviation, together with what is assumed without a measurement.
    """
    squares, known = ASSUMED_SESSIONS * SESSION_SPREAD**2, ASSUMED_SESSIONS
    for sessions_ms in groups:
        if len(sessions_ms) > 1:
            deviations = np.log(np.asarray(sessions_ms) / np.median(sessions_ms))
            squares += 2 * float(np.square(np.minimum(deviations, 0)).sum())
            known += len(sessions_ms) - 1
    return math.sqrt(squares / known)


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

    def widened(self, spread: float, sessions: int) -> Ratio:
        """Return the ratio with an interval that contains what sessions differ by.

        Args:
            spread: relative standard deviation between sessions, of both candidates.
            sessions: how many sessions of each the rounds are means of.
        """
        half = Z_95 * spread * math.sqrt(2 / sessions)
        return Ratio(self.value, self.ci_low * max(0.0, 1 - half), self.ci_high * (1 + half))


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
