"""What a model does: whether it loads and runs, at which batches, and what it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hwnas.config import CheckConfig
from hwnas.deploy.feeds import DTYPES, FeedMaker, InputSizes
from hwnas.deploy.parity import (
    Feeds,
    Outputs,
    Parity,
    Predict,
    as_predict,
    compare,
    differs_from_run_to_run,
)
from hwnas.deploy.samples import ACCURACY
from hwnas.deploy.scores import Score, score_of
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.memory import (
    Batches,
    Trial,
    allocating_at_most,
    session_limit_mb,
    try_session,
)
from hwnas.latency_tables.runtimes import RUNTIMES, OnnxModelRuntime, create_runtime

BATCHES, FEWEST_BATCHES = (1, 7, 64), (1, 3)
BATCH_SECONDS = 2.0
"""What running a batch may take to be tried."""
THROUGHPUT_BATCHES = (1, 8, 32)
SCORED_BATCH = 250
RANDOM_OPERATORS = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")
UNOPTIMISED = "unoptimised"
COMPARED = ("onnxruntime-cpu", "onnxruntime-cuda")
"""Runtimes whose outputs every model is compared with, where they are here."""


@dataclass(frozen=True)
class Reference:
    """What a model is compared with.

    Attributes:
        name: of its score in the document, `torch` or `reference`.
        predict: its outputs, for feeds of the model.
        inference: makes a call that runs it once on a runtime that runs no ONNX files.
        trial: of a file, what `probe` found.
    """

    name: str
    predict: Predict
    inference: Callable[[], Callable[[], None]] | None = None
    trial: Trial | None = None

    def takes(self, batch: int) -> bool:
        """Whether it runs with a batch, as far as it was tried."""
        return self.trial is None or batch in self.trial.batches


@dataclass(frozen=True)
class Behaviour:
    """What a model does.

    Attributes:
        batches: those that run.
        failures: a line for each batch that does not run, or gives outputs of another batch.
        contradiction: a shape that is not the declared one, or None.
        parity: with the reference, if there is one.
        parity_with: the model as it stands in the file, and other runtimes.
        score: where the samples have targets.
        runtimes: for the one it runs on and those it is compared on, where operators are placed,
            or why one is missing.
        notes: what should be known about the figures.
    """

    batches: list[int]
    failures: list[str]
    contradiction: str | None
    parity: Parity | None
    parity_with: dict[str, Parity | None]
    score: Score | None
    runtimes: dict[str, Any]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Its part of the check's document."""
        return {
            "batches": {"run": self.batches, "failures": self.failures},
            "parity": None if self.parity is None else self.parity.to_json(),
            "parity_with": {n: p and p.to_json() for n, p in self.parity_with.items()},
            **score_to_json(self.score),
            "runtimes": self.runtimes,
            "contradiction": self.contradiction,
            "notes": self.notes,
        }


def score_to_json(score: Score | None) -> dict[str, Any]:
    """The name of the metric, and under that name the score, or None."""
    metric = ACCURACY if score is None else score.metric
    return {"metric": metric, metric: score and score.to_json()}


def probe(
    model: Inspection, runtime: OnnxModelRuntime, feeds: FeedMaker, limits: CheckConfig
) -> Trial:
    """Load a model and run it in a process with limits, with every batch that is used later.

    To be called before a model is loaded here: nobody knows what it does when it runs.

    Raises:
        InputError: when the file is another than was inspected, the runtime refuses it, or it
            exceeds the limits of a session.
    """
    model.require_unchanged()
    sizes = {*BATCHES, *FEWEST_BATCHES, *THROUGHPUT_BATCHES}
    if feeds.samples is not None and feeds.samples.targets is not None:
        sizes.add(SCORED_BATCH)
    batches = Batches(
        sorted(filter(feeds.is_affordable, sizes)) if feeds.is_dynamic else (),
        partial(replace(feeds, samples=None).random, seed=0),
        feeds.batch,
        BATCH_SECONDS,
        max(FEWEST_BATCHES),
    )
    return try_session(
        runtime,
        model.path,
        feeds.real(feeds.batch, 0),
        batches,
        limit_mb=session_limit_mb(limits.max_session_mb),
        limit_s=limits.max_session_seconds,
    )


