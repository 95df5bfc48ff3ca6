"""A model's first runs, in a process of its own that may be limited, and their peak memory."""

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

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FREE = Path("/proc/meminfo")
RUNS = 3
SESSION_MB, FREE_SHARE = 8000.0, 0.8
"""What a session may allocate where nothing is stated, and the share of free memory for all."""


@dataclass(frozen=True)
class Trial:
    """What a model did in a process with limits.

    Attributes:
        memory_mb: MB (10^6 bytes) of host memory that loading the model and running it adds at its
            peak, or None where the system does not tell it (it does on Linux). The process has
            imported the runtime before, so that its libraries do not count.
        batches: those that ran, with the graph optimised and as it stands in the file.
        failures: a line for each batch that did not run.
    """

    memory_mb: float | None
    batches: tuple[int, ...] = ()
    failures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batches:
    """Batches to try after the first run.

    Attributes:
        sizes: from the smallest.
        make: feeds for a size; can be sent to another process.
        first: the batch of the first run; what it takes tells which sizes take too long.
        max_seconds: a size that would take longer is left out, but no smaller one than `always`.
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
    """Load a model and run it in a process of its own.

    Args:
        runtime: whose session is made.
        model: an ONNX model.
        feeds: an array for each input, of the first runs.
        batches: what is tried after them.
        limit_mb: what it may allocate; on CPUs only, since GPUs map their memory into the process.
        limit_s: processor time that loading it and running it three times may take, and each
            further batch.

    Raises:
        InputError: the runtime refuses the model, or it exceeds a limit.
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
                "loading and running the model ended its process",
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
    tells = STATUS.exists() and RESET.exists()
    allow_seconds(limit_s)
    if tells and limit_mb is not None:
        limit = int((status_mb("VmData") + limit_mb) * 1e6)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before_mb = 0.0
    if tells:
        before_mb = status_mb("VmRSS")
        # Sets the high-water mark to what is used now.
        RESET.write_text("5")
    seconds = _run(runtime, model, feeds)
    memory_mb = max(0.0, status_mb("VmHWM") - before_mb) if tells else None
    if batches is None:
        return Trial(memory_mb)
    return _try_batches(runtime, model, feeds, batches, seconds / batches.first, memory_mb, limit_s)


def _run(runtime: OnnxModelRuntime, model: Model, feeds: Mapping[str, np.ndarray]) -> float:
    """Run three times as it is deployed; returns the seconds of the last one."""
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
    """Each batch in a session of either kind, one session at a time."""
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
    """So much more processor time than used so far; more than that ends the process."""
    if limit_s is not None:
        limit = math.ceil(time.process_time()) + limit_s
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def session_limit_mb(stated_mb: float | None, sessions: int = 1) -> float:
    """What sessions may allocate together, in MB.

    Args:
        stated_mb: for each; where it is None, 8000 each and at most 80 % of the free memory.
        sessions: how many are held at once.
    """
    if stated_mb is not None:
        return stated_mb * sessions
    limit_mb = SESSION_MB * sessions
    return (
        min(limit_mb, FREE_SHARE * _kb_as_mb(FREE, "MemAvailable")) if FREE.exists() else limit_mb
    )


@contextmanager
def allocating_at_most(limit_mb: float | None, where: str) -> Iterator[None]:
    """Limit what this process allocates meanwhile beyond what it has; Linux only.

    Args:
        limit_mb: MB (10^6 bytes), or None for no limit.
        where: the model, for errors.

    Raises:
        InputError: in place of MemoryError.
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
    """A figure of this process's memory as the system states it, in MB; Linux only."""
    return _kb_as_mb(STATUS, key)


def _kb_as_mb(path: Path, key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
