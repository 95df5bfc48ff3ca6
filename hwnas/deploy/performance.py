"""How fast a model is: single calls, several batches, several threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwnas.budget.gate import NetworkLatency, measure_network
from hwnas.deploy.behaviour import THROUGHPUT_BATCHES, Reference
from hwnas.deploy.feeds import FeedMaker
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.energy import Energy, energy_counter, measure_energy
from hwnas.latency_tables.measuring.serving import Serving, serve
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime
from hwnas.latency_tables.statistics import percentiles_ms
from hwnas.latency_tables.timing import Protocol, measure
from hwnas.runs import interruption

SINGLE_CALLS = 1000
SINGLE_SHARE, SLOW_SINGLE_SHARE, THROUGHPUT_SHARE = 1 / 12, 1 / 2, 1 / 30
"""Of the time that measuring the latency may take: single calls take the first, and up to the
second until there are `FEW_CALLS`."""
FEW_CALLS = 64
"""Enough for the 90th percentile."""


@dataclass(frozen=True)
class ServingLoad:
    """How many threads ask one session, and for how many seconds."""

    threads: int
    seconds: float


@dataclass(frozen=True)
class Performance:
    """How fast a model is; all but the latency is None or empty where nothing was measured.

    Attributes:
        latency: of one inference, as budgets are judged by.
        percentiles: of single calls, see `percentiles_ms`.
        throughput: for each batch its latency, and samples a second by the median of the rounds.
        serving: under load.
        energy: of one inference.
    """

    latency: NetworkLatency
    percentiles: dict[str, float | int | None] | None = None
    throughput: tuple[dict[str, float | int], ...] = ()
    serving: Serving | None = None
    energy: Energy | None = None

    def to_json(self) -> dict[str, Any]:
        """Its part of the check's document."""
        return {
            "measured": self.latency.to_json(),
            "percentiles": self.percentiles,
            "throughput": list(self.throughput),
            "serving": None if self.serving is None else self.serving.to_json(),
            "energy": None if self.energy is None else self.energy.to_json(),
        }


def measure_performance(
    model: Inspection,
    runtime: Runtime,
    feeds: FeedMaker,
    batches: Sequence[int],
    *,
    budget_ms: float | None,
    seconds: float,
    limit_s: int,
    reference: Reference | None,
    load: ServingLoad | None,
) -> Performance:
    """Measure a model on a runtime; on one that runs no ONNX files, latency and energy alone.

    Args:
        model: the inspected file.
        runtime: where it runs.
        feeds: makes its inputs.
        batches: those that are known to run.
        budget_ms: the latency is measured until this is decided.
        seconds: limit of measuring the latency; the other figures take shares of it.
        limit_s: of a session, for the process that serves.
        reference: is measured where the runtime runs no ONNX files.
        load: of serving, or None.

    Raises:
        InputError: when the runtime runs no ONNX files and there is no reference.
    """
    if not isinstance(runtime, OnnxModelRuntime):
        if reference is None or reference.inference is None:
            raise InputError(
                "this runtime needs the run that the model comes from",
                where=runtime.name,
                mend="add --run DIR",
            )
        call = reference.inference()
        latency = measure_network(call, runtime, budget_ms=budget_ms, seconds=seconds)
        return Performance(latency, energy=counted_energy(call, runtime, latency))
    single = feeds.real(feeds.batch, 0)
    call = runtime.prepare_onnx(model.path, single)
    latency = measure_network(call, runtime, budget_ms=budget_ms, seconds=seconds)
    serving = None
    if load is not None:
        serving = serve(runtime, model.path, single, **asdict(load), limit_s=limit_s)
    return Performance(
        latency,
        percentiles_ms(_single_calls_ms(call, seconds)),
        _throughput(model, runtime, feeds, _sizes(feeds, batches, latency), seconds),
        serving,
        counted_energy(call, runtime, latency),
    )


def counted_energy(
    call: Callable[[], None], runtime: Runtime, latency: NetworkLatency
) -> Energy | None:
    """What an inference takes; None where the device counts none, or lets nobody read it."""
    counter = energy_counter(runtime)
    if counter is None:
        return None
    return measure_energy(call, runtime, counter, latency_ms=latency.median_ms)


def _single_calls_ms(call: Callable[[], None], seconds: float) -> list[float]:
    """Each call by itself, so that a slow one shows; one at least."""
    samples: list[float] = []
    begin = start = time.perf_counter()
    while len(samples) < SINGLE_CALLS:
        call()
        now = time.perf_counter()
        samples.append((now - start) * 1e3)
        share = SINGLE_SHARE if len(samples) >= FEW_CALLS else SLOW_SINGLE_SHARE
        if now - begin >= share * seconds:
            break
        start = time.perf_counter()
    interruption.stop_if_requested()
    return samples


def _sizes(feeds: FeedMaker, batches: Sequence[int], latency: NetworkLatency) -> list[int]:
    """Batches that run and take less than a second; the first one anyway."""
    sizes = [size for size in THROUGHPUT_BATCHES if size in batches] or [feeds.batch]
    sample_ms = latency.median_ms / feeds.batch
    return [size for size in sizes if size == sizes[0] or size * sample_ms < 1000]


def _throughput(
    model: Inspection,
    runtime: OnnxModelRuntime,
    feeds: FeedMaker,
    sizes: Sequence[int],
    seconds: float,
) -> tuple[dict[str, float | int], ...]:
    """Latency and samples a second of each batch, measured in interleaved rounds."""
    calls = {str(size): runtime.prepare_onnx(model.path, feeds.real(size, 0)) for size in sizes}
    found = measure(
        calls,
        # No single batch is a sentinel of the others.
        Protocol(time_limit_s=seconds * THROUGHPUT_SHARE, sentinel_drift=10.0),
        statistic=runtime.statistic,
        time_block=runtime.time_block,
        progress=lambda done, total: interruption.stop_if_requested(),
    )
    return tuple(
        {
            "batch": int(size),
            "latency_ms": rounds.summary.value_ms,
            "per_second": int(size) / rounds.summary.median_ms * 1e3,
        }
        for size, rounds in found.items()
    )
