"""How many single calls are timed, for models of any speed."""

from __future__ import annotations

import pytest

from hwnas.deploy import performance


@pytest.mark.parametrize(
    "call_s, calls",
    [
        (0.001, performance.SINGLE_CALLS),
        # A twelfth of the minute ends after 50 calls; the 90th percentile needs 64.
        (0.1, performance.FEW_CALLS),
        # Half of the minute, because there are still fewer than 64 calls.
        (1.0, 30),
        (100.0, 1),
    ],
)
def test_the_number_of_single_calls_depends_on_the_time_of_a_call(
    call_s, calls, monkeypatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(performance.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += call_s

    found = performance._single_calls_ms(call, 60.0)
    assert found == pytest.approx([1e3 * call_s] * calls)
