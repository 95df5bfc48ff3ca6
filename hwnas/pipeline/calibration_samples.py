"""The training samples from which quantisation takes the ranges of values."""

from __future__ import annotations

import numpy as np

from hwnas.checking.outputs import Feeds
from hwnas.data.inputs import named_inputs, parts_of
from hwnas.pipeline.run import Run

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 32


def calibration_feeds(run: Run) -> list[Feeds]:
    """Batches of training samples, drawn by the run's seed."""
    dataset = run.problem.dataset
    count = min(CALIBRATION_IMAGES, len(dataset.train))
    rng = np.random.default_rng(run.seed("calibration"))
    chosen = dataset.train.inputs[rng.choice(len(dataset.train), count, replace=False)]
    is_raw = run.problem.preprocessing is not None
    names = [one.name for one in named_inputs(dataset.reads, run.problem.task.input_name)]
    tensors = () if is_raw else parts_of(dataset.normalise(chosen))
    inputs = [chosen] if is_raw else [x.numpy() for x in tensors]
    return [
        {n: x[start : start + CALIBRATION_BATCH] for n, x in zip(names, inputs, strict=True)}
        for start in range(0, count, CALIBRATION_BATCH)
    ]