def observe(
    model: Inspection,
    runtime: OnnxModelRuntime,
    feeds: FeedMaker,
    reference: Reference | None,
    trial: Trial,
    limits: CheckConfig,
) -> Behaviour:
    """Load a model that `probe` has accepted, run it, and compare it with all that is there.

    What it takes may depend on the values that it is fed with: each inference, and what all of
    them allocate, has limits here too.

    Args:
        model: the inspected file.
        runtime: where it runs.
        feeds: makes its inputs.
        reference: what it is compared with, besides itself.
        trial: what `probe` found; only batches that ran there run here.
        limits: of a session; `compare` names further runtimes.

    Raises:
        InputError: when a runtime refuses it, it does not fit the reference or the labels, or
            it exceeds the limits.
        RuntimeMissingError: when a runtime that `compare` names is not here.
    """
    where, limit_s = str(model.path), limits.max_session_seconds
    predict = as_predict(runtime.infer(model.path, limit_s=limit_s), where)
    placed, others = _placements(model.path, runtime, limit_s)
    others |= _compared(model, runtime, feeds, limits, placed)
    held = 1 + len(others) + (reference is not None)
    # GPUs map their memory into the process.
    names = {runtime.name, *others} & RUNTIMES.keys()
    is_on_cpu = all(RUNTIMES[name].device_class == "cpu" for name in names)
    limit_mb = session_limit_mb(limits.max_session_mb, held) if is_on_cpu else None
    common = [b for b in trial.batches if reference is None or reference.takes(b)]
    with allocating_at_most(limit_mb, where):
        batches, failures, contradiction = _run_batches(predict, feeds, model, trial)
        is_random = any(
            differs_from_run_to_run(one, feeds.real(feeds.batch, 0), model.precision)
            for one in (predict, *([reference.predict] if reference else []))
        )
        # Two pairs of a fixed batch; a pair of each that runs where it is open.
        compared = [b for b in batches if b in common] if feeds.is_dynamic else batches * 2
        if is_random:
            compared = []
        parity_with = {n: _parity(o, predict, feeds, compared, model) for n, o in others.items()}
        parity = None
        if reference is not None:
            parity = _parity(reference, predict, feeds, compared, model)
        score = _score(predict, reference, feeds, common, where)
    random = [name for name in model.operators if name.startswith(RANDOM_OPERATORS)]
    return Behaviour(
        batches=batches,
        failures=failures,
        contradiction=model.shapes["contradiction"] or contradiction,
        parity=parity,
        parity_with=parity_with,
        score=score,
        runtimes=placed,
        notes=_notes(random if is_random else None, [parity, *parity_with.values()]),
    )


def _parity(
    reference: Reference,
    predict: Predict,
    feeds: FeedMaker,
    batches: Sequence[int],
    model: Inspection,
) -> Parity | None:
    if feeds.is_dynamic:
        batches = [batch for batch in batches if reference.takes(batch)]
    if not batches:
        return None
    # A quantised model clips what real inputs never reach; a single one shows no differences.
    has_several = feeds.samples is not None and feeds.samples.count > 1
    only_real = model.precision == "int8" and has_several
    pairs = feeds.pairs(batches, only_real=only_real)
    return compare(reference.predict, predict, pairs, str(model.path))


def onnx_reference(
    model: Inspection, runtime: OnnxModelRuntime, feeds: FeedMaker, limits: CheckConfig
) -> Reference:
    """Another ONNX model, as it stands in its file, tried in a process with limits.

    It is fed with a model's feeds: by name where both have the same names, else in their order.

    Raises:
        InputError: when it takes other inputs, or the runtime refuses it.
    """
    where = str(model.path)
    inputs = _inputs_of(model, feeds)

    def converted(given: Feeds) -> Feeds:
        pairs = zip(feeds.inputs, inputs, strict=True)
        return {theirs.name: given[ours.name].astype(theirs.dtype) for ours, theirs in pairs}

    samples = feeds.samples
    if samples is not None:
        take = samples.take
        samples = replace(samples, take=lambda chosen: converted(take(chosen)))
    trial = probe(model, runtime, replace(feeds, inputs=inputs, samples=samples), limits)
    infer = runtime.infer_unoptimised(model.path, limit_s=limits.max_session_seconds)
    predict = as_predict(infer, where)
    return Reference("reference", lambda given: predict(converted(given)), trial=trial)


def _inputs_of(model: Inspection, feeds: FeedMaker) -> tuple[InputSizes, ...]:
    """A model's inputs in the order of another's, with the other's sizes."""
    ours = [given.name for given in feeds.inputs]
    theirs = {value.name: value for value in model.inputs}
    if len(theirs) != len(ours):
        raise InputError(
            "the reference takes other inputs",
            where=str(model.path),
            expected=ours,
            actual=list(theirs),
        )
    names = ours if set(ours) == set(theirs) else list(theirs)
    return tuple(
        replace(given, name=name, dtype=DTYPES.get(theirs[name].dtype, given.dtype))
        for given, name in zip(feeds.inputs, names, strict=True)
    )


def _run_batches(
    predict: Predict, feeds: FeedMaker, model: Inspection, trial: Trial
) -> tuple[list[int], list[str], str | None]:
    """Batches that run, lines about those that do not, a contradiction of shapes."""
    contradiction = _contradiction(predict(feeds.real(feeds.batch, 0)), model)
    if not feeds.is_dynamic:
        return [feeds.batch], [], contradiction
    tried = {*trial.batches, *trial.failures}
    batches = [batch for batch in BATCHES if batch in tried]
    good, failures = [], []
    for batch in batches if len(batches) > 1 else sorted(tried & {*FEWEST_BATCHES}):
        if batch in trial.failures:
            failures.append(f"batch {batch}: {trial.failures[batch]}")
            continue
        try:
            outputs = predict(feeds.random(batch, 0))
        except InputError as error:
            failures.append(str(error))
            continue
        wrong = _outputs_of_another_batch(outputs, model, batch)
        if wrong is None:
            good.append(batch)
        else:
            failures.append(wrong)
    return good, failures, contradiction


