"""Limits of memory, and functions in separate processes."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.latency_tables.measuring import limits
from hwnas.latency_tables.measuring.limits import STATUS, allocating_at_most, run_in_process


@pytest.mark.skipif(not STATUS.exists(), reason="limits of memory hold on Linux")
def test_arrays_count_towards_the_memory_limit() -> None:
    with (
        pytest.raises(InputError, match="m.onnx: running.*at most 100 MB"),
        allocating_at_most(100.0, "m.onnx"),
    ):
        np.ones(50_000_000)
    assert np.ones(50_000_000).size
    with allocating_at_most(None, "m.onnx"):
        assert np.ones(50_000_000).size


def test_the_default_limit_leaves_some_of_the_free_memory(tmp_path, monkeypatch) -> None:
    free = tmp_path / "meminfo"
    monkeypatch.setattr(limits, "FREE", free)
    assert limits.session_limit_mb(None, 2) == 16_000
    free.write_text("MemFree: 1 kB\nMemAvailable:    5000000 kB\n")
    assert limits.session_limit_mb(None, 2) == pytest.approx(0.8 * 5120)
    assert limits.session_limit_mb(300.0, 2) == 600


def test_a_separate_process_returns_its_result_or_raises_the_given_error() -> None:
    terminated = InputError("the process was terminated")
    assert run_in_process(os.getpid, terminated=terminated) != os.getpid()
    with pytest.raises(InputError) as caught:
        run_in_process(os._exit, 1, terminated=terminated)
    assert caught.value is terminated
