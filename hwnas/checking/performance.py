"""How fast a model is: latency, throughput at several batch sizes, serving test and energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas.budget.gate import NetworkLatency, measure_network
from hwnas.budget.speed import RecordedSpeed
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.references import Reference
from hwnas.checking.request import CheckRequest
from hwnas.checking.trial import THROUGHPUT_BATCHES
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection, sha256_of
from hwnas.latency_tables.measuring import trtexec
from hwnas.latency_tables.measuring.bundle import read_results
from hwnas.latency_tables.measuring.energy import Energy, energy_counter, measure_energy
from hwnas.latency_tables.measuring.serving import Serving, serve
from hwnas.latency_tables.on_device.measure import Call
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime
from hwnas.latency_tables.shipped import load_table
from hwnas.latency_tables.statistics import percentiles_ms
from hwnas.latency_tables.timing import Protocol
from hwnas.runs import interruption

SINGLE_CALLS = 1000
"""Number of single calls that percentiles are computed from, if the time suffices."""
FEW_CALLS = 64
"""Number of calls that suffices for the 90th percentile."""
SINGLE_SHARE, SLOW_SINGLE_SHARE, THROUGHPUT_SHARE = 1 / 12, 1 / 2, 1 / 30
"""Shares of the time limit of the latency measurement: for single calls, for single calls of a
model so slow that fewer than `FEW_CALLS` fit into the first share, and for the throughput."""


@dataclass(frozen=True)
class Performance:
    """How fast a model is; fields that were not measured are None or empty.

    Attributes:
        latency: latency of one inference, which the latency budget applies to.
        percentiles: percentiles of single calls in ms, see `percentiles_ms`.
        throughput: for each batch size the latency and the samples a second at that latency.
        serving: result of the serving test.
        energy: energy of one inference.
    """

    latency: NetworkLatency
    percentiles: dict[str, float | int | None] | None = None
    throughput: tuple[dict[str, float | int], ...] = ()
    serving: Serving | None = None
    energy: Energy | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of the check's document that describe the performance."""
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
    request: CheckRequest,
    reference: Reference | None,
) -> Performance:
    """Measure a model on a runtime.

    On a runtime that cannot run ONNX files, the reference is measured instead, and only its
    latency and energy.

    Args:
        model: the inspected file.
        runtime: the runtime to measure on.
        feeds: generates its inputs.
        batches: batch sizes that are known to run.
        request: the budget, which ends the latency measurement once it is decided; the time for
            measuring; and the load of the serving test.
        reference: the network that the model was exported from, or None.

    Raises:
        InputError: when the runtime cannot run ONNX files and there is no network to measure.
    """
    budget_ms, seconds = request.budget_ms, request.limits.measure_seconds
    if not isinstance(runtime, OnnxModelRuntime):
        if reference is None or reference.inference is None:
            raise InputError(
                "this runtime needs the run that the model comes from",
                where=runtime.name,
                mend="add --run DIR",
            )
        latency = measure_network(
            reference.inference,
            runtime,
            budget_ms=budget_ms,
            seconds=seconds,
            recorded=request.recorded,
        )
        return Performance(latency, energy=counted_energy(reference.inference(), runtime, latency))
    single = feeds.real(feeds.batch, 0)

    def prepare() -> Callable[[], None]:
        return runtime.prepare_onnx(model.path, single)

    latency = measure_network(
        prepare, runtime, budget_ms=budget_ms, seconds=seconds, recorded=request.recorded
    )
    call = prepare()
    serving = None
    if request.load is not None and not runtime.is_here:
        raise InputError("the serving test runs on this machine only", where="--serve-seconds")
    if request.load is not None:
        limit_s = request.limits.max_session_seconds
        serving = serve(runtime, model.path, single, **asdict(request.load), limit_s=limit_s)
    return Performance(
        latency,
        percentiles_ms(_single_calls_ms(call, runtime, seconds)),
        _throughput(model, runtime, feeds, _throughput_batches(feeds, batches, latency), seconds),
        serving,
        counted_energy(call, runtime, latency),
    )


