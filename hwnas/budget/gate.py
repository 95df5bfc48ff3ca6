"""The latency gate: whole networks are measured on the device and compared with the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from hwnas.budget.speed import MachineSpeed, RecordedSpeed, spread_of
from hwnas.latency_tables.measuring.speed_reference import NAME as REFERENCE
from hwnas.latency_tables.measuring.speed_reference import compiles_modules, prepare_reference
from hwnas.latency_tables.runtimes import Runtime
from hwnas.latency_tables.statistics import Z_95, Statistic, Status, summarise
from hwnas.latency_tables.timing import Protocol, status_of
from hwnas.runs import interruption

T = TypeVar("T")
GateStatus = Literal["pass", "fail", "inconclusive", "reported", "skipped"]

TOLERANCE = 1e-6
"""Relative tolerance for rounding errors when a predicted latency is compared with a budget."""
SESSION_ROUNDS = 100
"""Rounds of a session. The 10th percentile of fewer would be that of a few undisturbed rounds."""
FIRST_LOOK = 3
"""Sessions before the first look at the verdict, and all of a measurement without a budget."""
MAX_SESSIONS = 24
TOGETHER_ROUNDS = 300
"""Rounds of networks that are measured together, in sessions that exist already."""
JUDGED_ROUNDS = 40
"""Fewest rounds for a verdict: with fewer, the confidence interval of a 10th percentile has no
lower end."""
SLOW_FACTOR, SLOW_SHARE = 2.0, 1 / 3
"""Other load can slow a shared CPU down for a while. A network that exceeds its budget by less than
this factor is therefore measured for at least this fraction of the time before it fails."""
PAUSE_S = 0.5
"""Pause before the second look; it doubles with each look, so that load has time to pass."""
BLOCKS_PER_ROUND = 3
"""Inferences per round of a slow network: one in each block."""


@dataclass(frozen=True)
class Session:
    """The medians of the rounds of one session, in ms.

    Attributes:
        rounds_ms: of the network.
        reference_ms: of the speed reference in the same rounds; empty if the runtime has none.
    """

    rounds_ms: Sequence[float]
    reference_ms: Sequence[float] = ()


@dataclass(frozen=True)
class NetworkLatency:
    """Measured latency of one inference of a whole network.

    Attributes:
        median_ms, p10_ms, p90_ms: quantiles of the round medians of all sessions.
        statistic: the statistic that is compared with budgets, `p10` on CPUs, `median` on GPUs.
        value_ms: value of the statistic, the median over the sessions.
        ci_low_ms, ci_high_ms: its 95 % confidence interval; if measured here, with what sessions
            differ from each other.
        rounds: number of rounds; 0 if the latency comes from a file and was not measured.
        status: quality of the measurement.
        runtime: name of the runtime that executed the network.
        sessions_ms: value of the statistic in each session; empty if it was not measured here.
        spread: relative standard deviation between sessions that the interval contains.
        speed: how fast the machine was meanwhile; None if that is not known.
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
    sessions_ms: tuple[float, ...] = ()
    spread: float = 0.0
    speed: MachineSpeed | None = None

    @classmethod
    def of_sessions(
        cls,
        sessions: Sequence[Session],
        statistic: Statistic,
        runtime: str,
        recorded: RecordedSpeed | None = None,
    ) -> NetworkLatency:
        """Summarise the sessions of a network.

        Args:
            sessions: at least one.
            statistic: the statistic of the device.
            runtime: name of the runtime.
            recorded: the speed reference on earlier occasions, if there were any.
        """
        recorded = recorded or RecordedSpeed()
        found = [summarise(session.rounds_ms, statistic) for session in sessions]
        values_ms = [summary.value_ms for summary in found]
        references_ms = [
            summarise(session.reference_ms, statistic).value_ms
            for session in sessions
            if session.reference_ms
        ]
        value_ms = summarise(values_ms, "median").value_ms
        spread = spread_of(values_ms, references_ms, recorded)
        within = sum(summary.half_width_ms / summary.value_ms for summary in found) / len(found)
        half = math.hypot(within, Z_95 * spread) / math.sqrt(len(found))
        together = cls.of_rounds([ms for s in sessions for ms in s.rounds_ms], statistic, runtime)
        return replace(
            together,
            value_ms=value_ms,
            ci_low_ms=value_ms * max(0.0, 1 - half),
            ci_high_ms=value_ms * (1 + half),
            sessions_ms=tuple(values_ms),
            spread=spread,
            speed=MachineSpeed.of_sessions(references_ms, recorded) if references_ms else None,
        )

    @classmethod
    def of_rounds(
        cls, rounds_ms: Sequence[float], statistic: Statistic, runtime: str
    ) -> NetworkLatency:
        """Summarise the rounds of a measurement on another device, which was one session."""
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

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> NetworkLatency:
        """Read what `to_json` returned, of this version or of one that knew no sessions."""
        speed = content.get("speed")
        given = content | {"speed": None if speed is None else MachineSpeed.from_json(speed)}
        return cls(**given | {"sessions_ms": tuple(content.get("sessions_ms", ()))})

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        speed = None if self.speed is None else self.speed.to_json()
        return vars(self) | {"sessions_ms": list(self.sessions_ms), "speed": speed}

    def gate(self, budget_ms: float) -> GateStatus:
        """Judge the latency against a budget.

        Returns:
            `pass` if the whole interval is within the budget, and would be at the recorded speed of
            the machine. `fail` if every session and the whole interval are over it, and would be
            if the machine's drift were taken away. Otherwise, and with too few rounds,
            `inconclusive`.
        """
        if 0 < self.rounds < JUDGED_ROUNDS:
            return "inconclusive"
        low_ms, high_ms = self.ci_low_ms, self.ci_high_ms
        if self.speed is not None:
            low_ms, high_ms = low_ms / self.speed.slowdown, high_ms * self.speed.speedup
        status = judge(low_ms, high_ms, budget_ms)
        if status == "fail" and min(self.sessions_ms, default=math.inf) <= budget_ms:
            return "inconclusive"
        return status

    def explanation(self, budget_ms: float) -> str | None:
        """Why a verdict on the budget is inconclusive, in a sentence; None if it is not."""
        if self.gate(budget_ms) != "inconclusive":
            return None
        plain = judge(self.ci_low_ms, self.ci_high_ms, budget_ms)
        if self.rounds < JUDGED_ROUNDS:
            return f"{self.rounds} rounds are too few for a verdict"
        if self.speed is not None and plain == "pass":
            return f"it would be over the budget at the recorded speed: {self.speed.in_words()}"
        if self.speed is not None and plain == "fail" and self.speed.slowdown > 1:
            return f"a slow machine explains that it is over the budget: {self.speed.in_words()}"
        number = max(1, len(self.sessions_ms))
        return (
            f"{number} sessions differ too much to decide (95 % interval {self.ci_low_ms:.4g} to "
            f"{self.ci_high_ms:.4g} ms); measure on a quieter machine or for longer"
        )


