"""Measure models on this machine; needs only Python 3.8 or later, onnxruntime and numpy.

    python measure.py [--threads N] [--provider CPUExecutionProvider] [--out results.json]
    python measure.py --model model.onnx        # one finished model, for `hwnas check --measured`

The script may be stopped at any time: the results file is written after every group, and the next
start continues with the first group that is missing.

hwnas itself takes its interleaved rounds from this file, here and on devices that it logs in to, so
that a figure means the same wherever it was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import platform
import statistics
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).absolute().parent if "__file__" in globals() else Path()
"""The folder of the bundle; a device that is logged in to gets only the text of this file."""
PROTOCOL: dict[str, Any] = {
    "warmup_s": 0.05,
    "block_ms": 1.0,
    "blocks_per_round": 1,
    "min_rounds": 50,
    "max_rounds": 500,
    "time_limit_s": 30.0,
    "half_width": 0.02,
    "sentinel_drift": 0.05,
    "max_repeats": 0,
}
"""The parameters of a bundle's measurement, see `hwnas.latency_tables.timing.Protocol`."""
MAX_CALLS = 1_000_000
"""Bounds the search for a block length on a clock that is too coarse to time the calls."""
Call = Callable[[], None]


class RefusedError(Exception):
    """What cannot be done on this machine.

    Attributes:
        kind: `provider`, `disk` or `request`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def rounds(
    calls: Mapping[str, Call],
    protocol: Any,
    time_block: Callable[[Call, int], float],
    clock: Callable[[], float],
) -> Iterator[tuple[dict[str, float], int]]:
    """Time functions in interleaved rounds; the first one is the sentinel.

    Args:
        calls: by name, functions that run one inference.
        protocol: has the fields of `hwnas.latency_tables.timing.Protocol`.
        time_block: returns the ms that a number of calls take.
        clock: returns seconds and never goes backwards.

    Yields:
        For each round the ms of one call of each function, and how often the round was repeated
        because the sentinel's time had changed.
    """
    deadline = clock() + protocol.time_limit_s
    counts = {name: warmed_up(call, protocol, time_block, clock) for name, call in calls.items()}

    def per_call_ms(name: str) -> float:
        blocks = range(protocol.blocks_per_round)
        return statistics.median(
            time_block(calls[name], counts[name]) / counts[name] for _ in blocks
        )

    sentinel = next(iter(calls))
    for _ in range(protocol.max_rounds):
        repeated = 0
        while True:
            figures = {name: per_call_ms(name) for name in calls}
            if protocol.max_repeats == 0:
                break
            drift_ms = abs(per_call_ms(sentinel) - figures[sentinel])
            is_steady = drift_ms <= protocol.sentinel_drift * figures[sentinel]
            if is_steady or repeated == protocol.max_repeats or clock() >= deadline:
                break
            repeated += 1
        yield figures, repeated
        if clock() >= deadline:
            return


def warmed_up(
    call: Call,
    protocol: Any,
    time_block: Callable[[Call, int], float],
    clock: Callable[[], float],
) -> int:
    """Run a function for the warm-up time and return how many calls fill a block."""
    calls = 1
    # The first call may include initialisation, so it cannot determine the length of a block.
    time_block(call, calls)
    end = clock() + protocol.warmup_s
    while calls < MAX_CALLS:
        if time_block(call, calls) < protocol.block_ms:
            calls *= 2
        elif clock() >= end:
            break
    # Doubling overshoots by up to a factor of two, which would leave time for fewer rounds.
    per_call_ms = time_block(call, calls) / calls
    filling: int = math.ceil(protocol.block_ms / max(per_call_ms, 1e-6))
    return max(1, min(calls, filling))


def block_ms(call: Call, count: int) -> float:
    """Return the time of `count` consecutive runs, in ms."""
    start_s = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start_s) * 1e3


def single_calls_ms(
    call: Call, calls: int, seconds: float, few: int, few_seconds: float
) -> list[float]:
    """Time each call by itself, so that slow ones show; always at least one call.

    Args:
        call: runs one inference.
        calls: number of calls after which it ends.
        seconds: after which it ends, once there are `few` calls.
        few: number of calls that may take longer than `seconds`.
        few_seconds: after which it ends, whatever there is.
    """
    found: list[float] = []
    begin = start = time.perf_counter()
    while len(found) < calls:
        call()
        now = time.perf_counter()
        found.append((now - start) * 1e3)
        if now - begin >= (seconds if len(found) >= few else few_seconds):
            break
        start = time.perf_counter()
    return found


def started(model: str, providers: list[Any], threads: int) -> Any:
    """Start a session of ONNX Runtime as it is deployed.

    Args:
        model: the model's file.
        providers: execution providers, the first of which has to start.
        threads: CPU threads of one inference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    session = onnxruntime.InferenceSession(model, options, providers=providers)
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != first:
        raise RefusedError("provider", f"{first} did not start")
    session.disable_fallback()
    return session


