"""Augmentation of sounds, signals, rows of tables and texts, whose targets stay as they are.

Shapes: N samples, C channels, H bands, T times, L tokens. Numbers are normalised, so that zero is
the mean of the training data and one is a standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hwnas.data.augmentation.images import draw, randint


def masked(samples: Tensor, dim: int, widest: int, rng: np.random.Generator) -> Tensor:
    """Set an interval of random width and place to zero, in all channels.

    Park et al., "SpecAugment", Interspeech 2019 (arXiv 1904.08779), section 2: one time mask or one
    frequency mask.

    Args:
        samples: (N, C, H, T).
        dim: 2 for frequencies, 3 for times.
        widest: largest width of the interval.
        rng: source of the random numbers.
    """
    count, size = len(samples), samples.shape[dim]
    width = randint(rng, widest + 1, count, samples)
    start = (draw(rng, 0, 1, count, samples) * (size - width + 1)).floor()
    place = torch.arange(size, device=samples.device)
    hole = (place >= start[:, None]) & (place < (start + width)[:, None])
    return samples * ~(hole[:, None, :, None] if dim == 2 else hole[:, None, None, :])


def shifted(samples: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Move samples (N, C, H, T) by up to `most` times; the first or last value fills the gap."""
    count, size = len(samples), samples.shape[3]
    moves = randint(rng, 2 * most + 1, count, samples) - most
    source = (torch.arange(size, device=samples.device) - moves[:, None]).clamp(0, size - 1)
    return samples.gather(3, source[:, None, None].expand(samples.shape))


def noisy(samples: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """Add normally distributed noise."""
    noise = rng.standard_normal(tuple(samples.shape), np.float32)
    return samples + deviation * torch.from_numpy(noise).to(samples)


def with_dropped_tokens(
    tokens: Tensor,
    probability: float,
    unknown: int,
    kept: Sequence[int],
    rng: np.random.Generator,
) -> Tensor:
    """Replace each token (N, L) with a probability by that of an unknown word.

    Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", ACL
    2015, section 2.2 (word dropout), with the unknown word in place of none.

    Args:
        tokens: (N, L) int64.
        probability: of each token to be replaced.
        unknown: the token of unknown words.
        kept: tokens that stay, such as the one that fills short texts.
        rng: source of the random numbers.
    """
    is_dropped = torch.from_numpy(rng.random(tuple(tokens.shape)) < probability).to(tokens.device)
    for token in kept:
        is_dropped &= tokens != token
    return torch.where(is_dropped, torch.full_like(tokens, unknown), tokens)
