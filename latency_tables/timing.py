"""Interleaved timing: every round runs every candidate, so that all of them see the same machine.

A shared CPU flips between speeds that differ by half; candidates that are timed one after the
other are then compared across that flip. Here a round is short and holds them all, a sentinel
(the first candidate) is timed at both ends of it, and a round in which the sentinel moved is
measured again. Nothing is dropped afterwards: what stays noisy is reported as noisy.
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

# Halves of a run whose values differ by more than this do not describe one machine state.
MAX_HALVES_DRIFT = 0.03
# Ends the search for a block length on a clock too coarse to see the calls.
MAX_CALLS = 1_000_000

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Protocol:
    """How a measurement is taken; stored in every table.

    Attributes:
        warmup_s: each candidate runs at least this long before the first round.
        block_ms: calls are timed in blocks of at least this length.
        blocks_per_round: a round's figure is the median over this many blocks.
        min_rounds: fewer rounds than this are never called converged or ok.
        max_rounds: rounds after which measuring ends.
        time_limit_s: time after which no round is started; one round is always taken.
        half_width: measuring ends when the 95 % interval's half width is within this share of
            the value, for every candidate. 0.02 suits CPUs, 0.01 GPUs.
        sentinel_drift: a round in which the sentinel moved by more than this share is repeated.
        max_repeats: repetitions of one round before it is kept as it is.
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
                    "unusable protocol", where=name, expected="a positive number", actual=value
                )


@dataclass(frozen=True)
class RoundMedians:
    """What `measure` found for one candidate.

    Attributes:
        rounds_ms: per round the median time of one call, in ms. Entry i of every candidate of
            one `measure` call comes from the same round.
        summary: their value and interval by the statistic that was asked for.
        status: "timeout" when the time limit came before `min_rounds`, "noisy" when the interval
            stayed too wide or the two halves of the rounds disagree, else "ok".
        repeats: rounds that were measured again because the sentinel had moved.
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
        candidates: name to a call that runs one inference; the first one is the sentinel.
        protocol: block lengths, number of rounds and the stopping rule.
        statistic: the quantile of the round medians that the stopping rule looks at.
        time_block: (call, calls) to the ms that so many calls take, for devices that need their
            own clock (`Runtime.time_block`); by default `clock` is read around the calls.
        progress: called after every round with (rounds done, `max_rounds`).
        clock: seconds, monotonic; injectable for tests.
        stop: asked after every round from `min_rounds` on with the summaries so far; True ends
            the measurement, as when an interval lies wholly on one side of a budget.

    Returns:
        The rounds of each candidate, by name, in the order of `candidates`.

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
        if done >= protocol.min_rounds:
            summaries = {name: summarise(found, statistic) for name, found in rounds.items()}
            if all(_is_narrow(summary, protocol) for summary in summaries.values()):
                break
            if stop is not None and stop(summaries):
                break
        if clock() >= deadline:
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
    """Say how far the rounds of one candidate can be trusted, see `RoundMedians`."""
    if len(rounds_ms) < protocol.min_rounds:
        return "timeout"
    summary = summarise(rounds_ms, statistic)
    middle = len(rounds_ms) // 2
    halves = (rounds_ms[:middle] or rounds_ms, rounds_ms[middle:])
    first_ms, second_ms = (summarise(half, statistic).value_ms for half in halves)
    has_drifted = abs(second_ms - first_ms) > MAX_HALVES_DRIFT * summary.value_ms
    return "noisy" if has_drifted or not _is_narrow(summary, protocol) else "ok"


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
    # The first call may initialise and says nothing about the length of a block.
    timer(call, calls)
    end = clock() + protocol.warmup_s
    while calls < MAX_CALLS:
        if timer(call, calls) < protocol.block_ms:
            calls *= 2
        elif clock() >= end:
            break
    # Doubling overshoots by up to a factor of two, which would cost rounds.
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
    """Measure a round, again while the sentinel moves; return ms per call and the repetitions."""

    def per_call_ms(name: str) -> float:
        blocks = range(protocol.blocks_per_round)
        times = [timer(candidates[name], calls[name]) / calls[name] for _ in blocks]
        return statistics.median(times)

    sentinel = next(iter(candidates))
    repeated = 0
    while True:
        figures = {name: per_call_ms(name) for name in candidates}
        moved_ms = abs(per_call_ms(sentinel) - figures[sentinel])
        is_steady = moved_ms <= protocol.sentinel_drift * figures[sentinel]
        if is_steady or repeated == protocol.max_repeats or clock() >= deadline:
            return figures, repeated
        repeated += 1
