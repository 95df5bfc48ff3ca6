"""The stage of the controls: networks that the run's model, and so its search, has to beat.

The controls are random networks within the budget, the largest ones by parameters and by MACs, and
hand-made ones as wide as the budget allows. Each is trained by the run's recipe and seed and
exported. All of them and the run's model are then measured in the same rounds and scored on the
test samples. A control has a folder `controls/NAME`, so that it is neither chosen nor trained again
when the run is resumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from hwnas.budget.gate import Session, measure_together
from hwnas.checking.check import judging_runtime
from hwnas.checking.properties import PREPROCESS
from hwnas.deploy.export import export_network, set_metadata
from hwnas.durable import write_atomic
from hwnas.inspection.process import inspect_model, sha256_of
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.pipeline.check import dataset_feeds
from hwnas.pipeline.control_choice import SEARCHED, Control, choose, control_names
from hwnas.pipeline.control_results import Tested, results
from hwnas.pipeline.profile import SESSIONS, inferences
from hwnas.pipeline.run import Run
from hwnas.pipeline.train import training_of
from hwnas.runs import interruption
from hwnas.runs.checkpoints import remove_checkpoints
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.networks import Network
from hwnas.tasks.classification import ImageClassification
from hwnas.training.evaluate import predictions
from hwnas.training.predictions import PredictionRecorder
from hwnas.training.train import final_weights

STEPS = 100
"""Steps of the progress for each control."""
BATCH = 250
"""Samples that are scored at once."""

Say = Callable[[float, str], None]
"""Shows the share of a control's work that is done, and a short text."""


def compare_with_controls(run: Run) -> dict[str, Any]:
    """Train, export, measure and score the controls beside the run's model.

    Writes `controls/NAME.onnx` for each control and `controls.json`.

    Args:
        run: has an exported model; its setting `controls` is at least 1.

    Returns:
        The content of `controls.json`, see `control_results.results`.

    Raises:
        Interrupted: after a signal, with everything saved.
    """
    names = control_names(run)
    controls: list[Control] = []
    with run.stage("controls") as advance:
        for place, name in enumerate(names):

            def say(share: float, text: str, place: int = place, name: str = name) -> None:
                advance(round(STEPS * (place + share)), STEPS * len(names), f"{name}: {text}")

            interruption.stop_if_requested()
            controls.append(_finished(run, name, controls, say))
        advance(STEPS * len(names), STEPS * len(names), "measuring all networks together")
        document = results(run, controls, _tested(run, controls))
    run.folder.write_json(run.folder.controls_document, document)
    return document


def has_compared(run: Run) -> bool:
    """Whether the run's model was compared with all the controls that its settings ask for."""
    if not run.config.controls:
        return True
    path = run.folder.controls_document
    if not path.exists():
        return False
    compared = run.folder.read_json(path).get("model_sha256")
    return bool(compared == sha256_of(run.folder.model))


def _finished(run: Run, name: str, earlier: Sequence[Control], say: Say) -> Control:
    """A control that is chosen and trained, unless it was before."""
    folder = _folder(run, name)
    path = folder.path / "control.json"
    if path.exists():
        control = Control.from_json(folder.read_json(path))
    else:
        folder.create()
        control = choose(run, name, earlier, lambda text: say(0.0, text))
        folder.write_json(path, control.to_json())
    if control.is_trained_itself and control.training_s is None:
        control = replace(control, training_s=_train(run, control, say))
        folder.write_json(path, control.to_json())
    return control


