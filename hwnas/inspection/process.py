"""Inspects files that nobody vouches for in a process with limits; here nothing of them is read."""

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
from tempfile import TemporaryDirectory
from typing import Any, Literal

from hwnas.errors import InputError

Precision = Literal["float32", "float16", "int8"]

PATIENCE = 20.0
"""Wall-clock seconds for each second of processor time, and for the start of the process."""


@dataclass(frozen=True)
class InspectionLimits:
    """What the inspection of one file may take, beyond what its libraries take themselves.

    Attributes:
        memory_mb: MB (10^6 bytes); with the libraries the process stays below 200.
        seconds: processor time; enough for some 15,000 nodes.
    """

    memory_mb: float = 150.0
    seconds: float = 0.4


@dataclass(frozen=True)
class Value:
    """An input or output of a model.

    Attributes:
        name: in the graph.
        dtype: of its elements, as numpy or ONNX call it; the kind where it is no tensor.
        shape: sizes, symbols, or None for what is not stated; None when nothing is.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Inspection:
    """What is known of a model file that may be loaded.

    Attributes:
        path: what the file is to be loaded from, absolute.
        sha256: of its bytes, in hexadecimal digits.
        size_bytes: of the file, without external data.
        ir_version, opsets: versions that it states; opsets by domain.
        inputs: what has to be fed.
        outputs: what it computes.
        operators: how often each stands in it.
        precision: by whose limits its outputs are compared.
        params: stored floating-point numbers.
        external_files: the hash of each file beside it that it needs, by name.
        properties: its metadata.
        shapes: how many computed `values` have a `known` shape, and the `contradiction` if any.
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
    tensor_bytes: int
    external_files: dict[str, str]
    properties: dict[str, str]
    shapes: dict[str, Any]

    def require_unchanged(self) -> None:
        """Refuse files that are no longer those that were judged.

        Raises:
            InputError: when the bytes of the model or of its external data are others, or gone.
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
        """Of the standard operators; 0 when none is stated."""
        return self.opsets.get("ai.onnx", 0)


def inspect_model(path: str | Path, limits: InspectionLimits | None = None) -> Inspection:
    """Judge an ONNX file.

    Raises:
        InputError: when it is no valid model, refers to data out of its folder, declares sizes
            that it does not have or that are gigantic, or exceeds the limits.
    """
    found = _judged("model", path, limits or InspectionLimits())
    inputs, outputs = ([_value(v) for v in found.pop(key)] for key in ("inputs", "outputs"))
    place = Path(found.pop("path"))
    # Takes as long as the files are, which are regular ones.
    external = {name: sha256_of(place.parent / name) for name in found.pop("external_files")}
    return Inspection(
        path=place,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        external_files=external,
        **found,
    )


def inspect_npz(path: str | Path, limits: InspectionLimits | None = None) -> dict[str, str]:
    """Judge an npz file; returns the type of each array by name.

    Raises:
        InputError: when it is none, holds pickles or claims gigantic sizes.
    """
    return _judged("npz", path, limits or InspectionLimits())["arrays"]


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits.

    Raises:
        InputError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError("cannot be read", where=str(path), actual=error.strerror) from None


def _value(found: dict[str, Any]) -> Value:
    shape = found["shape"]
    return Value(found["name"], found["dtype"], None if shape is None else tuple(shape))


def _judged(kind: str, path: str | Path, limits: InspectionLimits) -> dict[str, Any]:
    where = str(path)
    with TemporaryDirectory() as folder:
        # What stands for weights that are left out; nobody else can know its name.
        location = secrets.token_hex(8)
        (Path(folder) / location).touch()
        arguments = [kind, os.path.abspath(where), location, limits.memory_mb, limits.seconds]
        try:
            done = subprocess.run(
                # -P: modules beside the file or in the working folder are not imported.
                [sys.executable, "-P", "-m", "hwnas.inspection", *map(str, arguments)],
                cwd=folder,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE * (1 + limits.seconds),
            )
        except subprocess.TimeoutExpired:
            raise _too_slow(where, limits) from None
    if done.returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        raise _too_slow(where, limits)
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        raise InputError("cannot be inspected", where=where, actual=f"a process ended by {ended}")
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError("cannot be inspected", where=where, actual=" ".join(last))
    found = json.loads(done.stdout)
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
