"""Checks every model of the ONNX backend suite on the inputs and outputs that come with it.

The suite is in the onnx package: cases of single operators, which `onnx.backend.test.case.node`
makes, and stored ones. A case is a small model with
inputs and correct outputs. What ONNX Runtime runs should end in `pass`; every other end is a line
of the result, with its cause.

The models are trusted, so the processes in which a check inspects and tries a file are replaced by
calls, and no latency is measured: the suite then takes minutes in place of hours. What is compared
and judged is the check's own code.

    python benchmarks/onnx_node_tests.py --out benchmarks/results/onnx_node_tests.csv
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import platform
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from hwnas.budget.gate import NetworkLatency
from hwnas.checking import behaviour, check, saturation, trial, widen
from hwnas.checking.check import check_file
from hwnas.checking.performance import Performance
from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.errors import HwnasError
from hwnas.inspection import process
from hwnas.inspection.__main__ import describe_model
from hwnas.inspection.process import InspectionLimits, inspect_model
from hwnas.latency_tables.measuring import memory
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu

LIMITS = InspectionLimits(seconds=5.0)
REQUEST = CheckRequest(CheckConfig())
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
KINDS = ("pytorch-converted", "pytorch-operator", "simple")
PASS, NOT_RUN = "pass", "not run by ONNX Runtime"
NOT_ARRAYS = "inputs are no arrays"


@dataclass(frozen=True)
class Case:
    """A model with pairs of inputs and correct outputs."""

    name: str
    model: onnx.ModelProto
    data_sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]


def cases() -> list[Any]:
    """All cases of the suite, by name; making those of single operators takes 10 seconds."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        made = list(collect_testcases(None))
    return sorted([*made, *stored_cases()], key=lambda case: str(case.name))


def stored_cases(kinds: Sequence[str] = KINDS) -> list[Case]:
    """The cases that are stored in files: some models that PyTorch exported, and others."""
    found = []
    for path in sorted(path for kind in kinds for path in (DATA / kind).glob("*/model.onnx")):
        parts = (path.parent / "test_data_set_0").glob
        pair = tuple(
            [TensorProto.FromString(file.read_bytes()) for file in sorted(parts(f"{kind}_*.pb"))]
            for kind in ("input", "output")
        )
        found.append(Case(path.parent.name, onnx.load(path), [pair]))
    return found


def as_numpy(array: Any) -> np.ndarray:
    """An array as `numpy.savez` writes it; numbers that numpy lacks become longer ones."""
    array = np.asarray(array)
    if array.dtype == object:
        return array.astype(str)
    name = array.dtype.name
    if name in ("bool", "float16", "float32", "float64") or array.dtype.kind in "Uc":
        return array
    if name.removeprefix("u") in ("int8", "int16", "int32", "int64"):
        return array
    return array.astype(np.float32 if "float" in name else np.uint8 if "u" in name else np.int8)


def named(values: Sequence[Any], names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Arrays by name, those of a sequence as `name[0]` ...; None for other values."""
    found: dict[str, np.ndarray] = {}
    for name, given in zip(names, values, strict=False):
        is_stored = isinstance(given, TensorProto)
        value = numpy_helper.to_array(given) if is_stored else given
        if isinstance(value, list) and all(isinstance(item, np.ndarray) for item in value):
            found |= {f"{name}[{index}]": as_numpy(item) for index, item in enumerate(value)}
        elif isinstance(value, np.ndarray | np.generic):
            found[name] = as_numpy(value)
        else:
            return None
    return found


def why_not_run(path: Path, inputs: dict[str, np.ndarray] | None) -> str | None:
    """Why ONNX Runtime does not run a model; None if it does."""
    try:
        infer = OnnxRuntimeCpu(1).infer(path)
        if inputs is not None:
            infer({name: as_given(array) for name, array in inputs.items()})
    except Exception as error:  # its exceptions share no base class
        return str(error)
    return None


def as_given(array: np.ndarray) -> np.ndarray:
    """An array as ONNX Runtime takes it: texts are objects."""
    return array.astype(object) if array.dtype.kind == "U" else array


def outcome(case: Any, folder: Path) -> tuple[str, str]:
    """How the check of a case ends, and why if not in `pass`."""
    path = folder / "model.onnx"
    path.write_bytes(case.model.SerializeToString())
    graph = case.model.graph
    given, expected = case.data_sets[0]
    inputs = named(given, [value.name for value in graph.input])
    if inputs is not None and any("[" in name for name in inputs):
        inputs = None
    outputs = named(expected, [value.name for value in graph.output])
    cause = why_not_run(path, inputs)
    if cause is not None:
        return NOT_RUN, cause
    if inputs is None or outputs is None:
        return NOT_ARRAYS, "sequences or optional values"
    np.savez(folder / "data.npz", **inputs)
    np.savez(folder / "expected.npz", **outputs)
    try:
        document = check_file(
            inspect_model(path, LIMITS),
            REQUEST,
            has_batch=False,
            data=folder / "data.npz",
            reference=folder / "expected.npz",
        )
    except HwnasError as error:
        return "refused", str(error)
    bad = [g for g in document["gates"] if g["status"] in ("fail", "inconclusive")]
    reasons = "; ".join(f"{g['name']} {g['status']} {g['value']}" for g in bad)
    return document["verdict"], reasons


@contextmanager
def in_this_process() -> Iterator[None]:
    """Replace the processes of a check by calls, and its latency by a stated one."""

    def call(function: Callable[..., Any], *arguments: Any, terminated: Exception) -> Any:
        return function(*arguments)

    def inspected(kind: str, path: Path, limits: InspectionLimits) -> dict[str, Any]:
        found = describe_model(path.absolute(), "mark", "status")
        return dict(json.loads(json.dumps(found)))

    latency = Performance(NetworkLatency.stated(1.0, "not measured"))
    with ExitStack() as stack:
        for module in (memory, widen, saturation):
            stack.enter_context(patch.object(module, "run_in_process", call))
        for module in (memory, saturation):
            stack.enter_context(patch.object(module, "allow_seconds", lambda limit_s: None))
        stack.enter_context(patch.object(trial, "session_limit_mb", lambda *_: None))
        stack.enter_context(patch.object(behaviour, "session_limit_mb", lambda *_: None))
        stack.enter_context(patch.object(process, "_inspected", inspected))
        stack.enter_context(patch.object(check, "measure_performance", lambda *_: latency))
        # The checker finds a file for external data in this folder of Linux.
        stack.enter_context(chdir("/proc/self"))
        yield


def rows(chosen: Sequence[Any]) -> Iterator[dict[str, str]]:
    """A row for each case."""
    with tempfile.TemporaryDirectory() as folder:
        for case in chosen:
            try:
                end, why = outcome(case, Path(folder))
            except Exception as error:  # an unforeseen error is a result here
                end, why = "error", f"{type(error).__name__}: {error}"
            yield {"case": case.name, "end": end, "why": " ".join(why.split())[:300]}


def main() -> None:
    """Run the suite and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every n-th case")
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    options = parser.parse_args()
    facts = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "versions": f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}",
    }
    counts: Counter[str] = Counter()
    with options.out.open("w", newline="") as file, in_this_process():
        writer = csv.DictWriter(file, ["case", "end", "why", *facts])
        writer.writeheader()
        for row in rows(cases()[options.first :: options.every]):
            counts[row["end"]] += 1
            if row["end"] != PASS:
                writer.writerow({**row, **facts})
                file.flush()
        writer.writerow({"case": "all", "end": "counts", "why": str(dict(counts)), **facts})
    print(dict(counts))


if __name__ == "__main__":
    main()
