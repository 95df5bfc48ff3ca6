"""Peak memory of an inference session, in a process of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from hwnas.latency_tables.runtimes import OnnxRuntime, create_runtime

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RUNS = 3


def session_memory_mb(
    runtime: OnnxRuntime, model: bytes, feeds: Mapping[str, np.ndarray]
) -> float | None:
    """MB (10^6 bytes) of host memory that loading a model and running it adds at its peak.

    The process has imported the runtime before, so that its libraries do not count.

    Args:
        runtime: whose session is made.
        model: a serialised ONNX model.
        feeds: an array for each input.

    Returns:
        The figure, or None where the system does not tell it (it does on Linux).
    """
    if not (STATUS.exists() and RESET.exists()):
        return None
    # A spawned process shares nothing with this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_peak_mb, runtime.name, runtime.threads, model, dict(feeds)).result()


def _peak_mb(name: str, threads: int, model: bytes, feeds: dict[str, np.ndarray]) -> float:
    runtime = create_runtime(name, threads)
    runtime.require()
    assert isinstance(runtime, OnnxRuntime)
    before_mb = _status_mb("VmRSS")
    # Sets the high-water mark to what is used now.
    RESET.write_text("5")
    call = runtime.prepare_onnx(model, feeds)
    for _ in range(RUNS):
        call()
    return max(0.0, _status_mb("VmHWM") - before_mb)


def _status_mb(key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
