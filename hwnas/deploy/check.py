"""The deployment check: parity, accuracy, measured against predicted against budget, a verdict."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from torch import nn

from hwnas.budget.gate import NetworkLatency, measure_network
from hwnas.config import CheckConfig
from hwnas.data import Dataset
from hwnas.deploy.export import read_metadata
from hwnas.deploy.gates import (
    Gate,
    Parity,
    accuracy_gates,
    budget_gate,
    memory_gates,
    parity_gates,
    verdict_of,
)
from hwnas.errors import InputError
from hwnas.latency_tables.bundle import read_results
from hwnas.latency_tables.memory import session_memory_mb
from hwnas.latency_tables.runtimes import OnnxRuntime, Runtime, create_runtime
from hwnas.runs.progress import Stage, silent
from hwnas.runs.run_folder import environment

SCHEMA = 1
MAX_MODEL_BYTES = 2**31 - 1
PARITY_BATCHES = (1, 7, 64)
RELATIVE_TOLERANCE, SCALED_TOLERANCE = 1e-3, 1e-4

Predict = Callable[[np.ndarray], np.ndarray]
"""Normalised images (N, C, H, W) float32 to logits (N, classes)."""


def load_model(path: str | Path) -> onnx.ModelProto:
    """Read an ONNX file without touching any other file.

    Raises:
        InputError: when it is missing, no ONNX model, too large, or refers to external data.
    """
    where = str(path)
    try:
        size = Path(path).stat().st_size
        if size > MAX_MODEL_BYTES:
            raise InputError("too large", where=where, expected="at most 2 GiB", actual=size)
        model = onnx.load(where, load_external_data=False)
    except FileNotFoundError:
        raise InputError(
            "no such file", where=where, mend="`hwnas export` writes a run's model"
        ) from None
    except OSError as error:
        raise InputError("cannot be read", where=where, actual=error.strerror) from None
    except (DecodeError, ValueError):
        raise InputError("not an ONNX model, or cut short", where=where) from None
    if not model.graph.node:
        raise InputError("not an ONNX model, or an empty one", where=where)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(
                "weights in another file", where=where, expected="one file", actual=tensor.name
            )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise InputError(
            "not a valid ONNX model", where=where, actual=str(error).splitlines()[0]
        ) from None
    return model


def model_facts(path: str | Path, model: onnx.ModelProto) -> dict[str, Any]:
    """The `model` object of a check; counts of the architecture come from the file's properties."""
    data = Path(path).read_bytes()
    metadata = read_metadata(model)
    params = _property(path, metadata, "params")
    macs = _property(path, metadata, "macs")
    stored = sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type == 1)
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "opset": max(
            (e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0
        ),
        "ir_version": model.ir_version,
        "params": stored if params is None else int(params),
        "macs": None if macs is None else int(macs),
    }


