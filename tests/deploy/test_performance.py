"""How often a model is called by itself, whatever it takes."""

from __future__ import annotations

import pytest

from hwnas.deploy import performance


@pytest.mark.parametrize(
    "call_s, calls",
    [
        (0.001, performance.SINGLE_CALLS),
        # A twelfth of the minute is over after 50 calls, and there are enough for a p90 at 64.
        (0.1, performance.FEW_CALLS),
        # Half of the minute.
        (1.0, 30),
        (100.0, 1),
    ],
)
def test_slow_models_are_called_often_enough(call_s, calls, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(performance.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += call_s

    found = performance._single_calls_ms(call, 60.0)
    assert found == pytest.approx([1e3 * call_s] * calls)
