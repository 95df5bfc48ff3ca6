"""Measure the models beside this file on this machine; needs only onnxruntime and numpy.

    python measure.py [--threads N] [--provider CPUExecutionProvider] [--out results.json]
    python measure.py --model model.onnx        # one finished model, for `hwnas check --measured`

The script may be stopped at any time: the results file is written after every group, and the next
start continues with the first group that is missing. It runs with Python 3.8 or later.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).absolute().parent
BLOCK_MS = 1.0
WARM_UP_S = 0.05
MIN_ROUNDS, MAX_ROUNDS = 50, 500


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
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
        "versions": {
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "manifest": manifest,
    }
    try:
        found: dict[str, Any] = json.loads(Path(arguments.out).read_text(encoding="utf-8"))
        if manifest is not None and all(found.get(key) == value for key, value in head.items()):
            return found
    except (OSError, ValueError):
        pass
    return {**head, "rounds_ms": {}}


def measure(models: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Time the models in interleaved rounds; return the ms of one run in each round, by name."""
    calls = {model["name"]: prepared(model, arguments) for model in models}
    counts = {name: warmed_up(call) for name, call in calls.items()}
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + max(arguments.seconds * len(calls), 2.0)
    for done in range(1, MAX_ROUNDS + 1):
        for name, call in calls.items():
            rounds[name].append(block_ms(call, counts[name]) / counts[name])
        if done >= MIN_ROUNDS and time.perf_counter() >= deadline:
            break
    return rounds


def prepared(model: dict[str, Any], arguments: argparse.Namespace) -> Callable[[], None]:
    """Return a function that runs a model once on random inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # An absolute path stays as it is.
    path = str(HERE / model["file"])
    session = onnxruntime.InferenceSession(path, options, providers=[arguments.provider])
    if session.get_providers()[0] != arguments.provider:
        raise SystemExit(f"{arguments.provider} did not start on this machine")
    generator = np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in model["inputs"].items()
    }
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def call() -> None:
        session.run_with_iobinding(binding)

    return call


def warmed_up(call: Callable[[], None]) -> int:
    """Run a function for the warm-up time and return how many runs fill a block."""
    call()
    count, end = 1, time.perf_counter() + WARM_UP_S
    while True:
        spent_ms = block_ms(call, count)
        if spent_ms < BLOCK_MS:
            count *= 2
        elif time.perf_counter() >= end:
            return max(1, round(count * BLOCK_MS / spent_ms))


def block_ms(call: Callable[[], None], count: int) -> float:
    """Return the time of `count` consecutive runs, in ms."""
    start_s = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start_s) * 1e3


def device_name() -> str:
    """Return the processor's name, or the architecture if it is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


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


if __name__ == "__main__":
    main()
