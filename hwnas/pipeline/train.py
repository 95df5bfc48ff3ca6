"""The stage that trains the architecture that the search chose."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save

from hwnas.data import Augmentation
from hwnas.pipeline.run import Run
from hwnas.runs.checkpoints import remove_checkpoints, write_atomic
from hwnas.training.train import Training, evaluate, final_weights


def train(run: Run, *, restart: bool = False) -> dict[str, Any]:
    """Train the architecture from scratch, or from the supernet's weights.

    Writes `weights.safetensors` and `metrics.json`.

    Args:
        run: has the architecture and the data.
        restart: discard an earlier training instead of continuing from its checkpoint.

    Returns:
        The content of `metrics.json`.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
    """
    config = run.config.train
    architecture, device = run.architecture(), run.device
    torch.manual_seed(run.seed("network"))
    network = run.problem.space.network(architecture)
    if config.inherit:
        run.load_weights(network, run.folder.inherited)
    augment = Augmentation(config.crop_padding, config.flip, config.cutout)
    training = Training(
        network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        config,
        run.batches(run.problem.dataset.train, config.batch_size, "training", augment),
        run.seed("drop path"),
        run.problem.task.loss,
    )
    if restart:
        _discard_training(run)
    with run.stage("train") as advance:
        training.run(run.folder, advance)
    metrics = {
        "schema": 1,
        **evaluate(training.average, run.problem.task, device),
        "epochs": config.epochs,
        "seconds": training.seconds,
    }
    write_atomic(run.folder.weights, save(final_weights(training.average)))
    run.folder.write_json(run.folder.metrics, metrics)
    remove_checkpoints(run.folder.checkpoints, "train")
    return metrics


def _discard_training(run: Run) -> None:
    """Forget an earlier training, so that the next one starts anew."""
    remove_checkpoints(run.folder.checkpoints, "train")
    run.folder.rewind_history("train", 0)
    for path in (run.folder.weights, run.folder.metrics):
        path.unlink(missing_ok=True)