def prepared(session: Any, feeds: Mapping[str, Any], memory: str = "cpu") -> Call:
    """Return a function that runs a session once on inputs and outputs that are bound in advance.

    Args:
        session: an `onnxruntime.InferenceSession`.
        feeds: an array for each input, by name.
        memory: the device whose memory holds inputs and outputs, "cpu" or "cuda".
    """
    import onnxruntime

    binding = session.io_binding()

    def call() -> None:
        session.run_with_iobinding(binding)

    outputs = list(dict.fromkeys(value.name for value in session.get_outputs()))
    for name in outputs:
        binding.bind_output(name, memory)
    for name, array in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array, memory, 0)
        binding.bind_ortvalue_input(name, value)
    call()
    # The first run has allocated the outputs; binding them avoids an allocation in later runs.
    for name, value in zip(outputs, binding.get_outputs()):
        binding.bind_ortvalue_output(name, value)
    return call


def device_name() -> str:
    """Return the processor's name, the board's where it has none, or the architecture."""
    keys: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            keys.setdefault(key.strip(), value.strip())
    found = keys.get("model name") or keys.get("Model")
    return found or platform.processor() or platform.machine() or "unknown"


def main() -> None:
    """Measure every group that the results file does not have yet."""
    arguments = parse_arguments()
    if arguments.model:
        manifest = None
        groups = [one_model(Path(arguments.model), arguments.batch)]
    else:
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        groups = manifest["groups"]
    results = start(arguments, manifest)
    for index, group in enumerate(groups):
        if str(index) in results["rounds_ms"]:
            continue
        print(f"group {index + 1} of {len(groups)}: {len(group['models'])} models", flush=True)
        results["rounds_ms"][str(index)] = measure(group["models"], arguments)
        if arguments.model:
            results["model"] = group["models"][0]
        save(results, arguments.out)
    print(f"{arguments.out}: done", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one inference")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider")
    parser.add_argument("--device", default=device_name(), help="name of this device")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each model of a group")
    parser.add_argument("--model", help="measure this file instead of the bundle")
    parser.add_argument("--batch", type=int, default=1, help="batch size with --model")
    parser.add_argument("--out", default="results.json", help="results file")
    return parser.parse_args()


def one_model(path: Path, batch: int) -> dict[str, Any]:
    """Return a group of one model, whose inputs are read from the file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    session = started(str(path), ["CPUExecutionProvider"], threads=1)
    inputs = {
        value.name: [batch if not isinstance(size, int) else size for size in value.shape]
        for value in session.get_inputs()
    }
    file = str(path.absolute())
    return {"models": [{"name": "model", "file": file, "inputs": inputs, "sha256": digest}]}


def start(arguments: argparse.Namespace, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """Return the unfinished results of an earlier run with the same settings, or empty results."""
    head = {
        "schema": 1,
        "device": arguments.device,
        "provider": arguments.provider,
        "threads": arguments.threads,
        "versions": versions(),
        "manifest": manifest,
    }
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(Path(arguments.out).read_text(encoding="utf-8"))
        if manifest is not None and all(found.get(key) == value for key, value in head.items()):
            return found
    return {**head, "rounds_ms": {}}


def measure(models: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Time the models in interleaved rounds; return the ms of one run in each round, by name."""
    import numpy as np

    calls = {}
    for model in models:
        generator = np.random.default_rng(0)
        feeds = {
            name: generator.standard_normal(shape).astype(np.float32)
            for name, shape in model["inputs"].items()
        }
        # An absolute path stays as it is.
        path = str(HERE / model["file"])
        calls[model["name"]] = prepared(
            started(path, [arguments.provider], arguments.threads), feeds
        )
    protocol = types.SimpleNamespace(**PROTOCOL)
    protocol.time_limit_s = math.inf
    found: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + max(arguments.seconds * len(calls), 2.0)
    for figures, _ in rounds(calls, protocol, block_ms, time.perf_counter):
        for name, figure in figures.items():
            found[name].append(figure)
        if len(found[name]) >= protocol.min_rounds and time.perf_counter() >= deadline:
            break
    return found


def save(results: dict[str, Any], path: str) -> None:
    """Write the results atomically, by renaming a temporary file."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(results), encoding="utf-8")
    temporary.replace(path)
    slowest = max(
        statistics.median(figures)
        for group in results["rounds_ms"].values()
        for figures in group.values()
    )
    print(f"  slowest so far {slowest:.3f} ms", flush=True)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that run networks here."""
    found = {"python": platform.python_version()}
    for name in ("onnxruntime", "numpy"):
        with contextlib.suppress(ImportError):
            found[name] = str(__import__(name).__version__)
    return found


if __name__ == "__main__":
    main()