def judge(ci_low_ms: float, ci_high_ms: float, budget_ms: float) -> GateStatus:
    """Judge a confidence interval against a budget.

    Returns:
        `pass` if the whole interval is within the budget, `fail` if the whole interval is over
        it, and `inconclusive` if the budget lies inside.
    """
    if ci_high_ms <= budget_ms:
        return "pass"
    return "fail" if ci_low_ms > budget_ms else "inconclusive"


def is_decided(latency: NetworkLatency, budget_ms: float, time_share: float) -> bool:
    """Return whether measuring can stop because the verdict on a network is clear.

    Args:
        latency: the sessions so far.
        budget_ms: the budget.
        time_share: fraction of the measuring time that has passed.
    """
    status = latency.gate(budget_ms)
    may_be_slow = latency.statistic == "p10" and latency.ci_low_ms < SLOW_FACTOR * budget_ms
    if status == "fail" and may_be_slow:
        return time_share >= SLOW_SHARE
    return status != "inconclusive"


def measure_network(
    prepare: Callable[[], Callable[[], None]],
    runtime: Runtime,
    *,
    budget_ms: float | None,
    seconds: float,
    recorded: RecordedSpeed | None = None,
) -> NetworkLatency:
    """Measure one network in several sessions, until the verdict is clear or time is up.

    Each session prepares the network and the speed reference anew and times them in the same
    rounds. The verdict is looked at after 3, 6, 12 and 24 sessions, because looking more often
    would make it likely that chance decides. Before each further look there is a pause, so that
    other work may end. On a CPU, a network that narrowly exceeds the budget is measured for at
    least a third of the time.

    Args:
        prepare: prepares the network and returns a function that runs it once. Networks that are
            compiled are prepared once, since it takes too long.
        runtime: supplies the clock and the statistic.
        budget_ms: the budget; None to stop at the first look.
        seconds: time limit. With a budget, it is extended for slow networks to the time of the
            fewest rounds that allow a verdict.
        recorded: the speed reference on earlier occasions.

    Raises:
        Interrupted: a signal was received.
    """
    if compiles_modules(runtime):
        call = prepare()
        prepare = lambda: call  # noqa: E731
    started, sessions, look, pause_s = time.monotonic(), list[Session](), FIRST_LOOK, PAUSE_S
    while True:
        left_s = seconds - (time.monotonic() - started)
        is_judged = budget_ms is not None
        measure_one = partial(measure_session, prepare, runtime, left_s, is_judged=is_judged)
        sessions += in_parallel([measure_one] * min(runtime.parallel, look - len(sessions)))
        share = (time.monotonic() - started) / seconds
        if len(sessions) < look and share < 1:
            continue
        latency = NetworkLatency.of_sessions(sessions, runtime.statistic, runtime.name, recorded)
        is_over = share >= 1 or look >= MAX_SESSIONS
        if budget_ms is None or is_over or is_decided(latency, budget_ms, share):
            return latency
        look, pause_s = 2 * look, 2 * pause_s
        time.sleep(min(pause_s, (1 - share) * seconds / 4))


