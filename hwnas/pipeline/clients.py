"""The clients of a run's federated search."""

from __future__ import annotations

import numpy as np

from hwnas.data import Split
from hwnas.data.clients import client_shares, divided, require_batches
from hwnas.errors import InputError
from hwnas.pipeline.run import Run
from hwnas.supernet.federated import Client


def federated_clients(run: Run, training: Split, validation: Split) -> list[Client]:
    """Divide a run's samples among its clients.

    Args:
        run: states the number of clients and how they differ.
        training: all samples for the weights.
        validation: all samples for the architecture; a client has the same shares of the classes in
            both.

    Raises:
        InputError: when a client has fewer samples than a batch, or `search.client_skew` is stated
            for samples that have no classes.
    """
    config, dataset = run.config.search, run.problem.dataset
    has_classes = training.targets.ndim == 1 and np.issubdtype(training.targets.dtype, np.integer)
    if config.client_skew is not None and not has_classes:
        raise InputError(
            "the samples have no classes that clients could have different shares of",
            where="search.client_skew",
            expected="one class for each sample",
            actual=f"the task {dataset.task}",
            mend="leave it out",
        )
    seed = run.seed("clients")
    classes = len(dataset.classes) if has_classes else 1
    shares = client_shares(config.clients, classes, config.client_skew, seed)
    halves = [divided(split, shares, seed) for split in (training, validation)]
    mend = "state fewer search.clients or a smaller search.batch_size"
    if config.client_skew is not None:
        mend += ", or a larger search.client_skew"
    for parts in halves:
        require_batches(parts, config.batch_size, mend)
    total = len(training) + len(validation)
    return [
        Client(
            run.batches(own, config.batch_size, f"search training of client {number}"),
            run.batches(judged, config.batch_size, f"search validation of client {number}"),
            (len(own) + len(judged)) / total,
        )
        for number, (own, judged) in enumerate(zip(*halves, strict=True), start=1)
    ]
