"""What a model computes: at which batch sizes it runs, its outputs, and its score on samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.checking.expected import compare_with_stored
from hwnas.checking.finite import FiniteCount, count_not_finite
from hwnas.checking.gates import parity_limits
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.inputs.open_sizes import rows_by_sample
from hwnas.checking.inputs.samples import ACCURACY
from hwnas.checking.outputs import Outputs, Predict, as_predict, single_arrays
from hwnas.checking.parity import Parity, compare, differs_from_run_to_run
from hwnas.checking.references import Reference, self_references, widened_reference
from hwnas.checking.scores import Score, score_beside
from hwnas.checking.trial import BATCHES, FEWEST_BATCHES
from hwnas.checking.widen import WIDENED
from hwnas.config import CheckConfig
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.limits import allocating_at_most, session_limit_mb
from hwnas.latency_tables.measuring.memory import Trial
from hwnas.latency_tables.runtimes import RUNTIMES, OnnxModelRuntime
from hwnas.latency_tables.runtimes.onnx_errors import cause_of

RANDOM_OPERATORS = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")
"""How the names of operators with random results begin."""


@dataclass(frozen=True)
class Behaviour:
    """What a model was observed to do.

    Attributes:
        batches: batch sizes at which it runs.
        failures: a line for each batch size at which it does not run, or at which its outputs
            have another batch size.
        details: for each batch size that the runtime refuses, the whole text of its error.
        contradiction: a declared shape that differs from the computed one, or None.
        parity: comparison with the reference, or None without one.
        parity_with: comparison with the unoptimised graph and with other runtimes, by name.
        not_finite: values that are NaN or infinite, of each floating-point output.
        score: score on the samples, or None if they have no targets.
        runtimes: for each runtime that it was tried on, the placement of its operators, or why
            the runtime is missing.
        notes: remarks on how to read the figures.
    """

    batches: list[int]
    failures: list[str]
    details: dict[int, str]
    contradiction: str | None
    parity: Parity | None
    parity_with: dict[str, Parity | None]
    not_finite: list[FiniteCount]
    score: Score | None
    runtimes: dict[str, Any]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The fields of the check's document that describe the behaviour."""
        return {
            "batches": {
                "run": self.batches,
                "failures": self.failures,
                "details": {str(batch): text for batch, text in self.details.items()},
            },
            "parity": None if self.parity is None else self.parity.to_json(),
            "parity_with": {n: p and p.to_json() for n, p in self.parity_with.items()},
            "not_finite": [vars(count) for count in self.not_finite],
            **_score_to_json(self.score),
            "runtimes": self.runtimes,
            "contradiction": self.contradiction,
            "notes": self.notes,
        }

    @property
    def warnings(self) -> list[str]:
        """What makes the model's answers doubtful."""
        warning = self.score and self.score.chance and self.score.chance.warning
        return [warning] if warning else []


def _score_to_json(score: Score | None) -> dict[str, Any]:
    """The name of the metric, the score or None under that name, and the chance level."""
    metric = ACCURACY if score is None else score.metric
    chance = None if score is None else score.chance
    return {
        "metric": metric,
        metric: score and score.to_json(),
        "score_output": score and score.output,
        "chance": chance and chance.to_json(),
    }


def observe(
    model: Inspection,
    runtime: OnnxModelRuntime,
    feeds: FeedMaker,
    reference: Reference | None,
    trial: Trial,
    limits: CheckConfig,
    further: Mapping[str, Reference] | None = None,
) -> Behaviour:
    """Load a model that `probe` has accepted, run it, and compare its outputs.

    How much time and memory a model needs may depend on its input values. Each inference therefore
    has a time limit here too, and all of them together have a memory limit.

    Args:
        model: the inspected file.
        runtime: the runtime that it runs on.
        feeds: generates its inputs.
        reference: a model that it is compared with, besides itself; or None.
        trial: result of `probe`; only batch sizes that ran there are run here.
        limits: limits of a session; `limits.compare` names further runtimes to compare with.
        further: by name, references in addition to those.

    Raises:
        InputError: when a runtime refuses the model, its outputs do not fit the reference or the
            targets, or it exceeds a limit.
        RuntimeMissingError: when a runtime of `limits.compare` is not installed.
    """
    where = str(model.path)
    predict = as_predict(runtime.infer(model.path, limit_s=limits.max_session_seconds), where)
    placements, others = self_references(model, runtime, feeds, limits)
    others |= further or {}
    notes = []
    if reference is None and model.precision == "float16":
        try:
            others[WIDENED] = widened_reference(model, runtime, feeds, limits)
        except InputError as error:
            notes.append(f"not compared with itself in float32: {error}")
    sessions = 1 + len(others) + (reference is not None)
    limit_mb = _memory_limit_mb({runtime.name, *others}, sessions, limits)
    shared = [b for b in trial.batches if reference is None or reference.runs_at(b)]
    with allocating_at_most(limit_mb, where):
        batches, failures, contradiction = _run_batches(predict, feeds, model, trial)
        can_predict = reference is not None and reference.expected is None
        predicts = [predict, reference.predict] if reference and can_predict else [predict]
        is_random = any(
            differs_from_run_to_run(one, feeds.real(feeds.batch, 0), model.precision)
            for one in predicts
        )
        if is_random:
            compared = []
        elif feeds.is_dynamic:
            compared = [b for b in batches if b in shared]
        else:
            compared = batches * 2  # two pairs of feeds at the only batch size
        least_db = parity_limits(model.precision, limits).min_sqnr_db
        parity, *rest = (
            None if other is None else _parity(other, predict, feeds, compared, model, least_db)
            for other in (reference, *others.values())
        )
        not_finite = count_not_finite(predict, reference, feeds, shared)
        score = score_beside(predict, reference if can_predict else None, feeds, shared, where)
    notes += _random_notes(model.operators) if is_random else []
    return Behaviour(
        batches=batches,
        failures=failures,
        details=trial.failures,
        contradiction=model.shapes["contradiction"] or contradiction,
        parity=parity,
        parity_with=dict(zip(others, rest, strict=True)),
        not_finite=not_finite,
        score=score,
        runtimes=placements,
        notes=[*model.notes, *notes, *_constant_notes([parity, *rest])],
    )