def in_parallel(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Call functions at the same time, in threads where there are several."""
    if len(calls) == 1:
        return [calls[0]()]
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: call(), calls))


def measure_session(
    prepare: Callable[[], Callable[[], None]],
    runtime: Runtime,
    seconds: float,
    *,
    is_judged: bool = True,
) -> Session:
    """Prepare a network and the speed reference anew, and time them in the same rounds.

    Args:
        prepare: prepares the network and returns a function that runs it once.
        runtime: supplies the clock and the statistic.
        seconds: time limit.
        is_judged: whether the limit is extended to the fewest rounds that allow a verdict.

    Raises:
        Interrupted: a signal was received.
    """
    call, reference = prepare(), prepare_reference(runtime)
    calls = {"network": call} if reference is None else {REFERENCE: reference, "network": call}
    fewest_s = _seconds_for_a_verdict(call, runtime) if is_judged else 0.0
    found = runtime.measure(
        calls,
        Protocol(
            warmup_s=0.1,
            min_rounds=SESSION_ROUNDS,
            max_rounds=SESSION_ROUNDS,
            max_repeats=0,  # the sessions differ by more than what happens within a round
            time_limit_s=max(seconds, fewest_s, 0.1),
        ),
        progress=lambda done, total: interruption.stop_if_requested(),
    )
    rounds_ms = {name: result.rounds_ms for name, result in found.items()}
    return Session(rounds_ms["network"], rounds_ms.get(REFERENCE, ()))


def measure_together(
    calls: Mapping[str, Callable[[], None]], runtime: Runtime, *, seconds: float
) -> dict[str, tuple[float, ...]]:
    """Measure networks in the same rounds, so that they can be compared.

    Args:
        calls: one inference of each network, by name.
        runtime: supplies the clock and the statistic.
        seconds: time limit.

    Returns:
        The median latency of each round in ms, for each network; entry i of all networks comes
        from the same round.

    Raises:
        Interrupted: a signal was received.
    """
    found = runtime.measure(
        calls,
        Protocol(
            min_rounds=TOGETHER_ROUNDS,
            max_rounds=TOGETHER_ROUNDS,
            time_limit_s=seconds,
            max_repeats=0,  # none of the networks serves as the sentinel of the others
        ),
        progress=lambda done, total: interruption.stop_if_requested(),
    )
    return {name: result.rounds_ms for name, result in found.items()}


def _seconds_for_a_verdict(call: Callable[[], None], runtime: Runtime) -> float:
    """Estimate the time of the fewest rounds that allow a verdict on a slow network."""
    return 1.0 + JUDGED_ROUNDS * BLOCKS_PER_ROUND * runtime.time_block(call, 2) / 2 / 1e3
