"""How many single calls are timed, and the recorded speed of this device."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hwnas.checking import performance
from hwnas.errors import InputError
from hwnas.latency_tables.measuring.speed_reference import NAME
from hwnas.latency_tables.rows import ReferenceSessions
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.latency_tables.table import LatencyTable


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
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += call_s

    found = performance._single_calls_ms(call, create_runtime("onnxruntime-cpu", 1), 60.0)
    assert found == pytest.approx([1e3 * call_s] * calls)


def table(path: Path, *, threads: int = 1, sessions_ms: tuple[float, ...] = ()) -> Path:
    runtime = create_runtime("onnxruntime-cpu", threads)
    LatencyTable.from_measurements(
        {},
        device=runtime.profile(dtype="float32", batch=1),
        statistic="p10",
        definitions={},
        reference=ReferenceSessions(name=NAME, sessions_ms=sessions_ms) if sessions_ms else None,
    ).save(path)
    return path


def test_recorded_speed_is_read_from_a_table_of_this_device(tmp_path: Path) -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    path = table(tmp_path / "table.json", sessions_ms=(0.1, 0.2))
    assert performance.recorded_in(path, runtime).sessions_ms == (0.1, 0.2)


@pytest.mark.parametrize(
    "threads, sessions_ms, words", [(2, (0.1,), "threads"), (1, (), "no time of the speed")]
)
def test_table_that_tells_nothing_of_the_speed_is_refused(
    tmp_path: Path, threads: int, sessions_ms: tuple[float, ...], words: str
) -> None:
    path = table(tmp_path / "table.json", threads=threads, sessions_ms=sessions_ms)
    with pytest.raises(InputError, match=words):
        performance.recorded_in(path, create_runtime("onnxruntime-cpu", 1))
