"""Training a run's network further on other samples."""

from __future__ import annotations

import copy
from itertools import count
from pathlib import Path

import numpy as np

from hwnas.data import Dataset, Split
from hwnas.data.inputs import joined
from hwnas.data.own_data import Samples, arrays_of
from hwnas.durable import write_atomic
from hwnas.errors import InputError, printable
from hwnas.inference.description import Description
from hwnas.inference.inputs import raw_inputs, raw_several
from hwnas.pipeline.check import check
from hwnas.pipeline.export import export
from hwnas.pipeline.report import report
from hwnas.pipeline.run import Run
from hwnas.pipeline.train import train
from hwnas.runs.progress import Stage
from hwnas.runs.run_folder import RunFolder

SMALLER_STEPS = 0.1
"""The learning rate, relative to that of the run."""


def fine_tune(
    run: Run,
    model: Description,
    data: Samples | Dataset,
    *,
    epochs: int,
    learning_rate: float | None,
    out: Path | None,
    stage: Stage,
) -> Run:
    """Train a run's network further, then export, check and report it in a new run folder.

    Inputs are normalised as in the run, so that the network sees what it knows.

    Args:
        run: is finished.
        model: describes the exported model.
        data: the samples; their classes by name or as indices.
        epochs: at least 1.
        learning_rate: at the start; a tenth of the run's if None.
        out: the new folder; the next free one beside the run's if None.
        stage: shows progress.

    Returns:
        The new run.

    Raises:
        InputError: samples that do not fit the model, or a folder that holds something.
    """
    if epochs < 1:
        raise InputError("no training", where="epochs", expected=">= 1", actual=epochs)
    split = _split_of(data, model)
    settings = {
        "epochs": epochs,
        "inherit": True,
        "auxiliary_weight": 0.0,
        "learning_rate": learning_rate or SMALLER_STEPS * run.config.train.learning_rate,
        "batch_size": min(run.config.train.batch_size, len(split)),
    }
    training = run.config.train.model_copy(update=settings)
    config = run.config.model_copy(update={"train": training, "controls": 0})
    folder = RunFolder(out or _free_folder(run.folder.path))
    if folder.path.exists() and any(folder.path.iterdir()):
        raise InputError(
            "the folder holds something already", where=str(folder.path), mend="choose another"
        )
    tuned = Run(config, folder, stage, given=copy.copy(run.given))
    tuned.problem.dataset = run.problem.dataset.with_training(split)
    folder.create()
    try:
        tuned.start_member(run)
        for source, target in (
            (run.folder.architecture, folder.architecture),
            (run.folder.weights, folder.inherited),
        ):
            write_atomic(target, source.read_bytes())
        if run.folder.formats.exists():
            write_atomic(folder.formats, run.folder.formats.read_bytes())
        train(tuned)
        export(tuned)
        check(tuned)
        report(folder.path)
    except BaseException:  # also KeyboardInterrupt: nothing half-written is left
        folder.remove()
        raise
    return tuned


def _free_folder(path: Path) -> Path:
    names = (path.with_name(f"{path.resolve().name}-tuned-{n:03d}") for n in count(1))
    return next(name for name in names if not name.exists())


def _split_of(data: Samples | Dataset, model: Description) -> Split:
    """The samples with their targets as the task has them."""
    if isinstance(data, Dataset):
        if data.task != model.task or data.classes != model.classes:
            raise InputError(
                "the data are of another task, or have other classes",
                where=data.name,
                expected=f"{model.task}, {len(model.classes)} classes as in the run",
                actual=f"{data.task}, {len(data.classes)} classes",
            )
        return data.train
    inputs, targets, _ = arrays_of(data, "data")
    if not model.several and len(inputs) != len(targets):
        raise InputError(
            "not one target for each sample",
            where="data",
            expected=len(inputs),
            actual=len(targets),
        )
    raw = joined(raw_several(inputs, model)) if model.several else raw_inputs(inputs, model)
    return Split(raw, _targets(targets, model))


def _targets(targets: np.ndarray, model: Description) -> np.ndarray:
    if model.task == "regression":
        return targets.reshape(len(targets), 1).astype(np.float32)
    if model.task == "detection":
        return targets.astype(np.float32)
    if targets.dtype.kind in "UO":
        index = {name: place for place, name in enumerate(model.classes)}
        unknown = sorted({str(name) for name in targets.ravel()} - set(index))
        if unknown:
            raise InputError(
                "a class that the model does not know",
                where="data",
                expected=printable(", ".join(model.classes), 200),
                actual=printable(unknown[0], 40),
            )
        found = [index[str(name)] for name in targets.ravel()]
        return np.array(found, np.int64).reshape(targets.shape)
    return targets.astype(np.int64)
