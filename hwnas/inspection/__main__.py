"""The process that validates a file: `python -m hwnas.inspection KIND PATH MARK MB SECONDS`.

It imports onnx and nothing heavier, lowers its own resource limits before it opens the file, and
prints one JSON object: a description of the file, or `refused` with the line of an error. It ends
when its standard input does, so that it does not outlive the process that started it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnx.checker
import onnx.defs
import onnx.shape_inference
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto

from hwnas.errors import InputError, first_line, printable
from hwnas.inspection.arrays import npz_types
from hwnas.inspection.graphs import operator_counts, require_finite_functions, require_names
from hwnas.inspection.indices import index_limits
from hwnas.inspection.leniency import mend, with_dense_weights, with_shapes
from hwnas.inspection.precision import FLOATS, HALVES, precision_of
from hwnas.inspection.tensors import (
    TensorValidator,
    require_bounded,
    tensors_of_function,
    tensors_of_graph,
)
from hwnas.inspection.wire import WireError, without_weights

MAX_MODEL_BYTES = 2**31 - 1
"""Largest size of a protobuf message."""


def main(kind: str, path: str, mark: str, memory_mb: float, seconds: float) -> None:
    """Validate a file and print its description, or why it is refused.

    Args:
        kind: `model` for an ONNX file, `npz` for arrays.
        path: the file.
        mark: marks tensors whose data are left out, see `hwnas.inspection.wire`.
        memory_mb: MB (10^6 bytes) that the process may allocate from now on.
        seconds: processor time that it may use from now on.
    """
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        with _placeholder() as placeholder:
            lower_limits(memory_mb, seconds)
            if kind == "model":
                found = describe_model(Path(path), mark, placeholder)
            else:
                found = describe_npz(Path(path))
    except InputError as error:
        found = {"refused": printable(str(error))}
    except MemoryError:
        line = f"{path}: takes more than {memory_mb:g} MB to inspect; see --inspect-mb"
        found = {"refused": printable(line)}
    print(json.dumps(found))


def _exit_with_parent() -> None:
    """End this process once nobody holds the other end of its standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


@contextmanager
def _placeholder() -> Iterator[str]:
    """The name of a regular file in the working folder, which becomes one that has such a file.

    The checker of onnx looks for the files of external data, but does not read them. Linux has
    such a file for every process, so that none has to be made and removed.
    """
    if _has_proc():
        os.chdir("/proc/self")
        yield "status"
        return
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("weights").touch()
        yield "weights"


