"""Learning rate schedules as functions of the training progress."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float, *, warmup: float = 0.0) -> float:
    """Return the learning rate of a linear warm-up followed by cosine annealing.

    Cosine annealing: Loshchilov & Hutter, "SGDR", ICLR 2017 (arXiv 1608.03983), eq. 5, without
    restarts.

    Args:
        start: learning rate at the end of the warm-up.
        end: learning rate at progress 1.
        progress: fraction of the steps that are done, 0 to 1.
        warmup: fraction of the steps that are warm-up; 0 for none.
    """
    if progress < warmup:
        return start * max(progress, 1e-3) / warmup
    after = (progress - warmup) / (1 - warmup)
    return end + (start - end) * (1 + math.cos(math.pi * after)) / 2
