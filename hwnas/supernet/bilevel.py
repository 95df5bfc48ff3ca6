"""The second-order gradient of DARTS (Liu et al., ICLR 2019, arXiv 1806.09055, eqs. 7 and 8).

The weights are unrolled by one step, w' = w - xi dL_train/dw, and the gradient of the validation
loss by the mixing weights m is

    dL_val(w', m)/dm - xi [dL_train(w+, m)/dm - dL_train(w-, m)/dm] / (2 eps),

with w+- = w +- eps dL_val(w', m)/dw' and eps = 0.01 / ||dL_val(w', m)/dw'||.

Of several processes each has losses of its own, on its part of the batches; L is their mean. So
both gradients by the weights are averaged before weights are moved along them.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Like `hwnas.supernet.evaluate.evaluate_mixture`, with the weights unrolled by one SGD step.

    The step is that of the optimiser, which is SGD, with its momentum and weight decay but
    unclipped. Weights and running statistics are what they were before, afterwards.

    With several processes the batches are this one's parts. All move their weights alike; what
    is returned is this process's own, whose mean over all of them is the outcome.
    """
    parameters = list(supernet.parameters())
    saved = [p.detach().clone() for p in parameters]
    buffers = [(b, b.detach().clone()) for b in supernet.buffers()]
    xi = optimizer.param_groups[0]["lr"]
    weights = mixture.weights.detach().requires_grad_()

    def loss_on(batch: Batch) -> Tensor:
        attached = Mixture(weights.to(batch[0].device), mixture.active)
        return loss_of(supernet(batch[0], attached), batch[1])

    try:
        _unroll(parameters, loss_on(training_batch), optimizer, ranks)
        loss = loss_on(validation_batch)
        ratio = largest_ratio(limits, Mixture(weights))
        objective = dual(loss, ratio.to(loss), multiplier)
        gradient, *direction = torch.autograd.grad(
            objective, [weights, *parameters], allow_unused=True
        )
        vector = [
            torch.zeros_like(p) if d is None else d
            for p, d in zip(parameters, direction, strict=True)
        ]
        ranks.average(vector)
        norm = torch.sqrt(sum((v.square().sum() for v in vector), start=torch.zeros(())))
        step = RELATIVE_STEP / float(norm.clamp_min(1e-12))
        sides = []
        for sign in (1.0, -1.0):
            _set(parameters, saved, vector, sign * step)
            sides.append(torch.autograd.grad(loss_on(training_batch), weights)[0])
        gradient = gradient - xi * (sides[0] - sides[1]) / (2 * step)
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)
            for buffer, value in buffers:
                buffer.copy_(value)
    return Outcome(objective.item(), loss.item(), ratio.item(), gradient)


def _unroll(
    parameters: Sequence[Tensor], loss: Tensor, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """One step of SGD with momentum and weight decay, without touching the optimiser's state."""
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
    with torch.no_grad():
        for parameter, value, direction in zip(parameters, origin, vector, strict=True):
            parameter.copy_(value + step * direction)
