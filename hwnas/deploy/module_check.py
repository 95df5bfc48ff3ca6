"""Checks a PyTorch module: it is exported to ONNX and compared with itself."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.checking.check import check_model
from hwnas.checking.inputs.feeds import feeds_of_arrays
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.checking.outputs import Feeds, Outputs, Predict
from hwnas.checking.references import Reference
from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.deploy.export import export_module
from hwnas.durable import make_folder, write_atomic
from hwnas.errors import HwnasError, InputError
from hwnas.inspection.process import Inspection, InspectionLimits, inspect_model
from hwnas.latency_tables.runtimes import OnnxModelRuntime, create_runtime
from hwnas.runs.progress import Stage, shown

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""The inputs of a module: one, several by position, or several by name."""
Arrays = np.ndarray | Tensor | Sequence[np.ndarray | Tensor] | Mapping[str, np.ndarray | Tensor]
"""Samples of a module's inputs, in the form of its example inputs."""
LIMITS = InspectionLimits(memory_mb=4000.0, seconds=60.0)
"""Limits of the inspection of the exported file, which is not from somebody else."""


def check(
    module: nn.Module,
    example_inputs: Inputs,
    *,
    budget_ms: float | None = None,
    data: tuple[Arrays, np.ndarray | Tensor | None] | None = None,
    runtime: str = "onnxruntime-cpu",
    threads: int = 1,
    batch: int = 1,
    dynamic_batch: bool = True,
    limits: CheckConfig | None = None,
    out: str | Path | None = None,
    stage: Stage = shown,
) -> dict[str, Any]:
    """Export a PyTorch module to ONNX and check the model as `hwnas check` does.

    The module is the reference: the outputs of the model have to equal its outputs in eval mode.
    The module itself is not changed.

    Args:
        module: returns a tensor, or tensors in tuples, lists or dictionaries.
        example_inputs: a tensor, several tensors by position, or several by the names of the
            arguments. Their first dimension is the batch.
        budget_ms: latency budget in milliseconds; without one, the latency is only reported.
        data: samples of the inputs, in the form of `example_inputs`, and the class of each sample
            or None. Without data, the example inputs are the samples.
        runtime: name of the runtime to measure on, one of `hwnas info`.
        threads: threads of the runtime.
        batch: samples in one inference, for the latency.
        dynamic_batch: whether the batch size of the exported model is open. Otherwise it is that of
            the example inputs.
        limits: limits of the gates and of a session; the defaults of `[check]` if None.
        out: folder that `model.onnx` and `check.json` are written to, if it is given.
        stage: shows progress; `hwnas.runs.progress.silent` shows nothing.

    Returns:
        The content of `check.json`; see `verdict`, `gates`, `measured` and `warnings`.

    Raises:
        InputError: when the module cannot be exported, the inputs or the data do not fit it, or
            the runtime cannot run ONNX models or refuses the model.
        RuntimeMissingError: when the runtime is not installed.
    """
    used = create_runtime(runtime, threads)
    used.require()
    if not isinstance(used, OnnxModelRuntime):
        raise InputError("this runtime does not run ONNX models", where=runtime)
    examples = _named(module, example_inputs, dynamic_batch)
    arrays, labels = (example_inputs, None) if data is None else data
    samples = _arrays_of(arrays, list(examples))
    with ExitStack() as stack:
        folder = Path(out or stack.enter_context(TemporaryDirectory()))
        make_folder(folder)
        path = folder / "model.onnx"
        write_atomic(path, _exported(module, examples, example_inputs, dynamic_batch))
        model = inspect_model(path, LIMITS)
        feeds = feeds_of_arrays(
            model, StatedSizes(), samples, None if labels is None else _array(labels), "data", batch
        )
        reference = Reference("torch", _predict_of(module, model, example_inputs))
        document = check_model(
            model,
            used,
            feeds,
            CheckRequest(limits=limits or CheckConfig(), budget_ms=budget_ms),
            reference=reference,
            stage=stage,
        )
        if out is not None:
            text = json.dumps(document, indent=1, allow_nan=False) + "\n"
            write_atomic(folder / "check.json", text)
    return document


