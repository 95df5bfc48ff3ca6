"""The check of a run's model, or of another one against a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwnas.budget.gate import NetworkLatency
from hwnas.budget.selection import read_measurements
from hwnas.checking.check import check_model
from hwnas.checking.gates import Gate, confidence_gate, predicted_gate
from hwnas.checking.inputs.feeds import FeedMaker, feeds_for
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.checking.inputs.samples import Samples
from hwnas.checking.outputs import Feeds, Outputs, Predict
from hwnas.checking.performance import measured_elsewhere
from hwnas.checking.properties import own_properties, reads_raw
from hwnas.checking.references import Reference
from hwnas.checking.request import CheckRequest, ServingLoad
from hwnas.data import Dataset, Normalisation
from hwnas.data.inputs import named_inputs, parts_of
from hwnas.data.normalisation import Preprocessed
from hwnas.deploy.operator_shares import operator_shares
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection, inspect_model
from hwnas.latency_tables.runtimes import OnnxModelRuntime, OnnxRuntimeCpu
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.further_devices import measured_gates
from hwnas.pipeline.kept_samples import NOTE, keep_samples, kept_feeds
from hwnas.pipeline.microcontroller import microcontroller_gates
from hwnas.pipeline.profile import example_feeds, preparation
from hwnas.pipeline.run import Run
from hwnas.pipeline.shrink_rounds import original_score
from hwnas.pipeline.target import SPEED_EVENT

MOST_LISTED = 10
"""Classes that a warning names."""


def check(
    run: Run,
    model_path: Path | None = None,
    budget_ms: float | None = None,
    measured: Path | None = None,
    load: ServingLoad | None = None,
    inspected: Inspection | None = None,
) -> dict[str, Any]:
    """Check a model against a run.

    The document is written as `check.json` for the run's own model, as `variants/check.NAME.json`
    for a variant of it, and nowhere for any other model, see `RunFolder.check_of`.

    Args:
        run: gives the network, the data, the runtime and the limits.
        model_path: the run's own model if None.
        budget_ms: the run's own budget if None.
        measured: results of the model from another device; measured on this one if None.
        load: of the smoke test of serving; None leaves it out.
        inspected: the file, if it was inspected already.

    Returns:
        The content of `check.json`.
    """
    path = run.folder.model if model_path is None else model_path
    target = run.folder.check_of(path)
    is_own = target == run.folder.check
    if not is_own and not isinstance(run.target.runtime, OnnxModelRuntime):
        raise InputError(
            "this runtime runs the run's own network, no other file",
            where=run.target.runtime.name,
            expected=str(run.folder.model),
            actual=str(path),
        )
    model = inspected or inspect_model(path)
    is_detached = run.problem.is_detached
    feeds = kept_feeds(run, model) if is_detached else dataset_feeds(run, model)
    budget_ms = run.target.budget_ms() if budget_ms is None else budget_ms
    document = check_model(
        model,
        run.target.runtime,
        feeds,
        CheckRequest(
            limits=run.config.check,
            budget_ms=budget_ms,
            memory_budget_mb=run.config.budget.memory_mb,
            energy_budget_mj=run.config.budget.energy_mj,
            load_budget_ms=run.config.budget.load_ms,
            first_budget_ms=run.config.budget.first_ms,
            load=load,
            recorded=run.target.recorded_speed(),
            lost=_lost_to_original(run),
        ),
        reference=None if is_detached else network_reference(run),
        predicted_ms=_predicted_ms(run),
        measured_latency=_latency_elsewhere(run, path, measured),
        extra_gates=[
            *_prediction_gates(run),
            *measured_gates(run, model, feeds),
            *(microcontroller_gates(run) if is_own else []),
        ],
        extra_notes=[*_budget_notes(run, budget_ms), *([NOTE] if is_detached else [])],
        stage=run.stage,
    )
    if document["measured"]["speed"] is not None:
        keys = ("runtime", "value_ms", "speed")
        measured_here = {key: document["measured"][key] for key in keys}
        record = {"event": SPEED_EVENT, "model": path.name, "measured": measured_here}
        run.folder.append_history(record)
    if not is_detached:
        document["warnings"] = [*document["warnings"], *_untested_classes(run.problem.dataset)]
    if target is not None:
        run.folder.write_json(target, document)
    if is_own and not is_detached:
        if run.config.data.name == "own":
            keep_samples(run, feeds)
        if measured is None:
            _write_operator_shares(run)
    return document


def _untested_classes(dataset: Dataset) -> list[str]:
    """A warning if there are classes without a test sample, about which no score says anything."""
    if dataset.test.targets.ndim != 1 or dataset.test.targets.dtype.kind != "i":
        return []
    counts = np.bincount(dataset.test.targets, minlength=len(dataset.classes))
    names = [name for name, n in zip(dataset.classes, counts, strict=True) if not n]
    if not names:
        return []
    listed = ", ".join(names[:MOST_LISTED]) + (" and others" if len(names) > MOST_LISTED else "")
    return [f"no test sample is of the class {listed}: the scores say nothing about it"]


def _write_operator_shares(run: Run) -> None:
    """Where the model's time goes, if it runs here and the runtime's profiler can tell."""
    import onnx

    run.folder.operator_shares.unlink(missing_ok=True)
    runtime = run.target.runtime
    if run.target.device_measurements is not None or not isinstance(runtime, OnnxRuntimeCpu):
        return
    batch, problem = run.config.latency.batch, run.problem
    name = problem.task.input_name
    feeds = example_feeds(batch, problem.input_shape, problem.preprocessing, name)
    model, modules = onnx.load(run.folder.model), run.trained_network().choice_modules
    with run.folder.temporary_folder() as folder:
        shares = operator_shares(model, modules, runtime, feeds, folder)
    run.folder.write_json(run.folder.operator_shares, shares)


@dataclass(frozen=True)
class _RawFeeds(FeedMaker):
    """Feeds whose random values have the moments of the raw training inputs."""

    normalisation: Normalisation | None = None

    def random(self, batch: int, seed: int) -> Feeds:
        """Random values for every input; the same seed gives the same values."""
        assert self.normalisation is not None
        mean, std = (moment.numpy() for moment in self.normalisation.moments())
        return {name: v * std + mean for name, v in super().random(batch, seed).items()}


def dataset_feeds(run: Run, model: Inspection) -> FeedMaker:
    """The test samples as the model's inputs.

    Raises:
        InputError: when the model takes something else.
    """
    problem, dataset = run.problem, run.problem.dataset
    inputs = named_inputs(problem.input_shape, model.inputs[0].name if model.inputs else "")
    names = [one.name for one in inputs]
    if [given.name for given in model.inputs] != names:
        raise InputError(
            "cannot feed the model",
            where=str(model.path),
            expected=f"the inputs {', '.join(names)}" if dataset.inputs else "one input",
            actual=f"{len(model.inputs)} inputs",
        )
    feeds = feeds_for(model, StatedSizes(), None, run.config.latency.batch)
    for one, given in zip(inputs, feeds.inputs, strict=True):
        expected = ("batch", *one.shape)
        found = tuple("batch" if size is None else size for size in given.sizes)
        if found != expected:
            raise InputError(
                "the model takes other inputs than the data have",
                where=str(model.path),
                expected=expected,
                actual=found,
            )

    is_raw = reads_raw(own_properties(model.properties))

    def take(chosen: np.ndarray) -> Feeds:
        raw = dataset.test.inputs[chosen]
        if is_raw:
            return {names[0]: raw}
        tensors = parts_of(dataset.normalise(raw))
        return {name: x.numpy() for name, x in zip(names, tensors, strict=True)}

    if is_raw and dataset.normalisation.dtype == "float32":
        feeds = _RawFeeds(feeds.inputs, feeds.batch, normalisation=dataset.normalisation)
    if not run.problem.has_data:
        return feeds
    targets = dataset.test.targets
    return replace(feeds, samples=Samples(len(targets), take, targets, run.problem.task))


def network_reference(run: Run) -> Reference:
    """The trained network in PyTorch, which exported models are compared with."""
    batch = run.config.latency.batch
    return Reference(
        "torch",
        _network_predict(run),
        lambda: preparation(
            run.trained_network(),
            run.problem.input_shape,
            run.target.runtime,
            batch,
            run.problem.preprocessing,
        )(),
    )


def _network_predict(run: Run) -> Predict:
    network: nn.Module = run.trained_network()
    if run.problem.preprocessing is not None:
        network = Preprocessed(network, run.problem.preprocessing)

    names = [one.name for one in run.problem.dataset.inputs]

    def predict(feeds: Feeds) -> Outputs:
        several = tuple(torch.from_numpy(feeds[name]) for name in names)
        inputs = several or torch.from_numpy(next(iter(feeds.values())))
        threads_before = torch.get_num_threads()
        # Beside busy neighbours two threads that wait for each other take longer than one.
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                return {run.problem.task.output_name: network(inputs).numpy()}
        finally:
            torch.set_num_threads(threads_before)

    return predict


def _latency_elsewhere(run: Run, model: Path, measured: Path | None) -> NetworkLatency | None:
    """The model's latency on a device that is not here, if it is to be judged by that."""
    if measured is not None:
        return measured_elsewhere(measured, model)
    if run.target.device_measurements is not None:
        return run.target.stated_latency(run.architecture())
    return None


