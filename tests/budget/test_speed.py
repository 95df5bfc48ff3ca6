"""The speed reference of a run: earlier occasions, drift, and the spread of sessions."""

from __future__ import annotations

import pytest

from hwnas.budget.speed import MachineSpeed, RecordedSpeed, spread_of
from hwnas.latency_tables.measuring.speed_reference import NAME
from hwnas.latency_tables.rows import ReferenceSessions
from hwnas.latency_tables.statistics import SESSION_SPREAD, session_spread


def speed(reference_ms: float, recorded_ms: float | None = None) -> MachineSpeed:
    return MachineSpeed(NAME, reference_ms, recorded_ms)


def test_recorded_speed_is_that_of_the_fastest_occasion() -> None:
    table = ReferenceSessions(name=NAME, sessions_ms=(0.2, 0.21, 0.22))
    recorded = RecordedSpeed.of(table, [speed(0.1), None, speed(0.3)])
    assert recorded.fastest_ms == 0.1
    assert recorded.sessions_ms == (0.2, 0.21, 0.22, 0.1, 0.3)
    assert recorded.occasions_ms[0] == pytest.approx(0.202)


def test_times_of_another_reference_are_not_compared() -> None:
    table = ReferenceSessions(name="another", sessions_ms=(0.2,))
    assert RecordedSpeed.of(table, []) == RecordedSpeed()
    assert RecordedSpeed().fastest_ms is None


@pytest.mark.parametrize(
    "recorded_ms, slowdown, speedup, words",
    [
        (0.10, 1.21, 1.0, "10% slower"),
        (0.11, 1.0, 1.0, "as fast as recorded"),
        (0.22, 1.0, 2.0, "50% faster"),
        (None, 1.0, 1.0, "no earlier time of it is known"),
    ],
)
def test_drift_is_the_ratio_to_the_recorded_time(recorded_ms, slowdown, speedup, words) -> None:
    found = speed(0.11, recorded_ms)
    assert found.slowdown == pytest.approx(slowdown)
    assert found.speedup == pytest.approx(speedup)
    assert words in found.in_words()
    assert MachineSpeed.from_json(found.to_json()) == found


def test_spread_without_sessions_is_the_assumed_one() -> None:
    assert session_spread([]) == session_spread([[1.0]]) == SESSION_SPREAD
    assert session_spread([[1.0] * 40]) < SESSION_SPREAD / 3


def test_single_slow_sessions_do_not_count_as_spread() -> None:
    quiet = [1.0, 0.99, 1.01, 1.0, 1.0, 0.99, 1.01]
    assert session_spread([[*quiet, 1.8]]) == pytest.approx(session_spread([quiet]), rel=0.2)
    assert session_spread([[*quiet, 0.5]]) > 5 * session_spread([quiet])


def test_spread_is_the_larger_of_network_and_reference() -> None:
    alike, different = [1.0, 1.0, 1.0], [0.8, 1.0, 1.2]
    of_network = spread_of(different, alike, RecordedSpeed())
    of_reference = spread_of(alike, different, RecordedSpeed())
    assert of_network == pytest.approx(of_reference)
    assert of_network > spread_of(alike, alike, RecordedSpeed())
