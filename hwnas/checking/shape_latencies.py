"""Latencies of a model at several shapes of its inputs, measured in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.trial import probe
from hwnas.config import CheckConfig
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.latency_tables.timing import Protocol
from hwnas.runs import interruption

SHARE = 1 / 4
"""Share of the time limit of the latency measurement that each shape adds."""


def shape_latencies(
    model: Inspection,
    runtime: OnnxModelRuntime,
    shapes: Sequence[FeedMaker],
    limits: CheckConfig,
) -> list[dict[str, Any]]:
    """Measure a model at several shapes.

    Args:
        model: the inspected file.
        runtime: the runtime to measure on.
        shapes: feeds of each shape.
        limits: limits of a session, and the time of the latency measurement.

    Returns:
        For each shape the `inputs` with their sizes, `latency_ms` with its 95 % interval from
        `ci_low_ms` to `ci_high_ms`, and `ratio`, the latency relative to that of the first shape.

    Raises:
        InputError: when the model does not run at a shape.
    """
    calls = {}
    for index, feeds in enumerate(shapes):
        probe(model, runtime, feeds, limits)
        calls[str(index)] = runtime.prepare_onnx(model.path, feeds.real(feeds.batch, 0))
    found = runtime.measure(
        calls,
        Protocol(time_limit_s=limits.measure_seconds * SHARE * len(calls), sentinel_drift=10.0),
        progress=lambda done, total: interruption.stop_if_requested(),
    )
    summaries = [found[str(index)].summary for index in range(len(shapes))]
    return [
        {
            "inputs": {given.name: list(given.shape(feeds.batch)) for given in feeds.inputs},
            "latency_ms": summary.value_ms,
            "ci_low_ms": summary.ci_low_ms,
            "ci_high_ms": summary.ci_high_ms,
            "ratio": summary.value_ms / summaries[0].value_ms,
        }
        for feeds, summary in zip(shapes, summaries, strict=True)
    ]
