"""Trial runs of a model in a separate process with resource limits, and their peak memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hwnas.errors import HwnasError, InputError
from hwnas.latency_tables.measuring.limits import STATUS, allow_seconds, run_in_process, status_mb
from hwnas.latency_tables.runtimes import Model, OnnxModelRuntime, create_runtime
from hwnas.latency_tables.runtimes.onnx_errors import cause_of

RESET = Path("/proc/self/clear_refs")
"""Writing 5 to this file resets the process's peak memory to its current memory."""
RUNS = 3


class RunError(InputError):
    """A model that its runtime loads cannot run with the given inputs."""


@dataclass(frozen=True)
class Trial:
    """The result of running a model in a separate process.

    Attributes:
        memory_mb: peak host memory of loading and running the model, in MB (10^6 bytes), without
            the runtime's libraries; None on systems other than Linux.
        batches: the batch sizes that ran, both with the optimised and the unoptimised graph.
        failures: for each batch size that did not run, the error message.
        load_ms: time to create the session, with the runtime's libraries loaded.
        first_run_ms: time of the first inference of the process.
        first_ms: time of the first inference at each batch size.
    """

    memory_mb: float | None
    batches: tuple[int, ...] = ()
    failures: dict[int, str] = field(default_factory=dict)
    load_ms: float = 0.0
    first_run_ms: float = 0.0
    first_ms: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialBatches:
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
    batches: TrialBatches | None = None,
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
        RunError: the runtime loads the model, and cannot run it.
        InputError: the runtime cannot load the model, or a limit is exceeded.
    """
    limit_mb = limit_mb if runtime.device_class == "cpu" else None
    stated = ((limit_mb, "MB"), (limit_s, "s"))
    limits = " and ".join(f"{limit:g} {unit}" for limit, unit in stated if limit)
    return run_in_process(
        _try,
        *(runtime.name, runtime.threads, model, dict(feeds), batches, limit_mb, limit_s),
        terminated=InputError(
            "the process that loaded and ran the model was terminated",
            where=str(model) if isinstance(model, Path) else runtime.name,
            expected=f"at most {limits}" if limits else None,
        ),
    )


def _try(
    name: str,
    threads: int,
    model: Model,
    feeds: dict[str, np.ndarray],
    batches: TrialBatches | None,
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
    batch = 1 if batches is None else batches.first
    trial, seconds = _run(runtime, model, feeds, batch)
    memory_mb = max(0.0, status_mb("VmHWM") - before_mb) if has_counters else None
    trial = replace(trial, memory_mb=memory_mb)
    # As it is timed: with inputs and outputs that are bound in advance where the runtime can.
    call = runtime.prepare_onnx(model, feeds)
    for _ in range(RUNS - 1):
        call()
    del call
    if batches is None:
        return trial
    return _try_batches(runtime, model, feeds, batches, seconds / batch, trial, limit_s)


def _run(
    runtime: OnnxModelRuntime, model: Model, feeds: Mapping[str, np.ndarray], batch: int
) -> tuple[Trial, float]:
    """Load the model, run it `RUNS` times, and return the times and the seconds of the last run."""
    start = time.perf_counter()
    infer = runtime.infer(model)
    load_ms = (time.perf_counter() - start) * 1e3
    seconds = []
    try:
        for _ in range(RUNS):
            start = time.perf_counter()
            infer(feeds)
            seconds.append(time.perf_counter() - start)
    except HwnasError:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise RunError(
            f"the runtime cannot run the model: {cause_of(error)}",
            where=runtime.name,
            details=str(error),
        ) from None
    first_ms = seconds[0] * 1e3
    trial = Trial(None, load_ms=load_ms, first_run_ms=first_ms, first_ms={batch: first_ms})
    return trial, seconds[-1]


def _try_batches(
    runtime: OnnxModelRuntime,
    model: Model,
    feeds: Mapping[str, np.ndarray],
    batches: TrialBatches,
    sample_seconds: float,
    trial: Trial,
    limit_s: int | None,
) -> Trial:
    """Run each batch size with the optimised and the unoptimised graph, one session at a time."""
    sizes = [
        size
        for size in batches.sizes
        if size <= batches.always or size * sample_seconds <= batches.max_seconds
    ]
    failures: dict[int, str] = {}
    first_ms: dict[int, float] = {}
    for start in (runtime.infer, runtime.infer_unoptimised):
        allow_seconds(limit_s)
        infer = start(model)
        infer(feeds)
        for size in sizes:
            allow_seconds(limit_s)
            try:
                given = batches.make(size)
                begin = time.perf_counter()
                infer(given)
                first_ms.setdefault(size, (time.perf_counter() - begin) * 1e3)
            except Exception as error:  # the runtime's exceptions share no base class
                failures.setdefault(size, str(error) or type(error).__name__)
        del infer
    ran = tuple(size for size in sizes if size not in failures)
    return replace(trial, batches=ran, failures=failures, first_ms={**first_ms, **trial.first_ms})
