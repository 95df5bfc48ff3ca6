"""The latency gate: whole networks are measured on the device and compared with the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hwnas.latency_tables.runtimes import Runtime
from hwnas.latency_tables.statistics import Statistic, Status, Summary, summarise
from hwnas.latency_tables.timing import Protocol, measure, status_of
from hwnas.runs import interruption

GateStatus = Literal["pass", "fail", "inconclusive", "reported", "skipped"]

TOLERANCE = 1e-6
"""Relative tolerance for rounding errors when a predicted latency is compared with a budget."""
MIN_ROUNDS = 300
"""Fewest rounds of a measurement, about a second; the 10th percentile needs undisturbed rounds."""
MAX_ROUNDS = 100_000
JUDGED_ROUNDS = 40
"""Fewest rounds for a verdict: with fewer, the confidence interval of a 10th percentile has no
lower end."""
SLOW_FACTOR, SLOW_SHARE = 2.0, 1 / 3
"""Other load can slow a shared CPU down for a while. A network that exceeds its budget by less than
this factor is therefore measured for at least this fraction of the time before it fails."""
CALLS_PER_ROUND = 24
"""Most inferences per round of a slow network: three blocks and one of the sentinel, with up to
two repetitions of each."""


@dataclass(frozen=True)
class NetworkLatency:
    """Measured latency of one inference of a whole network.

    Attributes:
        median_ms, p10_ms, p90_ms: quantiles of the round medians.
        statistic: the statistic that is compared with budgets, `p10` on CPUs, `median` on GPUs.
        value_ms: value of the statistic.
        ci_low_ms, ci_high_ms: its 95 % confidence interval.
        rounds: number of rounds; 0 if the latency comes from a file and was not measured.
        status: quality of the measurement.
        runtime: name of the runtime that executed the network.
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
        """Summarise the medians of the rounds of a measurement."""
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
        """Return a latency that was measured elsewhere and has no uncertainty."""
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
        """Return the fields by name."""
        return asdict(self)

    def gate(self, budget_ms: float) -> GateStatus:
        """Judge the latency against a budget, as `judge` does; inconclusive with too few rounds."""
        if 0 < self.rounds < JUDGED_ROUNDS:
            return "inconclusive"
        return judge(self.ci_low_ms, self.ci_high_ms, budget_ms)


def judge(ci_low_ms: float, ci_high_ms: float, budget_ms: float) -> GateStatus:
    """Judge a confidence interval against a budget.

    Returns:
        `pass` if the whole interval is within the budget, `fail` if the whole interval is over
        it, and `inconclusive` if the budget lies inside.
    """
    if ci_high_ms <= budget_ms:
        return "pass"
    return "fail" if ci_low_ms > budget_ms else "inconclusive"


def is_decided(summary: Summary, budget_ms: float, statistic: Statistic, time_share: float) -> bool:
    """Return whether measuring can stop because the verdict on a network is clear.

    Args:
        summary: summary of the rounds so far.
        budget_ms: the budget.
        statistic: the statistic of the device that is compared with the budget.
        time_share: fraction of the measuring time that has passed.
    """
    status = judge(summary.ci_low_ms, summary.ci_high_ms, budget_ms)
    may_be_slow = statistic == "p10" and summary.ci_low_ms < SLOW_FACTOR * budget_ms
    if status == "fail" and may_be_slow:
        return time_share >= SLOW_SHARE
    return status != "inconclusive"


def measure_network(
    call: Callable[[], None], runtime: Runtime, *, budget_ms: float | None, seconds: float
) -> NetworkLatency:
    """Measure one network; see `measure_together` for the arguments and errors."""
    rounds = measure_together({"network": call}, runtime, budget_ms=budget_ms, seconds=seconds)
    return NetworkLatency.of_rounds(rounds["network"], runtime.statistic, runtime.name)


def measure_together(
    calls: Mapping[str, Callable[[], None]],
    runtime: Runtime,
    *,
    budget_ms: float | None,
    seconds: float,
) -> dict[str, tuple[float, ...]]:
    """Measure networks in interleaved rounds until the verdict on each is clear or time is up.

    The verdicts are tested after 300, 600, 1200, ... rounds; testing more often would make it
    likely that one of the tests stops by chance. On a CPU, a network that narrowly exceeds the
    budget is measured for at least a third of the time, because other load on the machine may
    have slowed it down.

    Args:
        calls: one inference of each network, by name.
        runtime: supplies the clock and the statistic.
        budget_ms: the budget; None to stop at 300 rounds.
        seconds: time limit. With a budget, it is extended for slow networks to the time of the
            fewest rounds that allow a verdict.

    Returns:
        The median latency of each round in ms, for each network; entry i of all networks comes
        from the same round.

    Raises:
        Interrupted: a signal was received.
    """
    stopping = _StoppingRule(budget_ms, runtime.statistic, seconds)
    fewest_s = 0.0 if budget_ms is None else _seconds_for_a_verdict(calls, runtime)
    found = measure(
        calls,
        Protocol(
            min_rounds=MIN_ROUNDS,
            max_rounds=MAX_ROUNDS,
            time_limit_s=max(seconds, fewest_s),
            half_width=1e-9,  # never reached: the stopping rule ends the measurement
            # Of several networks, none serves as the sentinel of the others.
            sentinel_drift=Protocol.sentinel_drift if len(calls) == 1 else 10.0,
        ),
        statistic=runtime.statistic,
        time_block=runtime.time_block,
        progress=lambda done, total: interruption.stop_if_requested(),
        stop=stopping,
    )
    return {name: result.rounds_ms for name, result in found.items()}


class _StoppingRule:
    """Ends a measurement when the verdicts on all networks are clear."""

    def __init__(self, budget_ms: float | None, statistic: Statistic, seconds: float) -> None:
        self._budget_ms = budget_ms
        self._statistic = statistic
        self._seconds = seconds
        self._started = time.monotonic()
        self._next_test = MIN_ROUNDS

    def __call__(self, summaries: dict[str, Summary]) -> bool:
        budget_ms = self._budget_ms
        if next(iter(summaries.values())).rounds < self._next_test:
            return False
        self._next_test *= 2
        time_share = (time.monotonic() - self._started) / self._seconds
        return budget_ms is None or all(
            is_decided(summary, budget_ms, self._statistic, time_share)
            for summary in summaries.values()
        )


def _seconds_for_a_verdict(calls: Mapping[str, Callable[[], None]], runtime: Runtime) -> float:
    """Estimate the time of the fewest rounds that allow a verdict on slow networks."""
    round_ms = sum(runtime.time_block(call, 2) / 2 for call in calls.values())
    return 3.0 * len(calls) + JUDGED_ROUNDS * CALLS_PER_ROUND * round_ms / 1e3
