"""The clients of a run's federated search."""

from __future__ import annotations

import numpy as np

from hwnas.config import SearchConfig
from hwnas.data import Split
from hwnas.data.clients import client_shares, divided, fewest
from hwnas.errors import InputError
from hwnas.pipeline.run import Run
from hwnas.supernet.federated import Client

DRAWS = 100
"""How often shares of the classes are drawn before a client counts as too small."""


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
    classes = 1 if config.client_skew is None else len(dataset.classes)
    halves = _halves(training, validation, classes, config, run.seed("clients"))
    total = len(training) + len(validation)
    return [
        Client(
            run.batches(own, config.batch_size, f"search training of client {number}"),
            run.batches(judged, config.batch_size, f"search validation of client {number}"),
            (len(own) + len(judged)) / total,
        )
        for number, (own, judged) in enumerate(zip(*halves, strict=True), start=1)
    ]


def _halves(
    training: Split, validation: Split, classes: int, config: SearchConfig, seed: int
) -> list[list[Split]]:
    """Each client's samples for the weights, and those for the architecture.

    Shares are drawn again while a client would have less than a batch, as by Li et al., "Federated
    Learning on Non-IID Data Silos", ICDE 2022 (arXiv 2102.02079).
    """
    for draw in range(DRAWS if config.client_skew is not None else 1):
        shares = client_shares(config.clients, classes, config.client_skew, seed, draw)
        halves = [divided(split, shares, seed) for split in (training, validation)]
        least = min(fewest(parts) for parts in halves)
        if least >= config.batch_size:
            return halves
    mend = "state fewer search.clients or a smaller search.batch_size"
    raise InputError(
        "a client has fewer samples than a batch",
        where="search.clients",
        expected=f"at least {config.batch_size} for the weights and for the architecture",
        actual=least,
        mend=mend if config.client_skew is None else f"{mend}, or a larger search.client_skew",
    )