def lower_limits(memory_mb: float, seconds: float) -> None:
    """Limit further memory and processor time of this process, and forbid it to write files."""
    page = os.sysconf("SC_PAGE_SIZE")
    used = int(Path("/proc/self/statm").read_text().split()[5]) * page if _has_proc() else 0
    limit = used + int(memory_mb * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action of SIGPROF ends the process, whatever it is doing.
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _has_proc() -> bool:
    return Path("/proc/self/statm").exists()


def open_regular(path: Path) -> int:
    """Open a regular file and return its descriptor.

    Opening never blocks, as it would for a pipe.

    Raises:
        InputError: when the file is missing, is not a regular file, or cannot be read.
    """
    where = str(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        is_model = path.suffix == ".onnx"
        mend = "`hwnas export` writes a run's model" if is_model else ""
        raise InputError("no such file", where=where, mend=mend) from None
    except OSError as error:
        raise InputError("cannot be read", where=where, actual=error.strerror) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise InputError("not a regular file", where=where, actual=kind)
    return descriptor


def describe_npz(path: Path) -> dict[str, Any]:
    """Validate an npz file and describe its `arrays`: the type and shape of each, by name.

    Raises:
        InputError: when it is not an npz file, or must not be loaded.
    """
    with open(open_regular(path), "rb") as file:
        return {"arrays": npz_types(path, file)}


def describe_model(path: Path, mark: str, placeholder: str) -> dict[str, Any]:
    """Validate an ONNX model and describe it.

    Args:
        path: the file.
        mark: marks tensors whose data are left out, see `hwnas.inspection.wire`.
        placeholder: name of a file in the working folder, which stands for all external data.

    Returns:
        The fields of `hwnas.inspection.process.Inspection`, ready for JSON.

    Raises:
        InputError: when it is not an ONNX model, or must not be loaded.
    """
    with open(open_regular(path), "rb") as file:
        found = _describe(path, file.fileno(), mark, placeholder)
        _require_utf8(found, str(path))
        # Hashing is not limited: its time depends only on the size of the file.
        signal.setitimer(signal.ITIMER_PROF, 0)
        return found | {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _describe(path: Path, descriptor: int, mark: str, placeholder: str) -> dict[str, Any]:
    where = str(path)
    size = os.fstat(descriptor).st_size
    if size > MAX_MODEL_BYTES:
        raise InputError("too large", where=where, expected="at most 2 GiB", actual=size)
    model = _parse(descriptor, size, where, mark)
    if not model.graph.node:
        raise InputError("not an ONNX model, or an empty one", where=where)
    _require_known_opset(model, where)
    notes = mend(model)
    require_finite_functions(model, where)
    for graph in _graphs(model):
        require_names(graph, where)
    tensors = TensorValidator(path, mark, placeholder)
    for tensor in _tensors(model):
        tensors.validate(tensor)
    inputs = _inputs(model)
    if not inputs or not model.graph.output:
        missing = "inputs" if not inputs else "outputs"
        raise InputError(f"a model without {missing}", where=where)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        require_bounded(value.type, f"{where}: {value.name!r}")
    _run_checker(model, where)
    operators = operator_counts(model)
    shapes, inferred = _infer_shapes(model, where)
    limits = index_limits(inferred, [value.name for value in inputs])
    return {
        "path": str(tensors.path),
        "size_bytes": size,
        "ir_version": model.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": printable(f"{model.producer_name} {model.producer_version}".strip()),
        "inputs": [_value(value) | {"below": limits.get(value.name)} for value in inputs],
        "outputs": [_value(value) for value in model.graph.output],
        "nodes": sum(operators.values()),
        "operators": operators,
        "precision": precision_of(inferred),
        "params": sum(
            math.prod(t.dims) for t in model.graph.initializer if t.data_type in FLOATS + HALVES
        ),
        "external_files": list(tensors.external_files),
        "properties": {entry.key: entry.value for entry in model.metadata_props},
        "shapes": shapes,
        "notes": notes,
    }


def _parse(descriptor: int, size: int, where: str, mark: str) -> ModelProto:
    """Parse a model without the data of its large tensors."""
    expected = "an ONNX model, which is a protobuf message"
    if not size:
        raise InputError("not an ONNX model", where=where, expected=expected, actual="0 bytes")
    # Not closed before the process ends: an exception may still refer to the buffer.
    data = memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
    try:
        model: ModelProto = ModelProto.FromString(without_weights(data, mark))
        return model
    except WireError as error:
        found = str(error)
    except DecodeError as error:
        found = str(error).split(": ")[-1]
        if "alloc" in found:
            raise MemoryError from None
    raise InputError(
        "not an ONNX model, or cut short", where=where, expected=expected, actual=found
    )


def _require_known_opset(model: ModelProto, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not 0 < entry.version <= newest:
            raise InputError(
                "unknown opset",
                where=where,
                expected=f"1 to {newest}",
                actual=entry.version,
                mend="export the model with an opset in this range",
            )


def _graphs(model: ModelProto) -> list[GraphProto]:
    """The main graph, and those for training."""
    training = [g for t in model.training_info for g in (t.initialization, t.algorithm)]
    return [model.graph, *(g for g in training if g.node)]


def _tensors(model: ModelProto) -> list[TensorProto]:
    """All tensors stored in a model."""
    found = [tensor for graph in _graphs(model) for tensor in tensors_of_graph(graph)]
    for function in model.functions:
        found += tensors_of_function(function)
    return found


def _inputs(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs without a stored value; older models list their weights among the inputs."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {pair.values.name for pair in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _run_checker(model: ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(with_shapes(model).SerializeToString())
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InputError("not a valid ONNX model", where=where, actual=first_line(error)) from None


def _infer_shapes(model: ModelProto, where: str) -> tuple[dict[str, Any], ModelProto]:
    """How many computed values have a known shape, what contradicts them, and the inferred model.

    The model has the types and shapes that could be inferred.
    """
    model = with_dense_weights(model)
    data, contradiction = model.SerializeToString(), None
    try:
        inferred = onnx.shape_inference.infer_shapes(data, True, True, True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        contradiction = printable(first_line(error))
        try:
            inferred = onnx.shape_inference.infer_shapes(data)
        except (onnx.shape_inference.InferenceError, ValueError):
            inferred = model
    graph = inferred.graph
    values = {value.name: value.type for value in (*graph.value_info, *graph.output)}
    for name, kind in values.items():
        require_bounded(kind, f"{where}: {name!r}")
    computed = {name for node in graph.node for name in node.output if name}
    known = sum(name in values and _has_shape(values[name]) for name in computed)
    return {"values": len(computed), "known": known, "contradiction": contradiction}, inferred


def _has_shape(kind: TypeProto) -> bool:
    return kind.tensor_type.HasField("shape") if kind.HasField("tensor_type") else True


def _require_utf8(found: Any, where: str) -> None:
    """Refuse bytes, which protobuf returns for strings that are not valid UTF-8."""
    if isinstance(found, bytes):
        raise InputError("a string is not valid UTF-8", where=where, actual=found)
    if isinstance(found, dict):
        found = [*found, *found.values()]
    if isinstance(found, list):
        for part in found:
            _require_utf8(part, where)


def _value(value: ValueInfoProto) -> dict[str, Any]:
    """Name, element type and shape of an input or output; sizes are numbers, symbols or None."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return {"name": value.name, "dtype": str(kind), "shape": None}
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        # Some exporters write 0 for an open size.
        shape = [dim.dim_value or dim.dim_param or None for dim in tensor.shape.dim]
    dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
    return {"name": value.name, "dtype": {"float": "float32"}.get(dtype, dtype), "shape": shape}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