def _contradiction(outputs: Outputs, model: Inspection) -> str | None:
    for value in model.outputs:
        found = outputs[value.name].shape if value.name in outputs else None
        if value.shape is None or found is None:
            continue
        sizes = zip(value.shape, found, strict=False)
        fits = all(not isinstance(stated, int) or stated == size for stated, size in sizes)
        if len(value.shape) != len(found) or not fits:
            return f"output {value.name!r}: declared {value.shape}, computed {found}"
    return None


def _outputs_of_another_batch(outputs: Outputs, model: Inspection, batch: int) -> str | None:
    symbols = {value.shape[0] for value in model.inputs if value.shape} - {None}
    for value in model.outputs:
        is_batch = value.shape and isinstance(value.shape[0], str) and value.shape[0] in symbols
        if is_batch and value.name in outputs and outputs[value.name].shape[:1] != (batch,):
            found = outputs[value.name].shape
            return f"output {value.name!r}: expected a batch of {batch}, got shape {found}"
    return None


def _placements(
    path: Path, main: OnnxModelRuntime, limit_s: float
) -> tuple[dict[str, Any], dict[str, Reference]]:
    """The placement on the main runtime and those to compare with, and what it is compared with.

    The model as it stands in the file is the first: ONNX Runtime, which ends an inference that
    takes too long, sees all feeds before another runtime does.
    """
    placed: dict[str, Any] = {}
    plain = main.infer_unoptimised(path, limit_s=limit_s)
    others = {UNOPTIMISED: Reference(UNOPTIMISED, as_predict(plain, str(path)))}
    for name in dict.fromkeys((main.name, *COMPARED)):
        runtime = main if name == main.name else create_runtime(name, main.threads)
        assert isinstance(runtime, OnnxModelRuntime)
        try:
            runtime.require()
            placed[name] = {"placement": runtime.placement(path)}
            if runtime is not main:
                infer = runtime.infer(path, limit_s=limit_s)
                others[name] = Reference(name, as_predict(infer, str(path)))
        except (RuntimeMissingError, InputError) as error:
            placed[name] = {"missing": str(error)}
    return placed, others


def compared_runtimes(names: Sequence[str], threads: int) -> list[OnnxModelRuntime]:
    """The runtimes of `check.compare`.

    Raises:
        InputError: for one that is unknown or runs no ONNX files.
        RuntimeMissingError: for one that is not here.
    """
    found = []
    for name in dict.fromkeys(names):
        runtime = create_runtime(name, threads)
        if not isinstance(runtime, OnnxModelRuntime):
            raise InputError("runs no ONNX files", where="check.compare", actual=name)
        runtime.require()
        found.append(runtime)
    return found


def _compared(
    model: Inspection,
    main: OnnxModelRuntime,
    feeds: FeedMaker,
    limits: CheckConfig,
    placed: dict[str, Any],
) -> dict[str, Reference]:
    """The model on further runtimes, each tried in a process with limits; notes where it runs."""
    others = {}
    for runtime in compared_runtimes(limits.compare, main.threads):
        name = runtime.name
        if name in placed and "missing" not in placed[name]:
            continue
        trial = probe(model, runtime, feeds, limits)
        placed[name] = {"placement": runtime.placement(model.path)}
        infer = runtime.infer(model.path, limit_s=limits.max_session_seconds)
        others[name] = Reference(name, as_predict(infer, str(model.path)), trial=trial)
    return others


def _score(
    predict: Predict,
    reference: Reference | None,
    feeds: FeedMaker,
    batches: Sequence[int],
    where: str,
) -> Score | None:
    samples = feeds.samples
    if samples is None or samples.targets is None:
        return None
    # Samples of a fixed batch are whole batches.
    batch = max(batches, default=feeds.batch) if feeds.is_dynamic else 1
    found = score_of(predict, samples, batch, where)
    if reference is None:
        return Score(samples.metric, found, None, "reference", samples.scored)
    right = score_of(reference.predict, samples, batch, where)
    return Score(samples.metric, found, right, reference.name, samples.scored)


def _notes(random: list[str] | None, parities: list[Parity | None]) -> list[str]:
    """`random` are the operators that may be why the outputs differ from run to run, if they do."""
    notes = []
    if random is not None:
        named = f" (random operators: {', '.join(random)})" if random else ""
        notes.append(f"the outputs differ from run to run{named}: no parity can be read")
    if any(parity is not None and parity.constant for parity in parities):
        notes.append(
            "outputs that do not depend on the inputs: where both agree, no parity can be read"
        )
    return notes