def _named(module: nn.Module, inputs: Inputs, dynamic_batch: bool) -> dict[str, Tensor]:
    """The example inputs by their names in the graph.

    With an open batch, a batch of one sample is doubled, because the exporter takes a size of 1
    for a constant.
    """
    where = type(module).__name__
    if isinstance(inputs, Mapping):
        named = dict(inputs)
    else:
        values = [inputs] if isinstance(inputs, Tensor | np.ndarray) else list(inputs)
        named = dict(zip(_argument_names(module, len(values)), values, strict=True))
    for name, value in named.items():
        if not isinstance(value, Tensor) or not value.ndim:
            actual = type(value).__name__ if not isinstance(value, Tensor) else "a scalar"
            raise InputError(
                "not an example input",
                where=f"{where}: {name}",
                expected="a tensor whose first dimension is the batch",
                actual=actual,
            )
    sizes = {name: len(value) for name, value in named.items()}
    if len(set(sizes.values())) != 1 or not all(sizes.values()):
        raise InputError("the example inputs need one batch size", where=where, actual=sizes)
    if dynamic_batch and 1 in sizes.values():
        return {name: torch.cat([value, value]) for name, value in named.items()}
    return named


def _argument_names(module: nn.Module, count: int) -> list[str]:
    """Names of the first arguments of a module's `forward`, numbered where it takes any number."""
    parameters = inspect.signature(module.forward).parameters.values()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in by_place]
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        names += [f"input_{index}" for index in range(len(names), count)]
    if len(names) < count:
        raise InputError(
            "more example inputs than arguments of forward",
            where=type(module).__name__,
            expected=f"at most {len(names)}",
            actual=count,
        )
    return names[:count]


def _exported(
    module: nn.Module, examples: Mapping[str, Tensor], given: Inputs, dynamic_batch: bool
) -> bytes:
    """The module as a serialised ONNX model."""
    by_name = isinstance(given, Mapping)
    try:
        with _evaluating(module):
            model = export_module(module, examples, by_name=by_name, dynamic_batch=dynamic_batch)
        data: bytes = model.SerializeToString()
        return data
    except HwnasError:
        raise
    except Exception as error:  # the exporter's exceptions share no base class
        raise InputError(
            "the module cannot be exported to ONNX",
            where=type(module).__name__,
            actual=_cause(error),
            mend="dynamic_batch=False exports it for one batch size" if dynamic_batch else "",
        ) from error


def _cause(error: BaseException) -> str:
    """Type and first line of the exception that an exception was raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for a while."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _predict_of(module: nn.Module, model: Inspection, given: Inputs) -> Predict:
    """Run the module on feeds of the exported model."""
    call = _call_of(module, given)
    device = next(_values_of(module), torch.empty(0)).device

    def predict(feeds: Feeds) -> Outputs:
        with _evaluating(module), torch.no_grad():
            # Copied, because a module may change its inputs in place.
            found = call({n: torch.tensor(array, device=device) for n, array in feeds.items()})
        leaves = [leaf for leaf in _leaves(found) if isinstance(leaf, Tensor)]
        if len(leaves) != len(model.outputs):
            raise InputError(
                "the exported model has other outputs than the module",
                where=type(module).__name__,
                expected=len(leaves),
                actual=[value.name for value in model.outputs],
            )
        pairs = zip(model.outputs, leaves, strict=True)
        return {value.name: leaf.cpu().numpy() for value, leaf in pairs}

    return predict


def _call_of(module: nn.Module, given: Inputs) -> Callable[[dict[str, Tensor]], Any]:
    if isinstance(given, Mapping):
        return lambda inputs: module(**inputs)
    return lambda inputs: module(*inputs.values())


def _values_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _leaves(value: Any) -> list[Any]:
    """The values in nested tuples, lists and dictionaries, in the order of the exported outputs."""
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def _arrays_of(given: Arrays | Inputs, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Samples by the names of the inputs."""
    if isinstance(given, Mapping):
        values: dict[str, Any] = dict(given)
    elif isinstance(given, tuple | list):
        values = dict(zip(names, given, strict=False))
    else:
        values = {names[0]: given}
    if set(values) != set(names):
        raise InputError(
            "the data do not fit the example inputs",
            where="data",
            expected=list(names),
            actual=list(values),
        )
    return {name: _array(values[name]) for name in names}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value)