def _train(run: Run, control: Control, say: Say) -> float:
    """Train and export a control; returns the seconds of the training."""
    folder, config, task = _folder(run, control.name), run.recipe, run.problem.task
    network = control.network(run)
    if network.auxiliary is None:
        config = config.model_copy(update={"auxiliary_weight": 0.0})
    training = training_of(run, network, config)
    training.run(folder, lambda done, total, text: say(done / total, text))
    write_atomic(folder.weights, save(final_weights(training.average)))
    names = task.input_name, task.output_name
    preprocessing = run.problem.preprocessing
    model = export_network(_trained(run, control), run.problem.input_shape, names, preprocessing)
    properties = {name: json.dumps(value) for name, value in task.properties().items()}
    properties[PREPROCESS] = json.dumps(preprocessing is not None)
    set_metadata(model, {"control": control.name, "task": task.name, **properties})
    write_atomic(_model(run, control.name), model.SerializeToString())
    remove_checkpoints(folder.checkpoints, "train")
    return training.seconds


def _trained(run: Run, control: Control) -> Network:
    """A control's network with its trained weights, in eval mode on the CPU."""
    network = control.network(run)
    network.drop_training_parts()
    network.load_state_dict(load_file(_folder(run, control.name).weights))
    return network.eval()


def _tested(run: Run, controls: Sequence[Control]) -> dict[str, Tested]:
    """Latency and score of the run's model and of the controls that were trained, by name."""
    networks: dict[str, Callable[[], Network]] = {SEARCHED: run.trained_network}
    for control in controls:
        if control.is_trained_itself:
            networks[control.name] = partial(_trained, run, control)
    calls = {
        f"{name}/{session}": call
        for name, network in networks.items()
        for session, call in enumerate(_calls(run, _model(run, name), network))
    }
    rounds_ms = measure_together(
        calls,
        run.target.runtime,
        seconds=run.config.check.measure_seconds,
    )
    tested = {}
    for name, network in networks.items():
        sessions = [Session(rounds_ms[f"{name}/{session}"]) for session in range(SESSIONS)]
        score, right = _scored(run, _outputs(run, _model(run, name), network))
        tested[name] = Tested(sessions, score, right)
    return tested


def _calls(run: Run, model: Path, network: Callable[[], Network]) -> list[Callable[[], None]]:
    """Calls that run an exported model once, or the network on a runtime that runs no files."""
    runtime, batch = run.target.runtime, run.config.latency.batch
    if not isinstance(runtime, OnnxModelRuntime):
        shape, preprocessing = run.problem.input_shape, run.problem.preprocessing
        return inferences(network(), shape, runtime, batch, SESSIONS, preprocessing)
    feeds = dataset_feeds(run, inspect_model(model))
    single = feeds.real(feeds.batch, 0)
    return [runtime.prepare_onnx(model, single) for _ in range(SESSIONS)]


def _outputs(
    run: Run, model: Path, network: Callable[[], Network]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of all test samples; those of the network if the runtime runs no files.

    Yields:
        The outputs and targets of one batch.
    """
    dataset, runtime = run.problem.dataset, run.target.runtime
    if not isinstance(runtime, OnnxModelRuntime):
        yield from predictions(network(), dataset.test, dataset, torch.device("cpu"))
        return
    infer = judging_runtime(runtime).infer(model)
    samples = dataset_feeds(run, inspect_model(model)).samples
    assert samples is not None
    for feeds, targets in samples.batches(BATCH):
        outputs = infer(feeds)[run.problem.task.output_name]
        yield torch.from_numpy(outputs), torch.from_numpy(targets)


def _scored(run: Run, outputs: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, np.ndarray | None]:
    """The task's score and, where each sample has one class, which samples are right."""
    task = run.problem.task
    if not isinstance(task, ImageClassification):
        return task.score(outputs), None
    recorder = PredictionRecorder()
    score = task.score(recorder.record(outputs))
    return score, np.concatenate(recorder.predicted) == np.concatenate(recorder.targets)


def _folder(run: Run, name: str) -> RunFolder:
    """Where a control is kept while it is trained, with its weights and history."""
    return RunFolder(run.folder.controls / name)


def _model(run: Run, name: str) -> Path:
    """The exported model of a control, or the run's own."""
    return run.folder.model if name == SEARCHED else run.folder.controls / f"{name}.onnx"
