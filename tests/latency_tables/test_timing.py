"""Interleaved rounds on a fake clock, so that every time is exact."""

import dataclasses

import pytest

from hwnas.errors import InputError
from hwnas.latency_tables.timing import Protocol, measure

QUICK = Protocol(warmup_s=0.01, time_limit_s=100.0, min_rounds=10, max_rounds=40)


class Machine:
    """A clock that is advanced by the calls alone; each call takes a given time."""

    def __init__(self):
        self.now_s = 0.0
        self.log = []

    def clock(self):
        return self.now_s

    def call(self, name, time_ms):
        def run():
            self.log.append(name)
            self.now_s += (time_ms() if callable(time_ms) else time_ms) / 1e3

        return run


@pytest.fixture
def machine():
    return Machine()


def run(machine, times_ms, protocol=QUICK, statistic="median", **options):
    candidates = {name: machine.call(name, time_ms) for name, time_ms in times_ms.items()}
    return measure(candidates, protocol, statistic=statistic, clock=machine.clock, **options)


def test_a_steady_machine_gives_exact_times_and_stops_at_the_minimum(machine):
    found = run(machine, {"fast": 0.25, "slow": 4.0})
    assert list(found) == ["fast", "slow"]
    assert found["fast"].rounds_ms == pytest.approx([0.25] * 10)
    assert found["slow"].summary.value_ms == pytest.approx(4.0)
    assert {result.status for result in found.values()} == {"ok"}
    assert {result.repeats for result in found.values()} == {0}


def test_a_slow_first_call_is_not_part_of_a_round(machine):
    pending = [500.0]
    found = run(machine, {"a": lambda: pending.pop() if pending else 0.5})
    assert found["a"].rounds_ms == pytest.approx([0.5] * 10)


def test_each_candidate_is_warmed_up_for_the_warm_up_time(machine):
    protocol = dataclasses.replace(QUICK, warmup_s=0.3, min_rounds=1, max_rounds=1)
    run(machine, {"a": 1.0, "b": 5.0}, protocol)
    warm_up = machine.log[: machine.log.index("b")]
    assert len(warm_up) * 1.0 >= 300


def test_blocks_last_at_least_block_ms(machine):
    blocks = []

    def time_block(call, calls):
        start = machine.clock()
        for _ in range(calls):
            call()
        blocks.append((machine.clock() - start) * 1e3)
        return blocks[-1]

    found = run(machine, {"a": 0.013}, time_block=time_block)
    assert found["a"].rounds_ms == pytest.approx([0.013] * 10)
    # Each of the ten rounds times the only candidate twice, since it is also the sentinel.
    measured = blocks[-10 * 2 * QUICK.blocks_per_round :]
    assert all(1.0 <= block < 1.1 for block in measured)


def test_candidates_are_interleaved_and_the_sentinel_closes_the_round(machine):
    protocol = dataclasses.replace(QUICK, blocks_per_round=1, min_rounds=2, max_rounds=2)
    run(machine, {"a": 2.0, "b": 2.0, "c": 2.0}, protocol)
    assert machine.log[-8:] == ["a", "b", "c", "a", "a", "b", "c", "a"]


def test_a_round_in_which_the_sentinel_moved_is_measured_again(machine):
    protocol = dataclasses.replace(QUICK, blocks_per_round=1, max_repeats=2)
    jumps = []

    def sentinel_ms():
        # The last of the three calls of the first round is slow, once.
        in_rounds = machine.log.count("b") > warm_up_calls
        if in_rounds and not jumps:
            jumps.append(True)
            return 3.0
        return 2.0

    probe = Machine()
    run(probe, {"a": 2.0, "b": 2.0}, dataclasses.replace(protocol, min_rounds=1, max_rounds=1))
    warm_up_calls = probe.log.count("b") - 1
    found = run(machine, {"a": sentinel_ms, "b": 2.0}, protocol)
    assert found["a"].repeats == found["b"].repeats == 1
    assert found["a"].rounds_ms == pytest.approx([2.0] * 10)


