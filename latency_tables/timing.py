"""Interleaved timing: every round runs every candidate, so that all see the same machine state.

A shared CPU switches between speeds that differ by half. Candidates that are timed one after the
other may each see another speed, which makes their comparison meaningless. Here a round is short
and runs all candidates. The first one, the sentinel, is timed at the start and at the end of each
round, and a round is repeated if its two times differ. No measurement is discarded afterwards:
noisy results are reported as noisy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field

from hwnas.errors import InputError
from hwnas.latency_tables.on_device.measure import Call, rounds
from hwnas.latency_tables.statistics import Statistic, Status, Summary, summarise

TimeBlock = Callable[[Call, int], float]
Progress = Callable[[int, int], None]
"""Called with the rounds done and the largest number of rounds."""
Stop = Callable[[dict[str, Summary]], bool]

MAX_HALVES_DRIFT = 0.03
"""Relative difference between the two halves of the rounds above which a result is noisy."""

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


class Round(NamedTuple):
    """One round of a measurement.

    Attributes:
        times_ms: the time of one call of each candidate, in ms.
        repeats: how often the round was repeated because the sentinel's time had changed.
    """

    times_ms: tuple[float, ...]
    repeats: int


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
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    stop: Stop | None = None,
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
    timed = rounds(candidates, protocol, time_block or _clock_block(clock), clock)
    found = (Round(tuple(figures.values()), repeats) for figures, repeats in timed)
    return collect(found, list(candidates), protocol, statistic, progress, stop)


def collect(
    found: Iterable[Round | None],
    names: Sequence[str],
    protocol: Protocol,
    statistic: Statistic,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> dict[str, RoundMedians]:
    """Take the rounds of a measurement until every interval is narrow enough.

    Args:
        found: the rounds; None between them calls `progress` without a further round.
        names: of the candidates, in the order of a round's times.
        protocol: number of rounds and the stopping rule.
        statistic: see `measure`.
        progress: see `measure`.
        stop: see `measure`.
    """
    rounds_ms: dict[str, list[float]] = {name: [] for name in names}
    done = repeats = 0
    for one in found:
        if one is not None:
            done, repeats = done + 1, repeats + one.repeats
            for name, figure in zip(names, one.times_ms, strict=True):
                rounds_ms[name].append(figure)
        if progress is not None:
            progress(done, protocol.max_rounds)
        if one is not None and _is_finished(rounds_ms, protocol, statistic, stop):
            break
    return {
        name: RoundMedians(
            rounds_ms=tuple(times_ms),
            summary=summarise(times_ms, statistic),
            status=status_of(times_ms, protocol, statistic),
            repeats=repeats,
        )
        for name, times_ms in rounds_ms.items()
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
    stop: Stop | None,
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
