"""Inspects untrusted files in a subprocess with limits; this process never parses them."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hwnas.errors import InputError

Precision = Literal["float32", "float16", "int8"]
"""Number format of a model."""

PATIENCE = 20.0
"""Wall-clock seconds allowed for each second of processor time, and for starting the process."""


@dataclass(frozen=True)
class InspectionLimits:
    """Limits of the inspection of one file, in addition to what loading the libraries takes.

    Attributes:
        memory_mb: memory in MB (10^6 bytes). With the default, the process stays below 200 MB in
            total.
        seconds: processor time. The default suffices for about 15,000 nodes.
    """

    memory_mb: float = 150.0
    seconds: float = 0.4


@dataclass(frozen=True)
class Value:
    """An input or output of a model.

    Attributes:
        name: name in the graph.
        dtype: element type, by its name in numpy or ONNX; the kind of value if it is not a tensor.
        shape: for each dimension its size, its symbol, or None if neither is stated; None if no
            shape is stated.
        below: for an input that is an index, the size of what it indexes, or its symbol; else None.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    below: int | str | None = None


@dataclass(frozen=True)
class Inspection:
    """Description of a model file that may be loaded.

    Attributes:
        path: absolute path that the file has to be loaded from.
        sha256: hash of the file, in hexadecimal digits.
        size_bytes: size of the file, without external data.
        ir_version: version of the ONNX format.
        opsets: opset version of each domain.
        producer: name and version of the tool that wrote the model.
        inputs: the inputs that have no stored value.
        outputs: the outputs.
        nodes: number of nodes.
        operators: number of nodes of each operator.
        precision: number format, which decides the parity limits.
        params: number of stored floating-point values.
        external_files: hash of each file with external data, by name.
        properties: metadata.
        shapes: the number of computed `values`, how many have a `known` shape, and the
            `contradiction` between declared and inferred shapes or None.
        notes: what the ONNX standard does not allow and runtimes take all the same.
    """

    path: Path
    sha256: str
    size_bytes: int
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: int
    operators: dict[str, int]
    precision: Precision
    params: int
    external_files: dict[str, str]
    properties: dict[str, str]
    shapes: dict[str, Any]
    notes: tuple[str, ...] = ()

    def require_unchanged(self) -> None:
        """Refuse files that were changed after the inspection.

        Raises:
            InputError: when the model file or its external data have changed or are missing.
        """
        beside = {self.path.parent / name: sha256 for name, sha256 in self.external_files.items()}
        for path, expected in {self.path: self.sha256, **beside}.items():
            found = sha256_of(path)
            if found != expected:
                raise InputError(
                    "changed since it was inspected",
                    where=str(path),
                    expected=expected,
                    actual=found,
                )

    @cached_property
    def opset(self) -> int:
        """Opset version of the standard operators; 0 if none is stated."""
        return self.opsets.get("ai.onnx", 0)


def inspect_model(path: str | Path, limits: InspectionLimits | None = None) -> Inspection:
    """Inspect an ONNX file.

    Args:
        path: the file.
        limits: limits of the inspection; the default ones if None.

    Raises:
        InputError: when it is not a valid model, refers to data outside its folder, declares sizes
            that are too large or differ from those of the stored data, or exceeds the limits.
    """
    found = _inspected("model", path, limits or InspectionLimits())
    inputs, outputs = ([_value(v) for v in found.pop(key)] for key in ("inputs", "outputs"))
    place = Path(found.pop("path"))
    # Not limited: the time depends only on the size of the files, which are regular ones.
    external = {name: sha256_of(place.parent / name) for name in found.pop("external_files")}
    return Inspection(
        path=place,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        external_files=external,
        notes=tuple(found.pop("notes")),
        **found,
    )


def inspect_npz(path: str | Path, limits: InspectionLimits | None = None) -> dict[str, str]:
    """Inspect an npz file.

    Args:
        path: the file.
        limits: limits of the inspection; the default ones if None.

    Returns:
        Type and shape of each array, by name.

    Raises:
        InputError: when it is not an npz file, contains pickles or is too large.
    """
    types: dict[str, str] = _inspected("npz", path, limits or InspectionLimits())["arrays"]
    return types


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits.

    Raises:
        InputError: when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError("cannot be read", where=str(path), actual=error.strerror) from None


def _value(found: dict[str, Any]) -> Value:
    shape = found["shape"]
    stated = None if shape is None else tuple(shape)
    return Value(found["name"], found["dtype"], stated, found.get("below"))


def _inspected(kind: str, path: str | Path, limits: InspectionLimits) -> dict[str, Any]:
    """The description of a file by a subprocess, see `hwnas.inspection.__main__`."""
    where = str(path)
    # Marks the weights that are left out; a file cannot know this text in advance.
    mark = secrets.token_hex(8)
    arguments = [kind, Path(where).absolute(), mark, limits.memory_mb, limits.seconds]
    # The subprocess ends when its end of the pipe is closed, as it is when this process is killed.
    theirs, ours = os.pipe()
    try:
        done = subprocess.run(
            # -P: do not import modules from the working folder.
            [sys.executable, "-P", "-m", "hwnas.inspection", *map(str, arguments)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=theirs,
            capture_output=True,
            timeout=PATIENCE * (1 + limits.seconds),
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(where, limits) from None
    finally:
        os.close(ours)
        os.close(theirs)
    if done.returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        raise _too_slow(where, limits)
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        raise InputError("the inspection was ended by a signal", where=where, actual=ended)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError("the inspection failed", where=where, actual=" ".join(last))
    found: dict[str, Any] = json.loads(done.stdout)
    if "refused" in found:
        raise InputError(found["refused"])
    return found


def _too_slow(where: str, limits: InspectionLimits) -> InputError:
    return InputError(
        "takes too long to inspect",
        where=where,
        expected=f"at most {limits.seconds:g} s of processor time",
        mend="--inspect-seconds raises the limit",
    )
