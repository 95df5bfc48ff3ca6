"""Interleaved timing: every round runs every candidate, so that all see the same machine state.

A shared CPU switches between speeds that differ by half. Candidates that are timed one after the
other may each see another speed, which makes their comparison meaningless. Here a round is short
and runs all candidates. The first one, the sentinel, is timed at the start and at the end of each
round, and a round is repeated if its two times differ. No measurement is discarded afterwards:
noisy results are reported as noisy.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from hwnas.errors import InputError
from hwnas.latency_tables.statistics import Statistic, Status, Summary, summarise

Call = Callable[[], None]
TimeBlock = Callable[[Call, int], float]

MAX_HALVES_DRIFT = 0.03
"""Relative difference between the two halves of the rounds above which a result is noisy."""
MAX_CALLS = 1_000_000
"""Bounds the search for a block length on a clock that is too coarse to time the calls."""

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Protocol:
    """Parameters of a measurement; stored in every table that was measured by this package.

    Attributes:
        warmup_s: each candidate runs at least this long before the first round.
        block_ms: calls are timed in blocks of at least this length.
        blocks_per_round: a round's time is the median over this many blocks.
        min_rounds: a result of fewer rounds never has the status "ok".
        max_rounds: measuring ends after this many rounds.
        time_limit_s: no round is started after this time, except the first.
        half_width: measuring ends once, for every candidate, the half width of the 95 % interval
            is at most this share of the value. 0.02 suits CPUs, 0.01 GPUs.
        sentinel_drift: a round is repeated if the sentinel's time at its end differs by more than
            this share from that at its start.
        max_repeats: how often one round is repeated at most; the last repetition is kept. With 0
            the sentinel is not timed a second time.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    warmup_s: _Positive = 0.3
    block_ms: _Positive = 1.0
    blocks_per_round: _Count = 3
    min_rounds: _Count = 10
    max_rounds: _Count = 200
    time_limit_s: _Positive = 30.0
    half_width: _Positive = 0.02
    sentinel_drift: _Positive = 0.05
    max_repeats: Annotated[int, Field(ge=0)] = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_positive = value > 0 or (value == 0 and name == "max_repeats")
            if not is_positive or math.isinf(value):
                raise InputError(
                    "invalid protocol", where=name, expected="a positive number", actual=value
                )


@dataclass(frozen=True)
class RoundMedians:
    """The result of `measure` for one candidate.

    Attributes:
        rounds_ms: for each round the median time of one call, in ms. Entry i comes from the same
            round for all candidates of one call of `measure`.
        summary: quantiles of `rounds_ms`, the reported value and its interval.
        status: "timeout" if the time limit was reached before `min_rounds`, "noisy" if the
            interval stayed too wide or the two halves of the rounds differ, otherwise "ok".
        repeats: how many rounds were repeated because the sentinel's time had changed.
    """

    rounds_ms: tuple[float, ...]
    summary: Summary
    status: Status
    repeats: int


def measure(
    candidates: Mapping[str, Call],
    protocol: Protocol,
    *,
    statistic: Statistic,
    time_block: TimeBlock | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    stop: Callable[[dict[str, Summary]], bool] | None = None,
) -> dict[str, RoundMedians]:
    """Time candidates in interleaved rounds.

    Args:
        candidates: by name, functions that run one inference; the first one is the sentinel.
        protocol: length of the blocks, number of rounds and the stopping rule.
        statistic: the quantile of the round medians that is reported and decides when to stop.
        time_block: takes a function and a number of calls and returns the ms that the calls take,
            for devices that need their own clock (`Runtime.time_block`). By default `clock` is
            read before and after the calls.
        progress: called after every round with the rounds done and `max_rounds`.
        clock: returns seconds and never goes backwards; tests pass their own.
        stop: called after every round from `min_rounds` on with the summaries so far; the
            measurement ends if it returns True, for example because an interval lies entirely on
            one side of a budget.

    Returns:
        The result of each candidate, by name, in the order of `candidates`.

    Raises:
        InputError: there is no candidate.
    """
    if not candidates:
        raise InputError("nothing to measure", expected="at least one candidate", actual=0)
    timer = time_block or _clock_block(clock)
    deadline = clock() + protocol.time_limit_s
    calls = {name: _warm_up(call, protocol, timer, clock) for name, call in candidates.items()}
    rounds: dict[str, list[float]] = {name: [] for name in candidates}
    repeats = 0
    for done in range(1, protocol.max_rounds + 1):
        figures, repeated = _steady_round(candidates, calls, protocol, timer, clock, deadline)
        repeats += repeated
        for name, figure in figures.items():
            rounds[name].append(figure)
        if progress is not None:
            progress(done, protocol.max_rounds)
        if _is_finished(rounds, protocol, statistic, stop) or clock() >= deadline:
            break
    return {
        name: RoundMedians(
            rounds_ms=tuple(found),
            summary=summarise(found, statistic),
            status=status_of(found, protocol, statistic),
            repeats=repeats,
        )
        for name, found in rounds.items()
    }


