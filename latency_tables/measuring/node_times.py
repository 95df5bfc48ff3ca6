"""Shares of an ONNX Runtime session's time that are spent in each node of the graph.

ONNX Runtime's profiler slows small networks down several times, so only the shares of its times are
meaningful.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwnas.latency_tables.runtimes import OnnxRuntime

WARM_UP_RUNS, MIN_RUNS, MAX_RUNS = 20, 40, 300
MAX_EVENTS = 60_000
"""Bounds the size of the profiler's file, which has about 600 bytes for each event."""
KEPT = 0.25
"""Share of the runs that are evaluated: the fastest, which other processes disturbed least."""
SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeShare:
    """A node of the optimised graph.

    Attributes:
        name: the runtime's name of the node.
        operator: its operator type, which may be a fused operator of the runtime.
        share: share of the time of all nodes, from 0 to 1.
    """

    name: str
    operator: str
    share: float


def node_shares(
    runtime: OnnxRuntime,
    model: bytes,
    feeds: Mapping[str, np.ndarray],
    folder: Path | None = None,
) -> list[NodeShare]:
    """Profile a model and return the share of time of each node in the fastest runs.

    Args:
        runtime: a runtime on a CPU; on a GPU the profiler times only kernel launches.
        model: a serialised ONNX model.
        feeds: an array for each input.
        folder: for the profiler's file, which is removed at the end; the system's folder for
            temporary files if None.

    Raises:
        InputError: ONNX Runtime cannot load the model.
    """
    import onnx

    nodes = len(onnx.load_from_string(model).graph.node)
    runs = min(max(MAX_EVENTS // max(nodes, 1), MIN_RUNS), MAX_RUNS)
    with TemporaryDirectory(dir=folder) as temporary:
        session = runtime.session(model, profile_to=str(Path(temporary) / "profile"))
        for _ in range(WARM_UP_RUNS + runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return _shares(events, WARM_UP_RUNS)


def _shares(events: list[dict[str, Any]], warm_up_runs: int) -> list[NodeShare]:
    """Compute the shares from the profiler's events, without the first `warm_up_runs` runs."""
    runs = sorted(
        ((e["ts"], e["dur"]) for e in events if e["name"] == "model_run"), key=lambda run: run[0]
    )[warm_up_runs:]
    starts_us = np.array([start for start, _ in runs])
    durations_us = np.array([duration for _, duration in runs])
    fast = durations_us <= np.quantile(durations_us, KEPT)
    times_us: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(SUFFIX):
            continue
        run = int(np.searchsorted(starts_us, event["ts"], side="right")) - 1
        if run >= 0 and fast[run]:
            key = event["name"].removesuffix(SUFFIX), event["args"]["op_name"]
            times_us[key] = times_us.get(key, 0.0) + event["dur"]
    total_us = sum(times_us.values()) or 1.0
    return [NodeShare(*key, time_us / total_us) for key, time_us in times_us.items()]
