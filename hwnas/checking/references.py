"""What the outputs of a model are compared with.

Every model is compared with itself before the runtime optimises its graph, and with itself on the
other runtimes of this machine. A trained network or another ONNX model can be a further reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.inputs.input_sizes import DTYPES, InputSizes
from hwnas.checking.outputs import Feeds, Outputs, Predict, as_predict
from hwnas.checking.trial import probe
from hwnas.checking.widen import WIDENED, write_widened
from hwnas.config import CheckConfig
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.inspection.process import Inspection, inspect_model
from hwnas.latency_tables.measuring.memory import Trial
from hwnas.latency_tables.runtimes import OnnxModelRuntime, create_runtime

UNOPTIMISED = "unoptimised"
"""Name of the comparison with the graph as it stands in the file."""
ALWAYS_COMPARED = ("onnxruntime-cpu", "onnxruntime-cuda")
"""Runtimes that every model is compared on, if this machine has them."""


@dataclass(frozen=True)
class Reference:
    """A model whose outputs are taken as correct.

    Attributes:
        name: its name in the check's document, such as `torch` or `reference`.
        predict: its outputs for feeds of the checked model.
        inference: prepares it and returns a function that runs it once, to measure a runtime that
            cannot run ONNX files; None where that is not possible.
        trial: result of `probe`, or None for a reference that is no file.
        expected: returns the stored outputs of samples by their indices, for a reference that has
            nothing else; it cannot predict then.
    """

    name: str
    predict: Predict
    inference: Callable[[], Callable[[], None]] | None = None
    trial: Trial | None = None
    expected: Callable[[np.ndarray], Outputs] | None = None

    def runs_at(self, batch: int) -> bool:
        """Whether it is known to run at a batch size, or was never tried."""
        return self.trial is None or batch in self.trial.batches


def onnx_reference(
    model: Inspection, runtime: OnnxModelRuntime, feeds: FeedMaker, limits: CheckConfig
) -> Reference:
    """Use another ONNX model as the reference, without graph optimisation.

    It is first tried in a subprocess with limits. It receives the inputs of the checked model by
    name if both models have the same input names, else in their order.

    Args:
        model: the inspected reference.
        runtime: the runtime that it runs on.
        feeds: feeds of the checked model.
        limits: limits of a session.

    Raises:
        InputError: when the reference has a different number of inputs, or the runtime refuses it.
    """
    where = str(model.path)
    inputs = _matched_inputs(model, feeds)

    def converted(given: Mapping[str, np.ndarray]) -> Feeds:
        pairs = [(o, t) for o, t in zip(feeds.inputs, inputs, strict=True) if o.name in given]
        return {theirs.name: given[ours.name].astype(theirs.dtype) for ours, theirs in pairs}

    samples = feeds.samples
    if samples is not None:
        take = samples.take
        samples = replace(samples, take=lambda chosen: converted(take(chosen)))
    own = replace(feeds, inputs=inputs, samples=samples, first=converted(feeds.first))
    try:
        trial = probe(model, runtime, own, limits)
    except InputError as error:
        raise InputError(f"the reference: {error}", where=where, details=error.details) from None
    infer = runtime.infer_unoptimised(model.path, limit_s=limits.max_session_seconds)
    predict = as_predict(infer, where)
    return Reference("reference", lambda given: predict(converted(given)), trial=trial)


def widened_reference(
    model: Inspection, runtime: OnnxModelRuntime, feeds: FeedMaker, limits: CheckConfig
) -> Reference:
    """A model in 16-bit floats as it would be in float32.

    Raises:
        InputError: when it cannot be widened, or the runtime refuses the result.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "widened.onnx"
        write_widened(model.path, path)
        found = onnx_reference(inspect_model(path), runtime, feeds, limits)
    return replace(found, name=WIDENED)


def _matched_inputs(model: Inspection, feeds: FeedMaker) -> tuple[InputSizes, ...]:
    """The inputs of a reference, in the order and with the sizes of the checked model's inputs."""
    ours = [given.name for given in feeds.inputs]
    theirs = {value.name: value for value in model.inputs}
    if len(theirs) != len(ours):
        raise InputError(
            "the reference has other inputs than the model",
            where=str(model.path),
            expected=ours,
            actual=list(theirs),
        )
    names = ours if set(ours) == set(theirs) else list(theirs)
    return tuple(
        replace(given, name=name, dtype=DTYPES.get(theirs[name].dtype, given.dtype))
        for given, name in zip(feeds.inputs, names, strict=True)
    )


def self_references(
    model: Inspection, main: OnnxModelRuntime, feeds: FeedMaker, limits: CheckConfig
) -> tuple[dict[str, Any], dict[str, Reference]]:
    """The model itself as a reference: unoptimised, and on other runtimes.

    The unoptimised graph comes first, because ONNX Runtime ends an inference that takes too long:
    it sees all feeds before another runtime does.

    Args:
        model: the inspected model, which `probe` has accepted on `main`.
        main: the runtime that is checked.
        feeds: feeds of the model.
        limits: limits of a session; `limits.compare` names further runtimes.

    Returns:
        For each runtime its `placement` of operators or why it is `missing`, and the references
        by name.

    Raises:
        InputError: when a runtime of `limits.compare` is unknown or refuses the model.
        RuntimeMissingError: when a runtime of `limits.compare` is not installed.
    """
    where, limit_s = str(model.path), limits.max_session_seconds
    placements: dict[str, Any] = {}
    unoptimised = main.infer_unoptimised(model.path, limit_s=limit_s)
    references = {UNOPTIMISED: Reference(UNOPTIMISED, as_predict(unoptimised, where))}
    for name in dict.fromkeys((main.name, *ALWAYS_COMPARED)):
        runtime = main if name == main.name else create_runtime(name, main.threads)
        assert isinstance(runtime, OnnxModelRuntime)
        try:
            runtime.require()
            placements[name] = {"placement": runtime.placement(model.path)}
            if runtime is not main:
                infer = runtime.infer(model.path, limit_s=limit_s)
                references[name] = Reference(name, as_predict(infer, where))
        except (RuntimeMissingError, InputError) as error:
            placements[name] = {"missing": str(error)}
    for runtime in compared_runtimes(limits.compare, main.threads):
        name = runtime.name
        if name in placements and "missing" not in placements[name]:
            continue
        trial = probe(model, runtime, feeds, limits)
        placements[name] = {"placement": runtime.placement(model.path)}
        infer = runtime.infer(model.path, limit_s=limit_s)
        references[name] = Reference(name, as_predict(infer, where), trial=trial)
    return placements, references


def compared_runtimes(names: Sequence[str], threads: int) -> list[OnnxModelRuntime]:
    """Create the runtimes that `check.compare` names.

    Raises:
        InputError: when a runtime is unknown or cannot run ONNX files.
        RuntimeMissingError: when a runtime is not installed.
    """
    found = []
    for name in dict.fromkeys(names):
        runtime = create_runtime(name, threads)
        if not isinstance(runtime, OnnxModelRuntime):
            raise InputError("cannot run ONNX files", where="check.compare", actual=name)
        runtime.require()
        found.append(runtime)
    return found