def _prediction_gates(run: Run) -> list[Gate]:
    """Budgets of devices that are not here, and the probability where a confidence is asked for.

    The probability is that of the model which the measured candidates corrected.
    """
    architecture = run.architecture()
    here, *others = run.target.limits()
    gates = []
    if here.confidence is not None:
        measured = read_measurements(run.folder, run.problem.space.name)
        cost = here.cost.corrected(
            [m.architecture for m in measured], [m.latency.ci_high_ms for m in measured]
        )
        probability = here.with_cost(cost).probability(architecture)
        gates.append(confidence_gate(probability, here.confidence))
    for path, limit in zip(run.target.further_tables, others, strict=True):
        name = LatencyTable.load(path).device.device
        gates.append(predicted_gate(name, limit.bound_ms(architecture), limit.budget_ms))
    return gates


def _lost_to_original(run: Run) -> float | None:
    """How far the network is below the original that it was shrunk from; None in other runs."""
    score = original_score(run.folder)
    if score is None:
        return None
    metrics = run.folder.read_json(run.folder.metrics)
    return score - float(metrics[metrics["metric"]])


def _predicted_ms(run: Run) -> float | None:
    """What the table predicts, if it is one of the runtime that the model is checked on."""
    if not _has_table_of_runtime(run):
        return None
    return float(run.folder.read_json(run.folder.architecture)["predicted_ms"])


def _budget_notes(run: Run, budget_ms: float) -> list[str]:
    """A note for a budget that the slowest network of the space would keep as well."""
    note = run.target.loose_budget(budget_ms) if _has_table_of_runtime(run) else None
    return [] if note is None else [note]


def _has_table_of_runtime(run: Run) -> bool:
    """Whether the run's latency table is of the runtime that the model is checked on."""
    if run.target.device_measurements is not None:
        return True
    table = LatencyTable.load(run.folder.latency_table)
    return table.device.runtime == run.target.runtime.name
