"""Histories of runs as event files for TensorBoard, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import InputError, RuntimeMissingError, printable
from hwnas.reporting.run_files import Run, distinct_names, number_at
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NO_SCALARS = {"event", "step", "train_samples", "test_samples"}
"""Keys of records that are no curves."""


def write_events(runs: Sequence[tuple[RunFolder, SearchSpace]], logs: Path) -> None:
    """Write the history of each run as a folder of event files with the run's name.

    Every number of a record becomes a scalar such as `search/loss`, and every option's probability
    a scalar such as `normal/0>2/skip_connect`.

    Args:
        runs: folder and search space of each run.
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
    read = [(Run.read(folder), space) for folder, space in runs]
    targets = [logs / name for name in distinct_names([folder for folder, _ in runs])]
    for target in targets:
        if target.exists():
            raise InputError(
                "the folder exists already",
                where=str(target),
                mend="remove it or choose another folder",
            )
    for target, (run, space) in zip(targets, read, strict=True):
        with SummaryWriter(str(target)) as writer:
            _write_scalars(run, writer)
            _write_probabilities(run, space, writer)


def _write_scalars(run: Run, writer: SummaryWriter) -> None:
    for record in run.history:
        step = number_at(record, "step")
        if step is None:
            continue
        for key in record.keys() - NO_SCALARS:
            value = number_at(record, key)
            if value is not None:
                writer.add_scalar(printable(f"{record['event']}/{key}"), value, int(step))


def _write_probabilities(run: Run, space: SearchSpace, writer: SummaryWriter) -> None:
    steps, shares = run.trajectory(space.choices)
    for step, table in zip(steps, shares, strict=True):
        for choice, row in zip(space.choices, table, strict=True):
            for option, share in zip(choice.options, row, strict=False):
                tag = printable(f"{choice.name}/{option}")
                writer.add_scalar(tag, float(share), int(step))
