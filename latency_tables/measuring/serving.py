"""One session under several threads at once, as a server would use it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.latency_tables.measuring.memory import STATUS, allow_seconds, status_mb
from hwnas.latency_tables.runtimes import Infer, Model, OnnxModelRuntime, create_runtime
from hwnas.latency_tables.statistics import percentiles_ms

KEPT_SAMPLES = 100_000
"""Latencies kept of each thread; the latest ones count."""
WARM_UP = 0.25
"""Share of the time after which memory is read first: until then buffers find their size."""


@dataclass(frozen=True)
class Serving:
    """What a session did under load.

    Attributes:
        threads: that asked at the same time.
        seconds: how long.
        requests: answered.
        errors: requests that failed; each thread ends with its first.
        throughput_per_s: requests a second.
        latency: percentiles of the requests in ms, see `percentiles_ms`.
        memory_mb: MB (10^6 bytes) of the process after the warm-up, None where nobody tells.
        growth_mb: what was added to it until the end.
    """

    threads: int
    seconds: float
    requests: int
    errors: int
    throughput_per_s: float
    latency: dict[str, float | int | None]
    memory_mb: float | None
    growth_mb: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def serve(
    runtime: OnnxModelRuntime,
    model: Model,
    feeds: Mapping[str, np.ndarray],
    *,
    threads: int,
    seconds: float,
    limit_s: int | None = None,
) -> Serving:
    """Run one session from several threads, in a process of its own.

    Args:
        runtime: whose session is made.
        model: an ONNX model.
        feeds: an array for each input.
        threads: how many ask at the same time.
        seconds: how long they ask.
        limit_s: processor time that loading the model and running it once may take, and what the
            requests may take beyond `seconds`.

    Raises:
        InputError: when the process ends before it answers, by a limit say.
    """
    arguments = (runtime.name, runtime.threads, model, dict(feeds), threads, seconds, limit_s)
    # A spawned process shares nothing with this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(_serve, *arguments).result()
        except (BrokenProcessPool, MemoryError):
            raise InputError(
                "the model ended the process that served it",
                where=str(model) if isinstance(model, Path) else runtime.name,
            ) from None


class _Client(threading.Thread):
    """Asks until it is told to stop; keeps the latencies of its latest requests."""

    def __init__(self, infer: Infer, feeds: Mapping[str, np.ndarray], stop: threading.Event):
        super().__init__(daemon=True)
        self._infer, self._feeds, self._stop_event = infer, feeds, stop
        # Written once now, so that filling it later is no growth.
        self._latencies_ms = np.zeros(KEPT_SAMPLES)
        self.requests = self.errors = 0

    def run(self) -> None:
        while not self._stop_event.is_set():
            start = time.perf_counter()
            try:
                self._infer(self._feeds)
            except Exception:  # the runtime's exceptions share no base class
                self.errors += 1
                return
            elapsed_ms = (time.perf_counter() - start) * 1e3
            self._latencies_ms[self.requests % KEPT_SAMPLES] = elapsed_ms
            self.requests += 1

    @property
    def latencies_ms(self) -> np.ndarray:
        return self._latencies_ms[: min(self.requests, KEPT_SAMPLES)]


def _serve(
    name: str,
    runtime_threads: int,
    model: Model,
    feeds: dict[str, np.ndarray],
    threads: int,
    seconds: float,
    limit_s: int | None,
) -> Serving:
    runtime = create_runtime(name, runtime_threads)
    runtime.require()
    assert isinstance(runtime, OnnxModelRuntime)
    allow_seconds(limit_s)
    infer, stop = runtime.infer(model), threading.Event()
    infer(feeds)
    if limit_s is not None:
        allow_seconds(math.ceil(threads * runtime_threads * seconds) + limit_s)
        # The default action of its signal ends the process, whatever it waits for.
        signal.setitimer(signal.ITIMER_REAL, seconds + limit_s)
    clients = [_Client(infer, feeds, stop) for _ in range(threads)]
    start = time.perf_counter()
    for client in clients:
        client.start()
    time.sleep(seconds * WARM_UP)
    warm_mb = status_mb("VmRSS") if STATUS.exists() else None
    time.sleep(seconds * (1 - WARM_UP))
    stop.set()
    for client in clients:
        client.join()
    elapsed_s = time.perf_counter() - start
    requests = sum(client.requests for client in clients)
    latencies_ms = np.concatenate([client.latencies_ms for client in clients])
    return Serving(
        threads=threads,
        seconds=elapsed_s,
        requests=requests,
        errors=sum(client.errors for client in clients),
        throughput_per_s=requests / elapsed_s,
        latency=percentiles_ms(latencies_ms) if requests else {},
        memory_mb=warm_mb,
        growth_mb=None if warm_mb is None else status_mb("VmRSS") - warm_mb,
    )
