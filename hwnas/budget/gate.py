"""The budget's gate: whole networks measured on the device, judged against the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hwnas.latency_tables.runtimes import Runtime
from hwnas.latency_tables.statistics import Statistic, Status, Summary, summarise
from hwnas.latency_tables.timing import Protocol, measure, status_of
from hwnas.runs import interruption

GateStatus = Literal["pass", "fail", "inconclusive", "skipped"]

TOLERANCE = 1e-6
"""Relative slack for rounding when a predicted latency is compared with a budget."""
MIN_ROUNDS = 300
"""About a second, to meet a shared machine's fast moments: the statistic is about them."""
MAX_ROUNDS = 100_000
JUDGED_ROUNDS = 40
"""With fewer rounds the interval of a 10th percentile has no lower end, and nothing is judged."""
SLOW_FACTOR, SLOW_SHARE = 2.0, 1 / 3
"""A shared CPU may be slower by such a factor for a while: a network that is over its budget by
less is measured for such a share of the time before it fails."""
CALLS_PER_ROUND = 24
"""Of a slow network: three blocks and the sentinel's, and all that up to three times."""


@dataclass(frozen=True)
class NetworkLatency:
    """Measured latency of one inference of a whole network.

    Attributes:
        median_ms, p10_ms, p90_ms: quantiles of the round medians.
        statistic: the one that is compared with budgets, `p10` on CPUs and `median` on GPUs.
        value_ms: that statistic.
        ci_low_ms, ci_high_ms: its 95 % confidence interval.
        rounds: how many; 0 where a file states the latency and nothing was measured here.
        status: of the measurement.
        runtime: where it ran.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    statistic: Statistic
    value_ms: float
    ci_low_ms: float
    ci_high_ms: float
    rounds: int
    status: Status
    runtime: str

    @classmethod
    def of_rounds(
        cls, rounds_ms: Sequence[float], statistic: Statistic, runtime: str
    ) -> NetworkLatency:
        """The latency by the medians of its rounds."""
        summary = summarise(rounds_ms, statistic)
        judged = Protocol(min_rounds=JUDGED_ROUNDS)
        return cls(
            median_ms=summary.median_ms,
            p10_ms=summary.p10_ms,
            p90_ms=summary.p90_ms,
            statistic=statistic,
            value_ms=summary.value_ms,
            ci_low_ms=summary.ci_low_ms,
            ci_high_ms=summary.ci_high_ms,
            rounds=summary.rounds,
            status=status_of(list(rounds_ms), judged, statistic),
            runtime=runtime,
        )

    @classmethod
    def stated(cls, latency_ms: float, runtime: str) -> NetworkLatency:
        """A latency that somebody else measured, taken as it is."""
        return cls(
            median_ms=latency_ms,
            p10_ms=latency_ms,
            p90_ms=latency_ms,
            statistic="median",
            value_ms=latency_ms,
            ci_low_ms=latency_ms,
            ci_high_ms=latency_ms,
            rounds=0,
            status="ok",
            runtime=runtime,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def gate(self, budget_ms: float) -> GateStatus:
        """Pass when the interval is within the budget, fail when it is over it."""
        if 0 < self.rounds < JUDGED_ROUNDS:
            return "inconclusive"
        return judge(self.ci_low_ms, self.ci_high_ms, budget_ms)


def judge(ci_low_ms: float, ci_high_ms: float, budget_ms: float) -> GateStatus:
    """Pass when the upper end is within the budget, fail when the lower end is over it."""
    if ci_high_ms <= budget_ms:
        return "pass"
    return "fail" if ci_low_ms > budget_ms else "inconclusive"


def is_decided(summary: Summary, budget_ms: float, statistic: Statistic, time_share: float) -> bool:
    """Whether a network is judged as far as measuring goes; see `measure_together`.

    Args:
        summary: of its rounds so far.
        budget_ms: what it is judged by.
        statistic: of the device.
        time_share: how much of the time has gone.
    """
    status = judge(summary.ci_low_ms, summary.ci_high_ms, budget_ms)
    may_be_slow = statistic == "p10" and summary.ci_low_ms < SLOW_FACTOR * budget_ms
    if status == "fail" and may_be_slow:
        return time_share >= SLOW_SHARE
    return status != "inconclusive"


def measure_network(
    call: Callable[[], None], runtime: Runtime, *, budget_ms: float | None, seconds: float
) -> NetworkLatency:
    """Measure one network; arguments and errors as for `measure_together`."""
    rounds = measure_together({"network": call}, runtime, budget_ms=budget_ms, seconds=seconds)
    return NetworkLatency.of_rounds(rounds["network"], runtime.statistic, runtime.name)


def measure_together(
    calls: Mapping[str, Callable[[], None]],
    runtime: Runtime,
    *,
    budget_ms: float | None,
    seconds: float,
) -> dict[str, tuple[float, ...]]:
    """Measure in interleaved rounds until the budget's gate is decided, or for the time given.

    The gate is looked at after 300, 600, 1200 ... rounds, so that it is not tested so often that
    chance decides it. On a CPU a network that fails narrowly is measured for a third of the time at
    least: the statistic is about the machine's fast moments, which may be yet to come.

    Args:
        calls: one inference of each network, by name.
        runtime: supplies the clock and the statistic.
        budget_ms: measuring goes on while the gate is inconclusive; None to stop at 300 rounds.
        seconds: limit; where there is a budget, slow networks are given the time that the fewest
            rounds take.

    Returns:
        The round medians in ms of each network; entry i of all comes from the same round.

    Raises:
        Interrupted: after a signal.
    """
    look, started = MIN_ROUNDS, time.monotonic()
    fewest_s = 0.0
    if budget_ms is not None:
        round_ms = sum(runtime.time_block(call, 2) / 2 for call in calls.values())
        fewest_s = 3.0 * len(calls) + JUDGED_ROUNDS * CALLS_PER_ROUND * round_ms / 1e3

    def decided(summaries: dict[str, Summary]) -> bool:
        nonlocal look
        if next(iter(summaries.values())).rounds < look:
            return False
        look *= 2
        share = (time.monotonic() - started) / seconds
        return budget_ms is None or all(
            is_decided(summary, budget_ms, runtime.statistic, share)
            for summary in summaries.values()
        )

    found = measure(
        calls,
        # The width of the interval alone ends nothing: `decided` does.
        Protocol(
            min_rounds=MIN_ROUNDS,
            max_rounds=MAX_ROUNDS,
            time_limit_s=max(seconds, fewest_s),
            half_width=1e-9,
            # No single one of several is a sentinel of the others.
            sentinel_drift=Protocol.sentinel_drift if len(calls) == 1 else 10.0,
        ),
        statistic=runtime.statistic,
        time_block=runtime.time_block,
        progress=lambda done, total: interruption.stop_if_requested(),
        stop=decided,
    )
    return {name: result.rounds_ms for name, result in found.items()}
