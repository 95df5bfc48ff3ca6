"""How good a mixture is, judged with the supernet's shared weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.limit import Limit, largest_ratio
from hwnas.budget.objectives import dual
from hwnas.nn.mixed_op import MixedBlocks, MixedCell
from hwnas.runs import interruption
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.networks import Supernet
from hwnas.strategies.base import Outcome
from hwnas.tasks import Loss

Batch = tuple[Tensor, Tensor]
"""Inputs and targets."""
Score = Callable[[Iterable[Batch]], float]
"""Of batches of outputs and targets, the higher the better."""


def evaluate_mixture(
    supernet: Supernet,
    limits: Sequence[Limit],
    mixture: Mixture,
    batch: Batch,
    *,
    multiplier: float,
    with_gradient: bool,
    loss_of: Loss = F.cross_entropy,
) -> Outcome:
    """The first-order objective on a validation batch, and its gradient by the mixing weights.

    Weights of the supernet get no gradient. The first-order approximation is that of DARTS,
    section 2.3: the weights at hand stand for the optimal ones.
    """
    inputs, targets = batch
    with torch.set_grad_enabled(with_gradient), frozen(supernet):
        weights = mixture.weights.detach().requires_grad_(with_gradient)
        attached = Mixture(weights.to(inputs.device), mixture.active)
        loss = loss_of(supernet(inputs, attached), targets)
        ratio = largest_ratio(limits, Mixture(weights))
        objective = dual(loss, ratio.to(loss), multiplier)
        gradient = torch.autograd.grad(objective, weights)[0] if with_gradient else None
    return Outcome(objective.item(), loss.item(), ratio.item(), gradient)


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """Inside, the parameters need no gradient: kernels leave out the work for them."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def recalibrate(supernet: Supernet, mixture: Mixture, batches: Iterable[Batch]) -> None:
    """Replace the running statistics by those of one mixture, averaged over batches.

    A supernet's own statistics are those of the mixtures it was trained with; a single path has
    others (Guo et al., "Single Path One-Shot NAS", ECCV 2020, section 3.4). Without batch norms
    there is nothing to do.
    """
    modules = [
        module
        for module in supernet.modules()
        if isinstance(module, torch.nn.BatchNorm2d | MixedCell | MixedBlocks)
    ]
    if not modules:
        return
    training = supernet.training
    supernet.train()
    with torch.no_grad():
        for index, (inputs, _) in enumerate(batches):
            # A cumulative average: the first batch replaces what was there.
            for module in modules:
                module.momentum = 1.0 / (index + 1)
            supernet(inputs, mixture)
    for module in modules:
        module.momentum = 0.1
    supernet.train(training)


@torch.no_grad()
def score_mixture(
    supernet: Supernet, mixture: Mixture, batches: Iterable[Batch], score: Score
) -> float:
    """The score of a mixture's outputs with the running statistics."""
    training = supernet.training
    supernet.eval()
    found = score((supernet(inputs, mixture), targets) for inputs, targets in batches)
    supernet.train(training)
    return found


def rank_architectures(
    space: SearchSpace,
    supernet: Supernet,
    architectures: Sequence[Architecture],
    *,
    recalibration: Sequence[Batch],
    validation: Sequence[Batch],
    score: Score,
) -> list[float]:
    """Validation score of each architecture with the supernet's weights.

    The running statistics are those of the last architecture afterwards.
    """
    device = validation[0][0].device
    scores = []
    for architecture in architectures:
        interruption.stop_if_requested()
        mixture = space.one_hot(architecture).to(device)
        recalibrate(supernet, mixture, recalibration)
        scores.append(score_mixture(supernet, mixture, validation, score))
    return scores