def test_repeats_are_bounded_and_the_last_try_is_kept(machine):
    protocol = dataclasses.replace(QUICK, blocks_per_round=1, max_repeats=2, max_rounds=10)
    flip = iter([2.0, 4.0] * 10_000)
    found = run(machine, {"a": lambda: next(flip)}, protocol)
    assert len(found["a"].rounds_ms) == 10
    assert found["a"].repeats == 20


def test_median_over_blocks_ignores_one_disturbed_block(machine):
    count = iter(range(10**6))
    # Every call fills a block; one in three is disturbed.
    found = run(machine, {"a": lambda: 90.0 if next(count) % 3 == 0 else 2.0})
    assert found["a"].rounds_ms == pytest.approx([2.0] * 10)


def test_rounds_go_on_until_the_interval_is_narrow(machine):
    count = iter(range(10**6))
    noise = [1.0, 1.1, 1.02, 1.08, 1.04, 1.06, 1.05, 1.05]
    protocol = dataclasses.replace(
        QUICK, blocks_per_round=1, max_repeats=0, max_rounds=1000, half_width=0.01
    )
    found = run(machine, {"a": lambda: noise[next(count) % 8]}, protocol)
    assert 10 < len(found["a"].rounds_ms) < 1000
    assert found["a"].summary.half_width_ms <= 0.01 * found["a"].summary.value_ms
    assert found["a"].status == "ok"


def test_a_wide_interval_at_the_end_is_noisy(machine):
    wide = iter([1.0, 2.0, 3.0, 5.0, 8.0] * 100_000)
    protocol = dataclasses.replace(QUICK, blocks_per_round=1, max_repeats=0)
    found = run(machine, {"a": lambda: next(wide)}, protocol)
    assert len(found["a"].rounds_ms) == QUICK.max_rounds
    assert found["a"].status == "noisy"


def test_halves_that_disagree_are_noisy_though_the_interval_is_narrow(machine):
    protocol = dataclasses.replace(QUICK, half_width=0.2, min_rounds=20)

    def drifting_ms():
        return 2.0 if machine.now_s < 0.13 else 2.2

    found = run(machine, {"a": drifting_ms}, protocol)
    assert found["a"].summary.half_width_ms <= 0.2 * found["a"].summary.value_ms
    assert found["a"].status == "noisy"


def test_the_time_limit_ends_measuring_and_says_so(machine):
    protocol = dataclasses.replace(QUICK, time_limit_s=0.5)
    found = run(machine, {"a": 40.0, "b": 40.0}, protocol)
    assert 1 <= len(found["a"].rounds_ms) < 10
    assert len(found["a"].rounds_ms) == len(found["b"].rounds_ms)
    assert found["a"].status == "timeout"


def test_the_caller_can_stop_from_the_minimum_of_rounds_on(machine):
    wide = iter([1.0, 2.0, 3.0, 5.0, 8.0] * 100_000)
    protocol = dataclasses.replace(QUICK, blocks_per_round=1, max_repeats=0)
    asked = []

    def over_budget(summaries):
        asked.append(summaries["a"].rounds)
        return summaries["a"].rounds == 12

    found = run(machine, {"a": lambda: next(wide)}, protocol, stop=over_budget)
    assert asked == [10, 11, 12]
    assert len(found["a"].rounds_ms) == 12


def test_progress_counts_rounds(machine):
    seen = []
    run(machine, {"a": 2.0}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, QUICK.max_rounds) for done in range(1, 11)]


def test_nothing_to_measure_is_refused(machine):
    with pytest.raises(InputError, match="at least one candidate"):
        run(machine, {})


@pytest.mark.parametrize(
    "field, value",
    [
        ("warmup_s", 0.0),
        ("block_ms", -1.0),
        ("blocks_per_round", 0),
        ("time_limit_s", float("inf")),
        ("half_width", float("nan")),
        ("max_repeats", -1),
    ],
)
def test_an_invalid_protocol_is_refused_with_the_name_of_the_field(field, value):
    with pytest.raises(InputError, match=field):
        Protocol(**{field: value})


def test_a_protocol_may_have_no_repeats():
    assert Protocol(max_repeats=0).max_repeats == 0
