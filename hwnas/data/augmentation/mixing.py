"""Pairs of samples mixed into one, with targets that are probabilities of classes.

Shapes: N samples, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Pairs = tuple[Tensor, Tensor]
"""Mixed samples, and the probabilities (N, K) of their classes."""


def mixed_up(
    samples: Tensor, targets: Tensor, classes: int, alpha: float, rng: np.random.Generator
) -> Pairs:
    """Mix each sample with another of the batch, by one share for the batch.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018 (arXiv 1710.09412), eq. 2.

    Args:
        samples: (N, ...) floats.
        targets: classes (N,).
        classes: number of classes K.
        alpha: both parameters of the Beta distribution of the share.
        rng: source of the random numbers.
    """
    share, partner = float(rng.beta(alpha, alpha)), _partners(samples, rng)
    mixed = share * samples + (1 - share) * samples[partner]
    return mixed, _probabilities(targets, partner, classes, share)


def cut_and_mixed(
    images: Tensor, targets: Tensor, classes: int, alpha: float, rng: np.random.Generator
) -> Pairs:
    """Replace a rectangle of each image by that of another image of the batch.

    Yun et al., "CutMix", ICCV 2019 (arXiv 1905.04899), section 3.1: one rectangle for the batch,
    and classes by the share of the pixels.

    Args:
        images: (N, C, H, W).
        targets: classes (N,).
        classes: number of classes K.
        alpha: both parameters of the Beta distribution of the share that stays.
        rng: source of the random numbers.
    """
    partner, (height, width) = _partners(images, rng), images.shape[2:]
    side = (1 - rng.beta(alpha, alpha)) ** 0.5
    bounds = []
    for length in (height, width):
        centre, half = rng.integers(length), round(side * length) / 2
        bounds.append((max(0, int(centre - half)), min(length, int(centre + half))))
    (top, bottom), (left, right) = bounds
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, _probabilities(targets, partner, classes, share)


def _partners(samples: Tensor, rng: np.random.Generator) -> Tensor:
    """The index (N,) of the sample that each one is mixed with."""
    return torch.from_numpy(rng.permutation(len(samples))).to(samples.device)


def _probabilities(targets: Tensor, partner: Tensor, classes: int, share: float) -> Tensor:
    one_hot = F.one_hot(targets, classes).float()
    return share * one_hot + (1 - share) * one_hot[partner]
