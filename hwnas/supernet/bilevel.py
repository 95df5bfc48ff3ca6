"""The second-order gradient of DARTS (Liu et al., ICLR 2019, arXiv 1806.09055, eqs. 7 and 8).

With the weights unrolled by one step, w' = w - xi dL_train/dw, the gradient of the validation loss
with respect to the mixing weights m is

    dL_val(w', m)/dm - xi [dL_train(w+, m)/dm - dL_train(w-, m)/dm] / (2 eps),

where w+- = w +- eps dL_val(w', m)/dw' and eps = 0.01 / ||dL_val(w', m)/dw'||.

If several processes search together, each computes its losses on its own part of the batches, and
L is their mean. Gradients with respect to the weights are therefore averaged over the processes
before the weights are moved along them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.budget.limit import Limit, largest_ratio
from hwnas.budget.objectives import dual
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.spaces.networks import Supernet
from hwnas.strategies.base import Outcome
from hwnas.supernet.evaluate import Batch
from hwnas.tasks import Loss

RELATIVE_STEP = 0.01
"""Norm of the step of the finite difference in eq. 8."""


def evaluate_mixture_second_order(
    supernet: Supernet,
    limits: Sequence[Limit],
    mixture: Mixture,
    training_batch: Batch,
    validation_batch: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    multiplier: float,
    ranks: Ranks = ALONE,
    loss_of: Loss = F.cross_entropy,
) -> Outcome:
    """Evaluate a mixture with the weights unrolled by one training step.

    The step is that of the optimiser, which must be SGD, with its learning rate, momentum and
    weight decay but without gradient clipping. Weights and running statistics are restored
    afterwards.

    Args:
        supernet: the weight-sharing network.
        limits: the latency budgets.
        mixture: the mixture to evaluate.
        training_batch: batch on which the weights are unrolled.
        validation_batch: batch on which the mixture is evaluated.
        optimizer: optimiser of the supernet's weights.
        multiplier: Lagrange multiplier of the latency constraint.
        ranks: the processes that search together; each passes its own part of the batches.
        loss_of: maps outputs and targets to the loss.

    Returns:
        The outcome on this process's part of the batches; the outcome of the search is the mean
        over all processes.
    """
    parameters = list(supernet.parameters())
    xi = optimizer.param_groups[0]["lr"]
    weights = mixture.weights.detach().requires_grad_()

    def loss_on(batch: Batch) -> Tensor:
        attached = Mixture(weights.to(batch[1].device), mixture.active)
        return loss_of(supernet(batch[0], attached), batch[1])

    with _restored(supernet) as origin:
        _unroll(parameters, loss_on(training_batch), optimizer, ranks)
        loss = loss_on(validation_batch)
        ratio = largest_ratio(limits, Mixture(weights))
        objective = dual(loss, ratio.to(loss), multiplier)
        gradient, *by_parameter = torch.autograd.grad(
            objective, [weights, *parameters], allow_unused=True
        )
        direction = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, by_parameter, strict=True)
        ]
        ranks.average(direction)
        gradient = gradient - _unrolling_term(
            parameters,
            origin,
            direction,
            xi,
            lambda: torch.autograd.grad(loss_on(training_batch), weights)[0],
        )
    return Outcome(objective.item(), loss.item(), ratio.item(), gradient)


@contextmanager
def _restored(supernet: Supernet) -> Iterator[list[Tensor]]:
    """Yield copies of the parameters; restore parameters and buffers at the end of the block."""
    parameters = list(supernet.parameters())
    saved = [p.detach().clone() for p in parameters]
    buffers = [(b, b.detach().clone()) for b in supernet.buffers()]
    try:
        yield saved
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)
            for buffer, value in buffers:
                buffer.copy_(value)


def _unrolling_term(
    parameters: Sequence[Tensor],
    origin: Sequence[Tensor],
    direction: Sequence[Tensor],
    xi: float,
    gradient: Callable[[], Tensor],
) -> Tensor:
    """Return the second term of eq. 7 by the finite difference of eq. 8.

    Args:
        parameters: parameters of the supernet, which are changed.
        origin: their values before the unrolled step.
        direction: gradient of the validation objective with respect to the unrolled parameters.
        xi: learning rate of the unrolled step.
        gradient: gradient of the training loss with respect to the mixing weights.
    """
    norm = torch.sqrt(sum((d.square().sum() for d in direction), start=torch.zeros(())))
    step = RELATIVE_STEP / float(norm.clamp_min(1e-12))
    sides = []
    for sign in (1.0, -1.0):
        _set(parameters, origin, direction, sign * step)
        sides.append(gradient())
    return xi * (sides[0] - sides[1]) / (2 * step)


def _unroll(
    parameters: Sequence[Tensor], loss: Tensor, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Take one step of SGD with momentum and weight decay; leave the optimiser's state as it is."""
    group = optimizer.param_groups[0]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    ranks.average([gradient for gradient in gradients if gradient is not None])
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            step = group["weight_decay"] * parameter
            if gradient is not None:
                step = step + gradient
            buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                step = step + group["momentum"] * buffer
            parameter.sub_(group["lr"] * step)


def _set(
    parameters: Sequence[Tensor], origin: Sequence[Tensor], vector: Sequence[Tensor], step: float
) -> None:
    """Set the parameters to origin + step * vector."""
    with torch.no_grad():
        for parameter, value, direction in zip(parameters, origin, vector, strict=True):
            parameter.copy_(value + step * direction)
