"""Trial runs of a model in a separate process with resource limits, and their peak memory."""

from __future__ import annotations

import math
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from hwnas.errors import InputError, first_line
from hwnas.latency_tables.runtimes import Model, OnnxModelRuntime, create_runtime

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
"""Writing 5 to this file resets the process's peak memory to its current memory."""
FREE = Path("/proc/meminfo")
RUNS = 3
SESSION_MB = 8000.0
"""Memory that a session may allocate by default, in MB."""
FREE_SHARE = 0.8
"""Share of the free memory that all sessions together may allocate by default."""


@dataclass(frozen=True)
class Trial:
    """The result of running a model in a separate process.

    Attributes:
        memory_mb: peak host memory of loading and running the model, in MB (10^6 bytes), without
            the runtime's libraries; None on systems other than Linux.
        batches: the batch sizes that ran, both with the optimised and the unoptimised graph.
        failures: for each batch size that did not run, one line of the error message.
    """

    memory_mb: float | None
    batches: tuple[int, ...] = ()
    failures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batches:
    """Batch sizes to try after the first runs.

    Attributes:
        sizes: the batch sizes in ascending order.
        make: returns the inputs for a batch size; must be picklable.
        first: batch size of the first runs, whose time predicts that of the other sizes.
        max_seconds: sizes with a longer predicted time are skipped.
        always: sizes up to this one are never skipped.
    """

    sizes: Sequence[int]
    make: Callable[[int], Mapping[str, np.ndarray]]
    first: int
    max_seconds: float
    always: int


def try_session(
    runtime: OnnxModelRuntime,
    model: Model,
    feeds: Mapping[str, np.ndarray],
    batches: Batches | None = None,
    *,
    limit_mb: float | None = None,
    limit_s: int | None = None,
) -> Trial:
    """Load a model and run it in a separate process.

    Args:
        runtime: the runtime that loads the model.
        model: an ONNX model.
        feeds: an array for each input, used in the first runs.
        batches: batch sizes to try after the first runs.
        limit_mb: memory that the process may allocate, in MB; ignored on GPUs, since the driver
            maps their memory into the process.
        limit_s: processor time in seconds for loading the model and running it three times, and
            again for each batch size.

    Raises:
        InputError: the runtime cannot run the model, or a limit is exceeded.
    """
    limit_mb = limit_mb if runtime.device_class == "cpu" else None
    arguments = (runtime.name, runtime.threads, model, dict(feeds), batches, limit_mb, limit_s)
    # A spawned process shares nothing with this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(_try, *arguments).result()
        except (BrokenProcessPool, MemoryError):
            limits = " and ".join(
                f"{limit:g} {unit}" for limit, unit in ((limit_mb, "MB"), (limit_s, "s")) if limit
            )
            raise InputError(
                "the process that loaded and ran the model was terminated",
                where=str(model) if isinstance(model, Path) else runtime.name,
                expected=f"at most {limits}" if limits else None,
            ) from None


def _try(
    name: str,
    threads: int,
    model: Model,
    feeds: dict[str, np.ndarray],
    batches: Batches | None,
    limit_mb: float | None,
    limit_s: int | None,
) -> Trial:
    runtime = create_runtime(name, threads)
    runtime.require()
    assert isinstance(runtime, OnnxModelRuntime)
    has_counters = STATUS.exists() and RESET.exists()
    allow_seconds(limit_s)
    if has_counters and limit_mb is not None:
        limit = int((status_mb("VmData") + limit_mb) * 1e6)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before_mb = 0.0
    if has_counters:
        before_mb = status_mb("VmRSS")
        RESET.write_text("5")
    seconds = _run(runtime, model, feeds)
    memory_mb = max(0.0, status_mb("VmHWM") - before_mb) if has_counters else None
    if batches is None:
        return Trial(memory_mb)
    return _try_batches(runtime, model, feeds, batches, seconds / batches.first, memory_mb, limit_s)


def _run(runtime: OnnxModelRuntime, model: Model, feeds: Mapping[str, np.ndarray]) -> float:
    """Run the model `RUNS` times as it is deployed and return the seconds of the last run."""
    call = runtime.prepare_onnx(model, feeds)
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
    return time.perf_counter() - start


def _try_batches(
    runtime: OnnxModelRuntime,
    model: Model,
    feeds: Mapping[str, np.ndarray],
    batches: Batches,
    sample_seconds: float,
    memory_mb: float | None,
    limit_s: int | None,
) -> Trial:
    """Run each batch size with the optimised and the unoptimised graph, one session at a time."""
    sizes = [
        size
        for size in batches.sizes
        if size <= batches.always or size * sample_seconds <= batches.max_seconds
    ]
    failures: dict[int, str] = {}
    for start in (runtime.infer, runtime.infer_unoptimised):
        allow_seconds(limit_s)
        infer = start(model)
        infer(feeds)
        for size in sizes:
            allow_seconds(limit_s)
            try:
                infer(batches.make(size))
            except Exception as error:  # the runtime's exceptions share no base class
                failures.setdefault(size, first_line(error))
        del infer
    ran = tuple(size for size in sizes if size not in failures)
    return Trial(memory_mb, ran, failures)


def allow_seconds(limit_s: int | None) -> None:
    """Limit this process's further processor time; the system kills the process beyond it.

    Args:
        limit_s: seconds from now, or None for no limit.
    """
    if limit_s is not None:
        limit = math.ceil(time.process_time()) + limit_s
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def session_limit_mb(stated_mb: float | None, sessions: int = 1) -> float:
    """Return the memory that several sessions may allocate together, in MB.

    Args:
        stated_mb: limit of one session; by default 8000 MB, but at most 80 % of the free memory
            for all sessions together.
        sessions: how many sessions are open at the same time.
    """
    if stated_mb is not None:
        return stated_mb * sessions
    limit_mb = SESSION_MB * sessions
    return (
        min(limit_mb, FREE_SHARE * _kb_as_mb(FREE, "MemAvailable")) if FREE.exists() else limit_mb
    )


@contextmanager
def allocating_at_most(limit_mb: float | None, where: str) -> Iterator[None]:
    """Limit the memory that this process allocates inside the context; only on Linux.

    Args:
        limit_mb: memory beyond that at the start, in MB (10^6 bytes), or None for no limit.
        where: the model, for the error message.

    Raises:
        InputError: the limit was exceeded (in place of MemoryError).
    """
    if limit_mb is None or not STATUS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int((status_mb("VmData") + limit_mb) * 1e6)
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    except MemoryError:
        raise InputError(
            "running the model takes too much memory",
            where=where,
            expected=f"at most {limit_mb:.0f} MB",
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def status_mb(key: str) -> float:
    """Return an entry of `/proc/self/status`, such as `VmRSS`, in MB; only on Linux."""
    return _kb_as_mb(STATUS, key)


def _kb_as_mb(path: Path, key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
