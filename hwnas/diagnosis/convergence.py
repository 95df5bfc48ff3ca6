"""Whether a training had ended, and what its gradients were worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

LAST = 0.2
"""The share of a training that tells whether it had ended."""


@dataclass(frozen=True)
class GradientNoise:
    """The gradient of a loss over samples, and how much that of a batch differs from it.

    Attributes:
        norm: length of the mean gradient, estimated without the bias of its noise; loss / weight.
        variance: trace of the covariance of a single sample's gradient, in the square of that unit.
        scale: the simple noise scale variance / norm**2, in samples: batches much smaller than it
            see mostly noise, batches much larger waste samples. None where the norm is not told
            apart from 0.
        batches: number of batches it was estimated from.
    """

    norm: float
    variance: float
    scale: float | None
    batches: int


def gradient_noise(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    tensors: Sequence[Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> GradientNoise:
    """Estimate the mean gradient and its noise from the gradients of batches.

    McCandlish et al., "An Empirical Model of Large-Batch Training", 2018 (arXiv 1812.06162),
    appendix A.1: with n batches of B samples, the variance of their gradients times B is that of a
    sample, and the squared length of their mean is too large by variance / (n B). Costs a forward
    and a backward pass for each batch.

    Args:
        loss_of: maps inputs and targets to the mean loss of a batch.
        tensors: leaves that require gradients.
        batches: two or more, of equal size.
    """
    tensors = [tensor for tensor in tensors if tensor.requires_grad]
    total, squares, count, size = torch.zeros(0), 0.0, 0, 1
    for inputs, targets in batches:
        found = torch.autograd.grad(loss_of(inputs, targets), tensors, allow_unused=True)
        gradient = torch.cat([g.reshape(-1).double() for g in found if g is not None])
        total = gradient if count == 0 else total + gradient
        squares += float(gradient @ gradient)
        count, size = count + 1, len(inputs)
    mean_square = float((total / count) @ (total / count))
    variance = size * (squares - count * mean_square) / (count - 1)
    norm_square = mean_square - variance / (size * count)
    norm = math.sqrt(max(norm_square, 0.0))
    return GradientNoise(norm, variance, variance / norm_square if norm_square > 0 else None, count)


def effective_learning_rates(network: nn.Module, learning_rate: float) -> dict[str, float]:
    """Return the effective learning rate of each weight that a batch norm normalises.

    Scaling such a weight does not change the network, so only the direction of a step counts: the
    rate is `learning_rate / |w|**2` (van Laarhoven, "L2 Regularization versus Batch and Weight
    Normalization", 2017, arXiv 1706.05350; Zhang et al., "Three Mechanisms of Weight Decay
    Regularization", ICLR 2019, arXiv 1810.12281). In 1 / loss, since it multiplies the gradient at
    `|w| = 1`.

    Args:
        network: whose convolutions are followed by batch norms in sequences of modules.
        learning_rate: of the optimiser.

    Returns:
        The rates by the names of the convolutions.
    """
    found = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        parts = list(module.named_children())
        for (key, layer), (_, following) in itertools.pairwise(parts):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                square = float(layer.weight.detach().double().square().sum())
                path = f"{name}.{key}" if name else key
                found[path] = learning_rate / max(square, 1e-30)
    return found


@dataclass(frozen=True)
class Trend:
    """The straight line through the last records of a loss.

    Attributes:
        slope: change of the loss over the whole training at this pace; loss / training.
        error: standard error of the slope.
        records: number of records.
    """

    slope: float
    error: float
    records: int

    @property
    def has_ended(self) -> bool:
        """Whether the loss no longer fell: its slope is not below 0 by two standard errors."""
        return self.slope > -2 * self.error


def last_trend(
    steps: Sequence[float], losses: Sequence[float], share: float = LAST
) -> Trend | None:
    """Fit a line to the last part of a training by least squares.

    Neighbouring records are taken to be independent. With a learning rate that falls to zero a
    training ends in any case; then the slope says that, not that the network could not be better.

    Args:
        steps: (n,) in increasing order.
        losses: (n,).
        share: of the training that is looked at.

    Returns:
        The trend, or None for fewer than four records.
    """
    x, y = np.asarray(steps, dtype=float), np.asarray(losses, dtype=float)
    if len(x) == 0 or x[-1] <= 0:
        return None
    x = x / x[-1]
    is_last = x >= 1 - share
    x, y = x[is_last], y[is_last]
    if len(x) < 4:
        return None
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residuals = y - y.mean() - slope * centred
    error = math.sqrt(float(residuals @ residuals) / (len(x) - 2) / float(centred @ centred))
    return Trend(slope, error, len(x))