def _memory_limit_mb(names: set[str], sessions: int, limits: CheckConfig) -> float | None:
    """Memory that the sessions may allocate together.

    None if a GPU runtime is among them, because GPUs map their memory into the process.
    """
    is_on_cpu = all(RUNTIMES[n].device_class == "cpu" for n in names & RUNTIMES.keys())
    return session_limit_mb(limits.max_session_mb, sessions) if is_on_cpu else None


def _parity(
    reference: Reference,
    predict: Predict,
    feeds: FeedMaker,
    batches: Sequence[int],
    model: Inspection,
    least_sqnr_db: float,
) -> Parity | None:
    """Compare a model with a reference at the batch sizes that the reference runs at too.

    Stored outputs are compared on all samples.
    """
    if reference.expected is not None and batches:
        assert feeds.samples is not None
        where = str(model.path)
        return compare_with_stored(reference, predict, feeds.samples, where, least_sqnr_db)
    if feeds.is_dynamic:
        batches = [batch for batch in batches if reference.runs_at(batch)]
    if not batches:
        return None
    # A quantised model clips random values that exceed the range of the real inputs. With only
    # one sample, however, both feeds would be equal.
    has_several = feeds.samples is not None and feeds.samples.count > 1
    only_real = model.precision == "int8" and has_several
    pairs = feeds.pairs(batches, only_real=only_real)
    where = str(model.path)
    try:
        return compare(reference.predict, predict, pairs, where, least_sqnr_db=least_sqnr_db)
    except InputError:
        if feeds.samples is None or only_real:
            raise
    # Random values do not stand for every input, such as a threshold or a scale.
    pairs = feeds.pairs(batches, only_real=True)
    return compare(reference.predict, predict, pairs, where, least_sqnr_db=least_sqnr_db)


def _run_batches(
    predict: Predict, feeds: FeedMaker, model: Inspection, trial: Trial
) -> tuple[list[int], list[str], str | None]:
    """Batch sizes that run, a line for each one that does not, and a contradiction of shapes."""
    contradiction = _contradiction(predict(feeds.real(feeds.batch, 0)), model)
    if not feeds.is_dynamic:
        return [feeds.batch], [], contradiction
    tried = {*trial.batches, *trial.failures}
    batches = [batch for batch in BATCHES if batch in tried]
    good, failures = [], []
    for batch in batches if len(batches) > 1 else sorted(tried & {*FEWEST_BATCHES}):
        if batch in trial.failures:
            failures.append(f"batch {batch}: {cause_of(trial.failures[batch])}")
            continue
        try:
            outputs = predict(feeds.repeated(batch))
        except InputError as error:
            failures.append(str(error))
            continue
        mismatch = _batch_mismatch(outputs, model, batch)
        if mismatch is None:
            good.append(batch)
        else:
            failures.append(mismatch)
    return good, failures, contradiction


def _contradiction(outputs: Outputs, model: Inspection) -> str | None:
    """The first output whose declared shape differs from the computed one, or None."""
    shapes = {name: array.shape for name, array in single_arrays(outputs)}
    for value in model.outputs:
        found = shapes.get(value.name)
        if value.shape is None or found is None:
            continue
        sizes = zip(value.shape, found, strict=False)
        fits = all(not isinstance(stated, int) or stated == size for stated, size in sizes)
        if len(value.shape) != len(found) or not fits:
            return f"output {value.name!r}: declared {value.shape}, computed {found}"
    return None


def _batch_mismatch(outputs: Outputs, model: Inspection, batch: int) -> str | None:
    """The first output whose batch size differs from that of the inputs, or None."""
    symbols = {value.shape[0] for value in model.inputs if value.shape}
    symbols -= {None, *rows_by_sample(model)}
    shapes = {name: array.shape for name, array in single_arrays(outputs)}
    for value in model.outputs:
        is_batch = value.shape and isinstance(value.shape[0], str) and value.shape[0] in symbols
        found = shapes.get(value.name, (batch,))
        if is_batch and found[:1] != (batch,):
            return f"output {value.name!r}: expected a batch of {batch}, got shape {found}"
    return None


def _random_notes(operators: Iterable[str]) -> list[str]:
    """A note for a model, or its reference, whose outputs differ from run to run."""
    random = [name for name in operators if name.startswith(RANDOM_OPERATORS)]
    named = f" (random operators: {', '.join(random)})" if random else ""
    return [f"the outputs differ from run to run{named}: no parity can be read"]


def _constant_notes(parities: Iterable[Parity | None]) -> list[str]:
    """A note for outputs that are empty, or that do not depend on the inputs."""
    compared = [parity for parity in parities if parity is not None]
    if any(not parity.values for parity in compared):
        return ["all outputs were empty: no parity can be read; --data gives other inputs"]
    if any(parity.constant for parity in compared):
        return ["outputs that do not depend on the inputs: where both agree, no parity can be read"]
    return []
