"""Evaluation of mixtures and architectures with the supernet's shared weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.limit import Limit, largest_ratio
from hwnas.budget.objectives import dual
from hwnas.data.inputs import InputTensors
from hwnas.nn.mixed_op import MixedBlocks, MixedCell
from hwnas.runs import interruption
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.networks import Supernet
from hwnas.strategies.base import Outcome
from hwnas.tasks import Loss

Batch = tuple[InputTensors, Tensor]
"""Inputs and targets."""
Penalty = Callable[[Tensor], Tensor]
"""Maps mixing weights (choices, max_options) to a scalar."""
Score = Callable[[Iterable[tuple[Tensor, Tensor]]], float]
"""Maps batches of outputs and targets to a score; higher is better."""
LossAt = Callable[[Batch, Mixture], Tensor]
"""The loss of a mixture on a batch; differentiable by the mixing weights."""


def evaluate_mixture(
    supernet: Supernet,
    limits: Sequence[Limit],
    mixture: Mixture,
    batch: Batch,
    *,
    multiplier: float,
    with_gradient: bool,
    loss_of: Loss = F.cross_entropy,
    penalty: Penalty | None = None,
    loss_at: LossAt | None = None,
) -> Outcome:
    """Evaluate the objective of a mixture on a validation batch.

    This is the first-order approximation of DARTS (Liu et al., ICLR 2019, section 2.3): the
    current weights are used in place of the optimal ones. The weights receive no gradient.

    Args:
        supernet: the weight-sharing network.
        limits: the latency budgets.
        mixture: the mixture to evaluate.
        batch: inputs and targets.
        multiplier: Lagrange multiplier of the latency constraint.
        with_gradient: also compute the gradient with respect to the mixing weights.
        loss_of: maps outputs and targets to the loss.
        penalty: maps mixing weights to what is added to the objective; differentiable.
        loss_at: computes the loss in place of `supernet` and `loss_of`.
    """
    inputs, targets = batch
    with torch.set_grad_enabled(with_gradient), frozen(supernet):
        weights = mixture.weights.detach().requires_grad_(with_gradient)
        attached = Mixture(weights.to(targets.device), mixture.active)
        if loss_at is None:
            loss = loss_of(supernet(inputs, attached), targets)
        else:
            loss = loss_at(batch, attached)
        ratio = largest_ratio(limits, Mixture(weights))
        objective = dual(loss, ratio.to(loss), multiplier)
        if penalty is not None:
            objective = objective + penalty(weights).to(objective)
        gradient = torch.autograd.grad(objective, weights)[0] if with_gradient else None
    return Outcome(objective.item(), loss.item(), ratio.item(), gradient)


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """Disable the parameters' gradients inside the block, so that kernels do not compute them."""
    # `module.parameters()` makes the name of each, which takes longer than a small cell.
    modules: list[torch.nn.Module | None] = [module]
    found: list[torch.nn.Parameter | None] = []
    for part in modules:
        if part is not None:
            modules += part._modules.values()
            found += part._parameters.values()
    parameters = [p for p in found if p is not None and p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def recalibrate(supernet: Supernet, mixture: Mixture, batches: Iterable[Batch]) -> None:
    """Replace the batch norms' running statistics by those of one mixture.

    After training, the statistics are those of the mixtures that were trained, which differ from
    those of a single path (Guo et al., "Single Path One-Shot NAS", ECCV 2020, section 3.4).

    Args:
        supernet: the weight-sharing network.
        mixture: the mixture, usually one-hot.
        batches: the batches over which the statistics are averaged.
    """
    modules = [
        module
        for module in supernet.modules()
        if isinstance(module, _BatchNorm | MixedCell | MixedBlocks)
    ]
    if not modules:
        return
    momenta = [module.momentum for module in modules]
    with mode(supernet, training=True), torch.no_grad():
        for index, (inputs, _) in enumerate(batches):
            # Momentum 1 / n gives the cumulative average; the first batch replaces old values.
            for module in modules:
                module.momentum = 1.0 / (index + 1)
            supernet(inputs, mixture)
    for module, momentum in zip(modules, momenta, strict=True):
        module.momentum = momentum


@contextmanager
def mode(module: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """Switch a module to training or evaluation mode inside the block, if it is not in it."""
    before = module.training
    if before == training:  # to tell all parts takes longer than a small network
        yield
        return
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


@torch.no_grad()
def score_mixture(
    supernet: Supernet, mixture: Mixture, batches: Iterable[Batch], score: Score
) -> float:
    """Return the score of a mixture in evaluation mode, with the current running statistics."""
    with mode(supernet, training=False):
        return score((supernet(inputs, mixture), targets) for inputs, targets in batches)


def rank_architectures(
    space: SearchSpace,
    supernet: Supernet,
    architectures: Sequence[Architecture],
    *,
    recalibration: Sequence[Batch],
    validation: Sequence[Batch],
    score: Score,
) -> list[float]:
    """Return the validation score of each architecture with the supernet's weights.

    Afterwards, the running statistics are those of the last architecture.

    Args:
        space: the search space.
        supernet: the weight-sharing network.
        architectures: the architectures to score.
        recalibration: batches for `recalibrate`.
        validation: batches for the score.
        score: maps batches of outputs and targets to a score.

    Raises:
        Interrupted: a signal was received.
    """
    mixtures = _recalibrated(space, supernet, architectures, recalibration, validation)
    return [score_mixture(supernet, mixture, validation, score) for mixture in mixtures]


def _recalibrated(
    space: SearchSpace,
    supernet: Supernet,
    architectures: Sequence[Architecture],
    recalibration: Sequence[Batch],
    validation: Sequence[Batch],
) -> Iterator[Mixture]:
    """Yield each architecture, on the samples' device, with the supernet recalibrated for it."""
    for architecture in architectures:
        interruption.stop_if_requested()
        mixture = space.one_hot(architecture).to(validation[0][1].device)
        recalibrate(supernet, mixture, recalibration)
        yield mixture


@torch.no_grad()
def score_blocks(
    space: SearchSpace,
    supernet: Supernet,
    architectures: Sequence[Architecture],
    *,
    recalibration: Sequence[Batch],
    validation: Sequence[Batch],
    score: Score,
    size: int,
) -> np.ndarray:
    """Return the scores of each architecture on blocks of validation samples.

    Differences of two architectures over the blocks have a standard error, which tells how far they
    depend on the samples. Arguments and errors are those of `rank_architectures`.

    Args:
        space: the search space.
        supernet: the weight-sharing network.
        architectures: the architectures to score.
        recalibration: batches for `recalibrate`.
        validation: batches for the score.
        score: maps batches of outputs and targets to a score.
        size: samples in a block, at most a batch; what is left of a batch is not scored.

    Returns:
        (architectures, blocks).
    """
    rows = []
    for mixture in _recalibrated(space, supernet, architectures, recalibration, validation):
        with mode(supernet, training=False):
            outputs = [(supernet(inputs, mixture), targets) for inputs, targets in validation]
        blocks = [
            (part, of_part)
            for found, targets in outputs
            for part, of_part in zip(
                torch.split(found, size), torch.split(targets, size), strict=True
            )
            if len(part) == size
        ]
        rows.append([score([block]) for block in blocks])
    return np.array(rows)
