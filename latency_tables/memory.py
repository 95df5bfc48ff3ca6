"""Peak memory of an inference session, in a process of its own that may be limited."""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import Model, OnnxRuntime, create_runtime

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RUNS = 3


def session_memory_mb(
    runtime: OnnxRuntime,
    model: Model,
    feeds: Mapping[str, np.ndarray],
    *,
    limit_mb: float | None = None,
    limit_s: int | None = None,
) -> float | None:
    """MB (10^6 bytes) of host memory that loading a model and running it adds at its peak.

    The process has imported the runtime before, so that its libraries do not count.

    Args:
        runtime: whose session is made.
        model: an ONNX model.
        feeds: an array for each input.
        limit_mb: what it may allocate; on CPUs only, since GPUs map their memory into the process.
        limit_s: processor time that loading it and running it three times may take.

    Returns:
        The figure, or None where the system does not tell it (it does on Linux).

    Raises:
        InputError: the runtime refuses the model, or it exceeds a limit.
    """
    limit_mb = limit_mb if runtime.device_class == "cpu" else None
    arguments = (runtime.name, runtime.threads, model, dict(feeds), limit_mb, limit_s)
    # A spawned process shares nothing with this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(_peak_mb, *arguments).result()
        except (BrokenProcessPool, MemoryError):
            limits = " and ".join(
                f"{limit:g} {unit}" for limit, unit in ((limit_mb, "MB"), (limit_s, "s")) if limit
            )
            raise InputError(
                "loading and running the model ended its process",
                where=str(model) if isinstance(model, Path) else runtime.name,
                expected=f"at most {limits}" if limits else None,
            ) from None


def _peak_mb(
    name: str,
    threads: int,
    model: Model,
    feeds: dict[str, np.ndarray],
    limit_mb: float | None,
    limit_s: int | None,
) -> float | None:
    runtime = create_runtime(name, threads)
    runtime.require()
    assert isinstance(runtime, OnnxRuntime)
    tells = STATUS.exists() and RESET.exists()
    if limit_s is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    if tells and limit_mb is not None:
        limit = int((status_mb("VmData") + limit_mb) * 1e6)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before_mb = 0.0
    if tells:
        before_mb = status_mb("VmRSS")
        # Sets the high-water mark to what is used now.
        RESET.write_text("5")
    call = runtime.prepare_onnx(model, feeds)
    for _ in range(RUNS):
        call()
    return max(0.0, status_mb("VmHWM") - before_mb) if tells else None


def status_mb(key: str) -> float:
    """A figure of this process's memory as the system states it, in MB; Linux only."""
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
