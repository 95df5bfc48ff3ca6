"""The stage that measures what theory says of a trained network, and of the search that found it.

Writes `diagnosis.json`, which the report's chapter reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from hwnas.data import Split
from hwnas.data.inputs import parts_of
from hwnas.deploy.fold import fold_batch_norms
from hwnas.deploy.plain import plain_module
from hwnas.diagnosis.convergence import effective_learning_rates, gradient_noise, last_trend
from hwnas.diagnosis.measures import (
    Trained,
    curvature_measures,
    generalisation_measures,
    lipschitz_measures,
)
from hwnas.errors import InputError
from hwnas.pipeline.run import Run
from hwnas.pipeline.search import finished_search
from hwnas.reporting.run_files import Run as RunFiles
from hwnas.runs import interruption
from hwnas.supernet.hypergradient import hypergradient
from hwnas.tasks.classification import ImageClassification

SCHEMA = 1
SAMPLES = 256
"""Training samples on which the measures are taken."""
NOISE_BATCHES = 8
"""Batches from which the noise of the gradient is estimated."""


def diagnose(run: Run) -> dict[str, Any]:
    """Measure a run's trained network and its search, and write `diagnosis.json`.

    What does not apply, such as margins of a regression, is None; what is not known is named in
    `notes`.

    Args:
        run: has trained weights.

    Returns:
        The content of the file.

    Raises:
        InputError: when the weights are missing, or the network has several inputs.
        Interrupted: after a signal; nothing is written.
    """
    started = time.monotonic()
    run.folder.require(run.folder.weights)
    notes: list[str] = []
    trained, part = _trained(run, notes)
    is_float = trained.inputs.is_floating_point()
    if not is_float:
        notes.append("Inputs are tokens, so there are no Lipschitz bounds.")
    is_classifier = isinstance(run.problem.task, ImageClassification)
    steps: dict[str, Callable[[], dict[str, Any] | None]] = {
        "lipschitz": lambda: lipschitz_measures(trained) if is_float else None,
        "curvature": lambda: curvature_measures(trained),
        "convergence": lambda: _convergence(run, trained, part),
        "generalisation": lambda: generalisation_measures(trained) if is_classifier else None,
        "search": lambda: _search(run, notes),
    }
    document: dict[str, Any] = {"schema": SCHEMA}
    with run.stage("diagnose") as advance:
        for done, (name, measure) in enumerate(steps.items(), start=1):
            interruption.stop_if_requested()
            document[name] = measure()
            advance(done, len(steps), name)
    document |= {"notes": notes, "seconds": round(time.monotonic() - started, 1)}
    run.folder.write_json(run.folder.diagnosis, document)
    return document


def _trained(run: Run, notes: list[str]) -> tuple[Trained, Split]:
    """The trained network, and random training samples of which the first ones are measured."""
    dataset = run.problem.dataset
    if run.problem.task.head == "image":
        raise InputError(
            "generators cannot be diagnosed: the encoder of their training is not kept",
            where=run.where,
            expected="a network with a loss of its own outputs",
            actual=run.problem.task.name,
        )
    size = min(SAMPLES, len(dataset.train))
    order = np.random.default_rng(run.seed("diagnosis")).permutation(len(dataset.train))
    needed = max(size, NOISE_BATCHES * run.config.train.batch_size)
    part = dataset.train.take(order[:needed])
    inputs = dataset.normalise(part.inputs[:size])
    if isinstance(inputs, tuple):
        raise InputError("networks with several inputs cannot be diagnosed", where=run.where)
    network = run.trained_network().requires_grad_()
    folded = plain_module(fold_batch_norms(network))
    assert isinstance(folded, fx.GraphModule)
    found = Trained(
        network,
        folded,
        _initial(run, notes),
        run.problem.task.loss,
        inputs,
        torch.from_numpy(part.targets[:size]),
        len(dataset.train),
    )
    return found, part


def _initial(run: Run, notes: list[str]) -> dict[str, Tensor]:
    """The weights before training; none, with a note, where they depend on the data."""
    if run.config.train.inherit or not run.problem.has_data:
        notes.append(
            "Training did not begin with random weights, so there is no PAC-Bayes bound: its prior "
            "may not depend on the data."
        )
        return {}
    torch.manual_seed(run.seed("network"))
    network: nn.Module = run.problem.space.network(run.architecture())
    return network.state_dict()


def _convergence(run: Run, trained: Trained, part: Split) -> dict[str, Any]:
    """Gradient and noise at the final weights, effective learning rates, and the loss's trend."""
    config, dataset = run.recipe, run.problem.dataset
    size = max(2, min(config.batch_size, len(part) // NOISE_BATCHES))

    def batch(place: int) -> tuple[Tensor, Tensor]:
        where = slice(place * size, (place + 1) * size)
        (inputs,) = parts_of(dataset.normalise(part.inputs[where]))
        return inputs, torch.from_numpy(part.targets[where])

    noise = gradient_noise(
        lambda inputs, targets: trained.loss_of(trained.network(inputs), targets),
        list(trained.network.parameters()),
        [batch(place) for place in range(min(NOISE_BATCHES, len(part) // size))],
    )
    rates = effective_learning_rates(trained.network, config.learning_rate)
    series = RunFiles.read(run.folder).series("train", "loss", "training")
    trend = last_trend(series.x, series.y)
    return {
        "noise": asdict(noise),
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "effective_rate": median(rates.values()) if rates else None,
        "normalised_layers": len(rates),
        "trend": None if trend is None else asdict(trend) | {"has_ended": trend.has_ended},
    }


def _search(run: Run, notes: list[str]) -> dict[str, Any] | None:
    """The hypergradient of a differentiable search; None, with a note, for others."""
    try:
        searched = finished_search(run)
        if searched.loop is None:
            return None
        found = asdict(hypergradient(searched.loop))
    except InputError as error:
        notes.append(f"The search is left out: {error}.")
        return None
    eigenvalues = RunFiles.read(run.folder).series("search", "eigenvalue", "eigenvalue")
    return found | {"eigenvalues": [eigenvalues.x, eigenvalues.y]}