def input_shape(model: onnx.ModelProto, where: str) -> tuple[str, tuple[int, int, int]]:
    """Name and (C, H, W) of a model's one input of images.

    Raises:
        InputError: when the model takes something else.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    expected = "one float32 input (batch, channels, height, width), fixed but for the batch"
    if len(inputs) != 1:
        raise InputError(
            "cannot feed the model", where=where, expected=expected, actual=f"{len(inputs)} inputs"
        )
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(dims) != 4 or min(dims[1:]) < 1:
        raise InputError(
            "cannot feed the model", where=where, expected=expected, actual=f"shape {dims}"
        )
    return inputs[0].name, (dims[1], dims[2], dims[3])


def compare(reference: Predict, exported: Predict, dataset: Dataset, seed: int = 0) -> Parity:
    """Run both on real and on random images, in batches of 1, 7 and 64."""
    rng = np.random.default_rng(seed)
    expected, found = [], []
    for size in PARITY_BATCHES:
        chosen = rng.choice(len(dataset.test.labels), min(size, len(dataset.test.labels)))
        real = dataset.normalise(dataset.test.images[chosen]).numpy()
        for images in (real, rng.standard_normal(real.shape, dtype=np.float32)):
            expected.append(reference(images).astype(np.float64))
            found.append(exported(images).astype(np.float64))
    a, b = np.concatenate(expected), np.concatenate(found)
    error = np.abs(a - b)
    tolerance = RELATIVE_TOLERANCE * np.abs(a) + SCALED_TOLERANCE * np.abs(a).max()
    noise = float(np.square(a - b).sum())
    signal = float(np.square(a).sum())
    finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
    return Parity(
        max_abs_error=float(error.max()) if finite else None,
        within_tolerance=finite and bool((error <= tolerance).all()),
        sqnr_db=10 * math.log10(signal / noise) if finite and noise > 0 and signal > 0 else None,
        top1_agreement=float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
        batches=len(expected),
    )


def accuracy_of(predict: Predict, dataset: Dataset, batch: int = 250) -> float:
    """Share of the test images that are classified right."""
    correct = 0
    for start in range(0, len(dataset.test.labels), batch):
        images = dataset.normalise(dataset.test.images[start : start + batch]).numpy()
        labels = dataset.test.labels[start : start + batch]
        correct += int((predict(images).argmax(axis=1) == labels).sum())
    return correct / len(dataset.test.labels)


@dataclass(frozen=True)
class Reference:
    """What an exported model is compared with.

    Attributes:
        network: the trained network, in eval mode on the CPU.
        dataset: labelled images, and how they are normalised.
        inference: makes a call that runs the network once on a runtime that runs no ONNX files.
    """

    network: nn.Module
    dataset: Dataset
    inference: Callable[[], Callable[[], None]]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits (N, classes) of normalised images."""
        with torch.no_grad():
            return self.network(torch.from_numpy(images)).numpy()


def check_model(
    path: str | Path,
    runtime: Runtime,
    *,
    budget_ms: float | None,
    predicted_ms: float | None,
    batch: int,
    limits: CheckConfig,
    reference: Reference | None,
    memory_budget_mb: float | None = None,
    stage: Stage = silent,
    stated: NetworkLatency | None = None,
    more_gates: Sequence[Gate] = (),
) -> dict[str, Any]:
    """Run all gates on an ONNX file.

    Args:
        path: the model.
        runtime: where its latency is measured.
        budget_ms: gate of the latency; None leaves it out.
        predicted_ms: what the latency table said.
        batch: images per inference when latency is measured.
        limits: of the gates.
        reference: gates of parity and accuracy need it; without, they are skipped.
        memory_budget_mb: gate of the session's peak memory; None leaves it out.
        stage: shows progress.
        stated: the latency on a device that is not here; measured on this one if None.
        more_gates: of what was judged elsewhere.

    Returns:
        The content of `check.json`, schema 1.

    Raises:
        InputError: when the file is no usable model.
    """
    model = load_model(path)
    input_name, shape = input_shape(model, str(path))
    data = model.SerializeToString()
    parity = accuracy = None
    with stage("check") as advance:
        if reference is not None:
            advance(0, 2, "parity and accuracy")
            parity, accuracy = _against_reference(path, data, input_name, shape, reference)
        advance(1, 2, "latency")
        memory_mb = None
        if isinstance(runtime, OnnxRuntime) and stated is None:
            memory_mb = session_memory_mb(runtime, data, _feeds(input_name, (batch, *shape)))
        latency = stated or measure_network(
            _inference(data, input_name, (batch, *shape), runtime, reference),
            runtime,
            budget_ms=budget_ms,
            seconds=limits.measure_seconds,
        )
        advance(2, 2, f"{latency.value_ms:.3f} ms")
    gates = [
        budget_gate(latency, budget_ms),
        *memory_gates(memory_mb, memory_budget_mb),
        *more_gates,
        *parity_gates(parity, limits),
        *accuracy_gates(accuracy, limits),
    ]
    return {
        "schema": SCHEMA,
        "verdict": verdict_of(gates),
        "budget_ms": budget_ms,
        "predicted_ms": predicted_ms,
        "measured": latency.to_json(),
        "memory_mb": memory_mb,
        "parity": None if parity is None else parity.to_json(),
        "accuracy": accuracy,
        "model": model_facts(path, model),
        "gates": [gate.to_json() for gate in gates],
        "environment": environment()
        | {"device": runtime.device_name(), "threads": runtime.threads},
    }


