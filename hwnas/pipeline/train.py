"""The stage that trains the architecture that the search chose."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hwnas.config import TrainConfig
from hwnas.data import Augmentation, Batches
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.evaluators.function import evaluated
from hwnas.pipeline.problem import data_in_words
from hwnas.pipeline.run import Run
from hwnas.pipeline.transfer import distillation_of, start_from
from hwnas.runs.checkpoints import remove_checkpoints
from hwnas.spaces.mbconv import MbconvNetwork, MbconvSpace
from hwnas.spaces.networks import Network
from hwnas.spaces.traced.space import TracedNetwork
from hwnas.tasks.classification import ImageClassification
from hwnas.tasks.generation import ImageGeneration
from hwnas.tasks.own import JudgedTask
from hwnas.training.curve import LearningCurve
from hwnas.training.evaluate import evaluate
from hwnas.training.generated_images import generated_images
from hwnas.training.growing import grow, smallest_start
from hwnas.training.predictions import PredictionRecorder
from hwnas.training.shown_samples import shown_samples
from hwnas.training.train import STAGE, Training, final_weights

GROWING = "grow"
"""The stage that trains the network that grows."""


def train(run: Run, *, restart: bool = False) -> dict[str, Any]:
    """Train the architecture from scratch, or from the supernet's weights.

    Writes `weights.safetensors`, `metrics.json`, samples of the training data as
    `training_samples.npz` and, for tasks with one class for each sample, `predictions.npz`, for
    generators `generated_images.npz`.

    Args:
        run: has the architecture and the data.
        restart: discard an earlier training instead of continuing from its checkpoint.

    Returns:
        The content of `metrics.json`.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
    """
    if not run.problem.has_data:
        return _train_by_function(run)
    config, task = run.recipe, run.problem.task
    if run.config.shrink is not None and run.config.shrink.elastic:
        config = config.model_copy(update={"epochs": 0})  # trained together with its family
    if restart:
        _discard_training(run)
    epochs = config.epochs
    torch.manual_seed(run.seed("network"))
    network = run.problem.space.network(run.architecture())
    if config.grow:
        first = epochs // 2
        config = config.model_copy(update={"epochs": epochs - first})
        _grow(run, network, first)
    elif config.inherit:
        network.auxiliary = None
        run.load_weights(network, run.folder.inherited)
    elif config.start is not None:
        start_from(run, network, Path(config.start))
    training = training_of(run, network, config)
    _show_samples(run, config)
    with run.stage("train") as advance:
        training.run(run.folder, advance)
    recorder = PredictionRecorder() if isinstance(task, ImageClassification) else None
    metrics = {
        "schema": 1,
        **evaluate(training.average, task, run.device, recorder),
        "epochs": epochs,
        "seconds": training.seconds,
    }
    write_atomic(run.folder.weights, save(final_weights(training.average)))
    if recorder is not None:
        write_atomic(run.folder.predictions, recorder.to_npz(run.problem.dataset))
    if isinstance(task, ImageGeneration):
        made = generated_images(training.average, run.problem.dataset, run.device)
        write_atomic(run.folder.generated_images, made)
    run.folder.write_json(run.folder.metrics, metrics)
    for stage in (STAGE, GROWING):
        remove_checkpoints(run.folder.checkpoints, stage)
    return metrics


def _grow(run: Run, network: Network, epochs: int) -> None:
    """Train the smallest network that can grow into a new one, and let it grow.

    A resumed run trains it from its checkpoint, which stays until all is trained.

    Args:
        run: the run.
        network: of the run's architecture; changed in place.
        epochs: for which the small network is trained.

    Raises:
        InputError: when the networks of the space cannot grow.
        Interrupted: after a signal, with a checkpoint written.
    """
    space = run.problem.space
    if not isinstance(space, MbconvSpace) or not isinstance(network, MbconvNetwork):
        raise InputError(
            "the networks of this space cannot grow",
            where=f"{run.where}: train.grow",
            expected="space.name = mbconv",
            actual=space.name,
        )
    if not epochs:
        return
    small = space.network(smallest_start(space, run.architecture()))
    assert isinstance(small, MbconvNetwork)
    config = run.config.train.model_copy(update={"epochs": epochs})
    training = training_of(run, small, config, GROWING)
    with run.stage("grow") as advance:
        training.run(run.folder, advance)
    grow(small.cpu(), network)


def _train_by_function(run: Run) -> dict[str, Any]:
    """Let the user's function train the architecture, and keep the weights that it leaves."""
    started = time.monotonic()
    assert run.problem.evaluate is not None
    network = run.problem.space.network(run.architecture())
    assert isinstance(network, TracedNetwork)
    with run.stage("train") as advance:
        advance(0, 1, "evaluate(module)")
        score = evaluated(run.problem.evaluate, network.model)
        advance(1, 1, f"score {score:.4g}")
    assert isinstance(run.problem.task, JudgedTask)
    metrics = {
        "schema": 1,
        **run.problem.task.metrics_of(score),
        "epochs": 0,
        "seconds": time.monotonic() - started,
    }
    write_atomic(run.folder.weights, save(final_weights(network)))
    run.folder.write_json(run.folder.metrics, metrics)
    return metrics


def training_of(run: Run, network: Network, config: TrainConfig, stage: str = STAGE) -> Training:
    """The training of a network by the run's seed on its training samples.

    Args:
        run: the run.
        network: the network.
        config: settings.
        stage: names the training's checkpoints and its records in the history.
    """
    batches = training_batches(run, config)
    network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Training(
        network,
        config,
        batches,
        run.seed("drop path"),
        run.problem.task.loss,
        LearningCurve.of(run.problem.task, batches, config.batch_size, run.seed("learning curve")),
        distillation_of(run, network, config),
        stage,
    )


def training_batches(run: Run, config: TrainConfig) -> Batches:
    """The batches of a run's training, by its seed."""
    augment = Augmentation.of(config)
    return run.batches(run.problem.dataset.train, config.batch_size, "training", augment)


def _show_samples(run: Run, config: TrainConfig) -> None:
    """Keep a few training samples, as they are and augmented, for the report."""
    dataset, seed = run.problem.dataset, run.seed("shown samples")
    shown = shown_samples(dataset, Augmentation.of(config), seed, data_in_words(dataset))
    if shown is not None:
        write_atomic(run.folder.training_samples, shown)


def _discard_training(run: Run) -> None:
    """Forget an earlier training, so that the next one starts anew."""
    for stage in (STAGE, GROWING):
        remove_checkpoints(run.folder.checkpoints, stage)
        run.folder.rewind_history(stage, 0)
    folder = run.folder
    for path in (folder.weights, folder.metrics, folder.predictions, folder.generated_images):
        path.unlink(missing_ok=True)
