"""The budget's gate: whole networks measured on the device, judged against the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hwnas.latency_tables.runtimes import Runtime
from hwnas.latency_tables.statistics import Statistic, Status
from hwnas.latency_tables.timing import Protocol, measure

GateStatus = Literal["pass", "fail", "inconclusive", "skipped"]

MIN_ROUNDS = 300
"""About a second, to meet a shared machine's fast moments: the statistic is about them."""
MAX_ROUNDS = 100_000
PRECISE_ENOUGH = 0.003
"""Half width of the interval, as a share of the value, at which measuring longer is no use."""


@dataclass(frozen=True)
class NetworkLatency:
    """Measured latency of one inference of a whole network.

    Attributes:
        median_ms, p10_ms, p90_ms: quantiles of the round medians.
        statistic: the one that is compared with budgets, `p10` on CPUs and `median` on GPUs.
        value_ms: that statistic.
        ci_low_ms, ci_high_ms: its 95 % confidence interval.
        rounds: how many.
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

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def gate(self, budget_ms: float) -> GateStatus:
        """Pass when the interval is within the budget, fail when it is over it."""
        return judge(self.ci_low_ms, self.ci_high_ms, budget_ms)


def judge(ci_low_ms: float, ci_high_ms: float, budget_ms: float) -> GateStatus:
    """Pass when the upper end is within the budget, fail when the lower end is over it."""
    if ci_high_ms <= budget_ms:
        return "pass"
    return "fail" if ci_low_ms > budget_ms else "inconclusive"


def measure_network(
    call: Callable[[], None],
    runtime: Runtime,
    *,
    budget_ms: float | None,
    seconds: float,
    progress: Callable[[int, int], None] | None = None,
) -> NetworkLatency:
    """Measure until the budget's gate is decided, or for the time given.

    Args:
        call: one inference.
        runtime: supplies the clock and the statistic.
        budget_ms: measuring goes on while the gate is inconclusive; None to be just precise.
        seconds: limit.
        progress: told the rounds done and their limit.
    """
    protocol = Protocol(
        min_rounds=MIN_ROUNDS,
        max_rounds=MAX_ROUNDS,
        time_limit_s=seconds,
        half_width=PRECISE_ENOUGH if budget_ms is not None else 0.02,
    )
    result = measure(
        {"network": call},
        protocol,
        statistic=runtime.statistic,
        time_block=runtime.time_block,
        progress=progress,
        stop=lambda summaries: (
            budget_ms is not None
            and judge(summaries["network"].ci_low_ms, summaries["network"].ci_high_ms, budget_ms)
            != "inconclusive"
        ),
    )["network"]
    summary = result.summary
    return NetworkLatency(
        median_ms=summary.median_ms,
        p10_ms=summary.p10_ms,
        p90_ms=summary.p90_ms,
        statistic=runtime.statistic,
        value_ms=summary.value_ms,
        ci_low_ms=summary.ci_low_ms,
        ci_high_ms=summary.ci_high_ms,
        rounds=summary.rounds,
        status=result.status,
        runtime=runtime.name,
    )