def _feeds(input_name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Seeded random images."""
    return {input_name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def _inference(
    data: bytes,
    input_name: str,
    shape: tuple[int, ...],
    runtime: Runtime,
    reference: Reference | None,
) -> Callable[[], None]:
    """One inference of the model, or of the network that it comes from, as a call."""
    if isinstance(runtime, OnnxRuntime):
        return runtime.prepare_onnx(data, _feeds(input_name, shape))
    if reference is not None:
        return reference.inference()
    raise InputError(
        "this runtime needs the run that the model comes from",
        where=runtime.name,
        mend="add --run DIR",
    )


def measured_elsewhere(results: Path, model: str | Path) -> NetworkLatency:
    """A model's latency by the results that a bundle's script left on another device.

    Raises:
        InputError: when the results are malformed, or of another model.
    """
    found = read_results(results)
    here = hashlib.sha256(Path(model).read_bytes()).hexdigest()
    if found.model is None or found.model.sha256 != here or "0" not in found.rounds_ms:
        raise InputError(
            "measured another model",
            where=str(results),
            expected=here,
            actual=found.model and found.model.sha256,
            mend=f"run `measure.py --model {Path(model).name}` on the device",
        )
    rounds_ms = found.rounds_ms["0"][found.model.name]
    return NetworkLatency.of_rounds(rounds_ms, found.statistic, f"{found.runtime}, {found.device}")


def check_without_run(
    path: str | Path,
    *,
    budget_ms: float | None,
    runtime_name: str | None,
    measured: Path | None = None,
) -> dict[str, Any]:
    """Check a model that comes with no run: that it loads, and its latency against a budget.

    Budget, runtime, threads and batch that are not given are those in the model's properties.
    """
    properties = read_metadata(load_model(path))
    stated = None if measured is None else measured_elsewhere(measured, path)
    name = runtime_name or properties.get("runtime", "onnxruntime-cpu")
    runtime = create_runtime(name, int(_property(path, properties, "threads") or 1))
    runtime.require()
    stated_ms = _property(path, properties, "budget_ms")
    return check_model(
        path,
        runtime,
        budget_ms=stated_ms if budget_ms is None else budget_ms,
        predicted_ms=_property(path, properties, "predicted_ms"),
        batch=int(_property(path, properties, "batch") or 1),
        limits=CheckConfig(),
        reference=None,
        stated=stated,
    )


def _property(path: str | Path, properties: Mapping[str, str], name: str) -> float | None:
    """A positive number among a model's properties, or None.

    Raises:
        InputError: when it is something else.
    """
    text = properties.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            "not a positive number", where=f"{path}: property hwnas.{name}", actual=text
        )
    return value


def _against_reference(
    path: str | Path,
    data: bytes,
    input_name: str,
    shape: tuple[int, int, int],
    reference: Reference,
) -> tuple[Parity, dict[str, Any]]:
    """Parity with the network, and both accuracies on the test images."""
    dataset = reference.dataset
    expected = (dataset.channels, dataset.height, dataset.width)
    if shape != expected:
        raise InputError(
            "the model takes images of another size",
            where=str(path),
            expected=expected,
            actual=shape,
        )
    runtime = create_runtime("onnxruntime-cpu", threads=1)
    assert isinstance(runtime, OnnxRuntime)
    session = runtime.session(data)
    output = session.get_outputs()[0].name

    def exported(images: np.ndarray) -> np.ndarray:
        try:
            logits = session.run([output], {input_name: images})[0]
        except Exception as error:  # the runtime's exceptions share no base class
            raise InputError(
                "the model cannot run a batch",
                where=str(path),
                expected=f"any batch of images {shape}",
                actual=str(error).splitlines()[0],
            ) from None
        if logits.shape != (len(images), len(dataset.classes)):
            raise InputError(
                "the model has other outputs than the data have classes",
                where=str(path),
                expected=(len(images), len(dataset.classes)),
                actual=logits.shape,
            )
        return logits

    accuracy = {
        "torch": accuracy_of(reference.predict, dataset),
        "onnx": accuracy_of(exported, dataset),
        "n": len(dataset.test.labels),
    }
    return compare(reference.predict, exported, dataset), accuracy
