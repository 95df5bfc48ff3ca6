"""Learning rates as functions of the share of steps done."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float, *, warmup: float = 0.0) -> float:
    """Linear warm-up over the first share of steps, then half a cosine from start to end.

    Args:
        start: rate after the warm-up.
        end: rate at progress 1.
        progress: share of steps done, 0 to 1.
        warmup: share of steps of the warm-up; 0 for none.
    """
    if progress < warmup:
        return start * max(progress, 1e-3) / warmup
    after = (progress - warmup) / (1 - warmup)
    return end + (start - end) * (1 + math.cos(math.pi * after)) / 2