def recorded_in(table: str | Path, runtime: Runtime) -> RecordedSpeed:
    """Read what the speed reference took beside the operators of a latency table.

    Args:
        table: a table's file, or the name of one that ships.
        runtime: the runtime that a model is measured on.

    Raises:
        InputError: when the table is of another device, runtime or number of threads, or holds no
            time of the reference.
    """
    found = load_table(table)
    here = runtime.profile(dtype=found.device.dtype, batch=found.device.batch)
    differences = here.differences(found.device, ("device", "runtime", "threads"))
    if differences:
        raise InputError(
            f"measured with other settings ({'; '.join(differences)})",
            where=str(table),
            mend="measure a table here with `hwnas profile`",
        )
    if found.reference is None:
        raise InputError(
            "holds no time of the speed reference",
            where=str(table),
            mend="measure it again with `hwnas profile`, or leave out --table",
        )
    return RecordedSpeed.of(found.reference, [])


def measured_elsewhere(results: Path, model: str | Path) -> NetworkLatency:
    """Read the latency of a model that was measured on another device.

    Args:
        results: output of a measurement bundle's `measure.py --model`, or times from trtexec.
        model: the model file; trtexec's times do not tell which model they belong to.

    Raises:
        InputError: when the results are malformed, or belong to another model.
    """
    if trtexec.is_times(results):
        times_ms = trtexec.read_times(results)
        return NetworkLatency.of_rounds(times_ms, "median", trtexec.RUNTIME)
    found = read_results(results)
    here = sha256_of(Path(model))
    if found.model is None or found.model.sha256 != here or "0" not in found.rounds_ms:
        raise InputError(
            "measured another model",
            where=str(results),
            expected=here,
            actual=found.model and found.model.sha256,
            mend=f"run `measure.py --model {Path(model).name}` on the device",
        )
    rounds_ms = found.rounds_ms["0"].get(found.model.name)
    if rounds_ms is None:
        raise InputError(
            "no times of the model",
            where=f"{results}: rounds_ms",
            expected=found.model.name,
            actual=sorted(found.rounds_ms["0"]),
        )
    return NetworkLatency.of_rounds(rounds_ms, found.statistic, f"{found.runtime}, {found.device}")


def counted_energy(
    call: Callable[[], None], runtime: Runtime, latency: NetworkLatency
) -> Energy | None:
    """Energy of one inference; None if the device has no energy counter that can be read."""
    counter = energy_counter(runtime)
    if counter is None:
        return None
    return measure_energy(call, runtime, counter, latency_ms=latency.median_ms)


def _single_calls_ms(call: Call, runtime: Runtime, seconds: float) -> list[float]:
    """Time each call separately, so that slow ones show; always at least one call."""
    samples = runtime.single_calls_ms(
        call,
        calls=SINGLE_CALLS,
        seconds=SINGLE_SHARE * seconds,
        few=FEW_CALLS,
        few_seconds=SLOW_SINGLE_SHARE * seconds,
    )
    interruption.stop_if_requested()
    return samples


def _throughput_batches(
    feeds: FeedMaker, batches: Sequence[int], latency: NetworkLatency
) -> list[int]:
    """Batch sizes that run and are expected to take less than a second; the smallest always."""
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
    """Latency and samples a second at each batch size, measured in interleaved rounds."""
    calls = {str(size): runtime.prepare_onnx(model.path, feeds.real(size, 0)) for size in sizes}
    found = runtime.measure(
        calls,
        # The batch sizes are not compared with each other: drift need not repeat a round.
        Protocol(time_limit_s=seconds * THROUGHPUT_SHARE, sentinel_drift=10.0),
        progress=lambda done, total: interruption.stop_if_requested(),
    )
    return tuple(
        {
            "batch": int(size),
            "latency_ms": rounds.summary.value_ms,
            "per_second": int(size) / rounds.summary.value_ms * 1e3,
        }
        for size, rounds in found.items()
    )
