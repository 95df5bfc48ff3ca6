"""What can be added to the architecture's objective against collapse: smoothness as a goal.

Both penalties are differences of outputs, so their gradient with respect to the mixing weights
needs first derivatives alone, which the fused kernels have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.data.inputs import InputTensors, parts_of
from hwnas.spaces.networks import Supernet
from hwnas.supernet.evaluate import Batch, Penalty
from hwnas.tasks import Loss

STEP = 1e-2
"""Step of the differences, in units of normalised inputs or of mixing weights."""


def jacobian_norm(
    supernet: Supernet, weights: Tensor, batch: Batch, loss_of: Loss, generator: torch.Generator
) -> Tensor:
    """The squared Frobenius norm of the Jacobian of the outputs by the inputs, a mean over samples.

    Hoffman, Roberts & Yaida, "Robust Learning with Jacobian Regularization", 2019 (arXiv
    1908.02729), with one random direction v for each sample: |J v|^2 is an unbiased estimate, taken
    by a central difference. Inputs have to be real numbers. Costs two forward passes and their
    backward pass.

    Args:
        supernet: the weight-sharing network.
        weights: mixing weights (choices, max_options), differentiable.
        batch: inputs and targets.
        loss_of: ignored.
        generator: of the random directions.

    Returns:
        In units of the outputs for each unit of the normalised inputs, squared.
    """
    parts = parts_of(batch[0])
    directions = [torch.randn(part.shape, generator=generator).to(part) for part in parts]
    mixture = Mixture(weights.to(parts[0].device))

    def moved(step: float) -> InputTensors:
        found = tuple(part + step * v for part, v in zip(parts, directions, strict=True))
        return found if isinstance(batch[0], tuple) else found[0]

    ahead, behind = (supernet(moved(step), mixture) for step in (STEP, -STEP))
    slopes: Tensor = (ahead - behind).flatten(1) / (2 * STEP)
    return slopes.square().sum(dim=1).mean()


def curvature(
    supernet: Supernet, weights: Tensor, batch: Batch, loss_of: Loss, generator: torch.Generator
) -> Tensor:
    """The trace of the Hessian of the loss by the mixing weights.

    Random smoothing of the architecture (Chen & Hsieh, "Stabilizing Differentiable Architecture
    Search via Perturbation-based Regularization", ICML 2020, arXiv 2002.05283) penalises the same
    trace to second order. It is estimated by v^T H v with random signs v (Hutchinson, 1989), as a
    second difference. Costs three forward passes and their backward pass.

    Args:
        supernet: the weight-sharing network.
        weights: mixing weights (choices, max_options), differentiable.
        batch: inputs and targets.
        loss_of: maps outputs and targets to the loss.
        generator: of the random signs.

    Returns:
        In units of the loss.
    """
    inputs, targets = batch
    signs = (torch.randint(2, weights.shape, generator=generator) * 2 - 1).to(weights)
    # Options that a choice does not have weigh zero, and stay so.
    signs = signs * (weights.detach() != 0)

    def loss_at(offset: float) -> Tensor:
        moved = (weights + offset * signs).to(targets.device)
        return loss_of(supernet(inputs, Mixture(moved)), targets)

    return (loss_at(STEP) - 2 * loss_at(0.0) + loss_at(-STEP)) / STEP**2


Measure = Callable[[Supernet, Tensor, Batch, Loss, torch.Generator], Tensor]
PENALTIES: dict[str, Measure] = {"jacobian": jacobian_norm, "curvature": curvature}


def weighted_penalties(
    supernet: Supernet,
    weighted: Mapping[str, float],
    batch: Batch,
    loss_of: Loss,
    seed: int,
    step: int,
) -> Penalty:
    """The weighted sum of penalties on a batch, as a function of the mixing weights.

    Args:
        supernet: the weight-sharing network.
        weighted: weights by name, keys of `PENALTIES`.
        batch: inputs and targets.
        loss_of: maps outputs and targets to the loss.
        seed: of random directions.
        step: of the search, which decides the directions together with the seed.
    """
    seeds = np.random.SeedSequence([seed, step])

    def penalty(weights: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
        terms = [
            factor * PENALTIES[name](supernet, weights, batch, loss_of, generator)
            for name, factor in weighted.items()
        ]
        return torch.stack(terms).sum()

    return penalty