def status_of(rounds_ms: list[float], protocol: Protocol, statistic: Statistic) -> Status:
    """Return the status of one candidate's rounds, as `RoundMedians` defines it."""
    if len(rounds_ms) < protocol.min_rounds:
        return "timeout"
    summary = summarise(rounds_ms, statistic)
    middle = len(rounds_ms) // 2
    halves = (rounds_ms[:middle] or rounds_ms, rounds_ms[middle:])
    first_ms, second_ms = (summarise(half, statistic).value_ms for half in halves)
    has_drifted = abs(second_ms - first_ms) > MAX_HALVES_DRIFT * summary.value_ms
    return "noisy" if has_drifted or not _is_narrow(summary, protocol) else "ok"


def _is_finished(
    rounds: Mapping[str, list[float]],
    protocol: Protocol,
    statistic: Statistic,
    stop: Callable[[dict[str, Summary]], bool] | None,
) -> bool:
    """Whether every interval is narrow enough, or the caller wants to stop."""
    if any(len(found) < protocol.min_rounds for found in rounds.values()):
        return False
    summaries = {name: summarise(found, statistic) for name, found in rounds.items()}
    if all(_is_narrow(summary, protocol) for summary in summaries.values()):
        return True
    return stop is not None and stop(summaries)


def _is_narrow(summary: Summary, protocol: Protocol) -> bool:
    return summary.half_width_ms <= protocol.half_width * summary.value_ms


def _clock_block(clock: Callable[[], float]) -> TimeBlock:
    """Return a block timer that reads `clock` before the first and after the last call."""

    def time_block(call: Call, calls: int) -> float:
        start = clock()
        for _ in range(calls):
            call()
        return (clock() - start) * 1e3

    return time_block


def _warm_up(call: Call, protocol: Protocol, timer: TimeBlock, clock: Callable[[], float]) -> int:
    """Run `call` for the warm-up time and return how many calls fill a block."""
    calls = 1
    # The first call may include initialisation, so it cannot determine the length of a block.
    timer(call, calls)
    end = clock() + protocol.warmup_s
    while calls < MAX_CALLS:
        if timer(call, calls) < protocol.block_ms:
            calls *= 2
        elif clock() >= end:
            break
    # Doubling overshoots by up to a factor of two, which would leave time for fewer rounds.
    per_call_ms = timer(call, calls) / calls
    return max(1, min(calls, math.ceil(protocol.block_ms / max(per_call_ms, 1e-6))))


def _steady_round(
    candidates: Mapping[str, Call],
    calls: Mapping[str, int],
    protocol: Protocol,
    timer: TimeBlock,
    clock: Callable[[], float],
    deadline: float,
) -> tuple[dict[str, float], int]:
    """Measure a round and repeat it while the sentinel's time changes.

    Returns:
        The ms per call of each candidate, and how often the round was repeated.
    """

    def per_call_ms(name: str) -> float:
        blocks = range(protocol.blocks_per_round)
        times = [timer(candidates[name], calls[name]) / calls[name] for _ in blocks]
        return statistics.median(times)

    sentinel = next(iter(candidates))
    repeated = 0
    while True:
        figures = {name: per_call_ms(name) for name in candidates}
        if protocol.max_repeats == 0:
            return figures, 0
        drift_ms = abs(per_call_ms(sentinel) - figures[sentinel])
        is_steady = drift_ms <= protocol.sentinel_drift * figures[sentinel]
        if is_steady or repeated == protocol.max_repeats or clock() >= deadline:
            return figures, repeated
        repeated += 1
