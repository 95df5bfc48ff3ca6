"""The stage that trains the architecture that the search chose."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig
from hwnas.data import Augmentation, Batches
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.evaluators.function import evaluated
from hwnas.pipeline.problem import data_in_words
from hwnas.pipeline.run import Run
from hwnas.pipeline.transfer import distillation_of, start_from
from hwnas.runs.checkpoints import remove_checkpoints
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.layers import LayerNetwork
from hwnas.spaces.networks import Network
from hwnas.spaces.traced.space import TracedNetwork
from hwnas.tasks.classification import ImageClassification
from hwnas.tasks.generation import ImageGeneration
from hwnas.tasks.own import JudgedTask
from hwnas.training.curve import LearningCurve
from hwnas.training.evaluate import evaluate
from hwnas.training.generated_images import generated_images
from hwnas.training.growing import (
    GROWING_SPACES,
    GrowingSpace,
    gains_of,
    grow,
    grown_at,
    order_of_growth,
    smallest_start,
)
from hwnas.training.predictions import PredictionRecorder
from hwnas.training.shown_samples import shown_samples
from hwnas.training.train import STAGE, Training, final_weights

GROWING, GROWTH = "grow", "growth"
"""How the stages are named that train a network that grows, and the event of its growth."""
GROWTH_BATCHES = 4
"""Batches on which the gradients are taken that decide where a network grows."""


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
    if config.grow and config.epochs:
        training = _grown(run, config)
    else:
        training = training_of(run, _beginning(run, config), config)
    _show_samples(run, config)
    with run.stage("train") as advance:
        training.run(run.folder, advance)
    recorder = PredictionRecorder() if isinstance(task, ImageClassification) else None
    metrics = {
        "schema": 1,
        **evaluate(training.average, task, run.device, recorder),
        "epochs": config.epochs,
        "seconds": training.seconds,
    }
    write_atomic(run.folder.weights, save(final_weights(training.average)))
    if recorder is not None:
        write_atomic(run.folder.predictions, recorder.to_npz(run.problem.dataset))
    if isinstance(task, ImageGeneration):
        made = generated_images(training.average, run.problem.dataset, run.device)
        write_atomic(run.folder.generated_images, made)
    run.folder.write_json(run.folder.metrics, metrics)
    for stage in _stages(config):
        remove_checkpoints(run.folder.checkpoints, stage)
    return metrics


def _beginning(run: Run, config: TrainConfig) -> Network:
    """The network of the run's architecture with the weights that its training begins with."""
    torch.manual_seed(run.seed("network"))
    network = run.problem.space.network(run.architecture())
    if config.inherit:
        network.auxiliary = None
        run.load_weights(network, run.folder.inherited)
    elif config.start is not None:
        start_from(run, network, Path(config.start))
    return network


def _stages(config: TrainConfig) -> list[str]:
    """The stages of a training, those in which a network has not grown to the end before the last.

    Each has its own checkpoints, from which all networks are made again when a run is resumed.
    """
    growths = config.growths if config.grow else 0
    return [*(f"{GROWING}{number}" for number in range(1, growths + 1)), STAGE]


def _grown(run: Run, config: TrainConfig) -> Training:
    """Train the smallest network that can grow into the run's, and let it grow.

    It grows `growths` times in the first half of the steps, at equal distances, and learning rate
    and batches go on as if it were one training.

    Returns:
        The training of the whole network, from the middle on.

    Raises:
        InputError: when the networks of the space cannot grow.
        Interrupted: after a signal, with a checkpoint written.
    """
    space, end, stages = run.problem.space, run.architecture(), _stages(config)
    if not isinstance(space, GrowingSpace):
        raise InputError(
            "the networks of this space cannot grow",
            where=f"{run.where}: train.grow",
            expected=f"space.name one of {', '.join(GROWING_SPACES)}",
            actual=space.name,
        )
    now = smallest_start(space, end)
    torch.manual_seed(run.seed("network"))
    training = training_of(run, space.network(now), config, stages[0])
    for number, stage in enumerate(stages[1:], start=1):
        until = number * training.steps // (2 * config.growths)
        with run.stage("grow") as advance:
            training.run(run.folder, advance, until)
        torch.manual_seed(run.seed(f"growth {number}"))
        after, order = _next_growth(run, training, now, end, config.growths + 1 - number)
        network = _grown_network(space, training.network, after)
        record = {"event": GROWTH, "step": until, "grown": _changes(now, after)}
        record["gains"] = dict(order)
        if record not in run.folder.read_history():
            run.folder.append_history(record)
        seconds, now = training.seconds, after
        training = training_of(run, network, config, stage)
        training.step, training.seconds = until, seconds
    return training


def _next_growth(
    run: Run, training: Training, now: Architecture, end: Architecture, times: int
) -> tuple[Architecture, list[tuple[str, float]]]:
    """The next architecture of a network that grows, and the choices that could by their gains.

    Args:
        run: the run.
        training: of the network as it is.
        now: its architecture.
        end: the architecture that it grows into.
        times: how often it grows, this time included.
    """
    space = run.problem.space
    assert isinstance(space, GrowingSpace)
    whole = _grown_network(space, training.network, end)
    probes = [
        training_of(run, network, training.config)
        for network in (copy.deepcopy(training.network), whole)
    ]
    for probe in probes:
        probe.step = training.step
        probe.add_gradients(GROWTH_BATCHES)
    small, large = (probe.network for probe in probes)
    assert isinstance(small, LayerNetwork) and isinstance(large, LayerNetwork)
    order = order_of_growth(space, now, end, gains_of(small, large))
    names = [name for name, _ in order[: -(-len(order) // times)]]
    return grown_at(space, now, end, names), order


def _changes(now: Architecture, after: Architecture) -> dict[str, list[str]]:
    """The options of the choices that grew, before and after it."""
    return {name: [option, after[name]] for name, option in now if option != after[name]}


def _grown_network(space: SearchSpace, small: Network, architecture: Architecture) -> Network:
    """The network of an architecture, which computes what a smaller one does."""
    large = space.network(architecture)
    assert isinstance(small, LayerNetwork) and isinstance(large, LayerNetwork)
    grow(copy.deepcopy(small).cpu(), large)
    return large


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
    for stage in (*_stages(run.config.train), GROWTH):
        remove_checkpoints(run.folder.checkpoints, stage)
        run.folder.rewind_history(stage, 0)
    folder = run.folder
    for path in (folder.weights, folder.metrics, folder.predictions, folder.generated_images):
        path.unlink(missing_ok=True)
