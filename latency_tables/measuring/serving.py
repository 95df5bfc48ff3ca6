"""Load test: one session that answers requests of several threads, as in a server."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.latency_tables.measuring.limits import STATUS, allow_seconds, run_in_process, status_mb
from hwnas.latency_tables.runtimes import Infer, Model, OnnxModelRuntime, create_runtime
from hwnas.latency_tables.statistics import percentiles_ms

KEPT_SAMPLES = 100_000
"""How many latencies each thread keeps; newer ones overwrite older ones."""
WARM_UP = 0.25
"""Share of the time after which memory is first read; until then buffers grow to their size."""


@dataclass(frozen=True)
class Serving:
    """Results of a load test.

    Attributes:
        threads: threads that sent requests at the same time.
        seconds: duration of the test.
        requests: requests that were answered.
        errors: requests that failed; a thread stops after its first failure.
        throughput_per_s: answered requests per second.
        latency: percentiles of the requests' latencies, see `percentiles_ms`.
        memory_mb: memory of the process after the warm-up, in MB (10^6 bytes); None on systems
            other than Linux.
        growth_mb: memory that the process added between then and the end of the test.
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
        """Return the fields by name."""
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
    """Send requests to one session from several threads, in a separate process.

    Args:
        runtime: the runtime that loads the model.
        model: an ONNX model.
        feeds: an array for each input.
        threads: threads that send requests at the same time.
        seconds: duration of the test.
        limit_s: processor time in seconds for loading the model and running it once, and time
            that the requests may take beyond `seconds`.

    Raises:
        InputError: the process was terminated, for example because it exceeded a limit.
    """
    return run_in_process(
        _serve,
        *(runtime.name, runtime.threads, model, dict(feeds), threads, seconds, limit_s),
        terminated=InputError(
            "the process that served the model was terminated",
            where=str(model) if isinstance(model, Path) else runtime.name,
        ),
    )


class _Client(threading.Thread):
    """Sends requests until it is told to stop; keeps the latencies of its latest requests."""

    def __init__(
        self, infer: Infer, feeds: Mapping[str, np.ndarray], stop: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self._infer, self._feeds, self._stop_event = infer, feeds, stop
        # Allocated in advance, so that it does not count as growth.
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
        # The default action of its signal terminates the process, whatever it is waiting for.
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
