"""Evaluating a trained network on a split of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.data import Dataset, Split, evaluation_batches
from hwnas.tasks import Task
from hwnas.training.predictions import PredictionRecorder


@torch.no_grad()
def predictions(
    network: nn.Module, split: Split, dataset: Dataset, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the outputs and targets of all samples of a split in order, one batch at a time."""
    network.eval()
    for inputs, targets in evaluation_batches(split, dataset, 250, device):
        yield network(inputs), targets


def evaluate(
    network: nn.Module,
    task: Task,
    device: torch.device,
    recorder: PredictionRecorder | None = None,
) -> dict[str, Any]:
    """Return the task's metrics on the test split, and the name of the main one as `metric`.

    Args:
        network: the network to evaluate.
        task: has the data and the metrics.
        device: device of the network.
        recorder: keeps the predicted classes; only for tasks with one class for each sample.
    """
    dataset = task.dataset
    batches = predictions(network, dataset.test, dataset, device)
    found = task.metrics(batches if recorder is None else recorder.record(batches))
    return {"metric": task.metric, **found}
