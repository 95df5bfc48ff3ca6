"""Histories of runs as event files for TensorBoard, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import InputError, RuntimeMissingError, printable
from hwnas.reporting.predictions import Predictions
from hwnas.reporting.run_files import Run, distinct_names, number_at
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.networks import Network

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NO_SCALARS = {"event", "step", "train_samples", "test_samples"}
"""Keys of records that are no curves."""
MATRIX_PIXELS = 320
"""Side of the image of a confusion matrix, about."""
MOST_CLASSES = 50
"""Classes of the largest confusion matrix that is written as a table."""


@dataclass(frozen=True)
class LoggedRun:
    """A run whose history is written.

    Attributes:
        folder: of the run.
        space: its search space, at the sizes of the deployed network.
        network: the trained network; None before there is one.
    """

    folder: RunFolder
    space: SearchSpace
    network: Network | None = None


def write_events(runs: Sequence[LoggedRun], logs: Path) -> None:
    """Write the history of each run as a folder of event files with the run's name.

    Every number of a record becomes a scalar such as `search/loss`, and every option's probability
    a scalar such as `normal/0>2/skip_connect`. The expected latency is there as a share of the
    budget too. A trained network is written as a graph, and its confusion matrix as an image and as
    a table.

    Args:
        runs: the runs; their histories may have ended anywhere.
        logs: TensorBoard's log directory.

    Raises:
        InputError: when a folder holds no run, or the folder for its events exists already.
        RuntimeMissingError: when TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RuntimeMissingError(
            "TensorBoard is not installed",
            where="--tensorboard",
            mend="pip install 'hwnas[tensorboard]'",
        ) from None
    read = [(Run.read(logged.folder), logged) for logged in runs]
    targets = [logs / name for name in distinct_names([logged.folder for logged in runs])]
    for target in targets:
        if target.exists():
            raise InputError(
                "the folder exists already",
                where=str(target),
                mend="remove it or choose another folder",
            )
    for target, (run, logged) in zip(targets, read, strict=True):
        with SummaryWriter(str(target)) as writer:
            _write_scalars(run, writer)
            _write_probabilities(run, logged.space, writer)
            _write_graph(logged, writer)
            _write_confusion(logged.folder, writer)


def _write_scalars(run: Run, writer: SummaryWriter) -> None:
    for record in run.history:
        step = number_at(record, "step")
        if step is None:
            continue
        for key in record.keys() - NO_SCALARS:
            value = number_at(record, key)
            if value is not None:
                writer.add_scalar(printable(f"{record['event']}/{key}"), value, int(step))
        latency_ms = number_at(record, "latency_ms")
        if latency_ms is not None and run.budget_ms:
            share = latency_ms / run.budget_ms
            writer.add_scalar(f"{record['event']}/latency_of_budget", share, int(step))


def _write_probabilities(run: Run, space: SearchSpace, writer: SummaryWriter) -> None:
    steps, shares = run.trajectory(space.choices)
    for step, table in zip(steps, shares, strict=True):
        for choice, row in zip(space.choices, table, strict=True):
            for option, share in zip(choice.options, row, strict=False):
                tag = printable(f"{choice.name}/{option}")
                writer.add_scalar(tag, float(share), int(step))


def _write_graph(logged: LoggedRun, writer: SummaryWriter) -> None:
    """The network's graph, traced with a sample of zeros."""
    import torch

    if logged.network is None:
        return
    shape = logged.space.options.input_shape
    dtype = torch.int64 if len(shape) == 1 else torch.float32
    writer.add_graph(logged.network.eval(), torch.zeros((1, *shape), dtype=dtype))


def _write_confusion(folder: RunFolder, writer: SummaryWriter) -> None:
    """The confusion matrix as an image with rows of classes, and as a table; of classifiers."""
    predictions = Predictions.read(folder.predictions)
    if predictions is None:
        return
    counts = predictions.confusion()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(1, MATRIX_PIXELS // len(shares))
    pixels = np.kron(255 * (1 - shares), np.ones((side, side))).round().astype(np.uint8)
    writer.add_image("test/confusion", pixels[None])
    classes = [printable(name).replace("|", " ") for name in predictions.classes]
    if len(classes) > MOST_CLASSES:
        return
    header = f"| class | {' | '.join(classes)} |"
    rows = [
        f"| {name} | {' | '.join(map(str, row))} |"
        for name, row in zip(classes, counts, strict=True)
    ]
    writer.add_text("test/confusion", "\n".join([header, "|---" * (1 + len(classes)) + "|", *rows]))
