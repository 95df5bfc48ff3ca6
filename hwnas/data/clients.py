"""Division of samples among clients of a federated search, equally or by classes that differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.data.dataset import Split
from hwnas.data.formats import seeded_rng


def client_shares(
    clients: int, classes: int, skew: float | None, seed: int, draw: int = 0
) -> np.ndarray:
    """The share of each class that each client has, (classes, clients); rows sum to 1.

    Args:
        clients: their number.
        classes: number of classes.
        skew: concentration of the Dirichlet distribution that the shares of each class are drawn
            from (Hsu et al., arXiv 1909.06335): the smaller, the more do clients differ. All
            clients have the same shares if None.
        seed: of the drawing.
        draw: another number gives other shares.
    """
    if skew is None:
        return np.full((classes, clients), 1 / clients)
    return seeded_rng(seed, "clients", draw).dirichlet([skew] * clients, classes)


def divided(split: Split, shares: np.ndarray, seed: int) -> list[Split]:
    """The samples of each client; each sample has one client.

    Args:
        split: all samples.
        shares: (classes, clients), see `client_shares`; one row where samples have no classes.
        seed: decides which sample of a class goes to which client.
    """
    labels = np.zeros(len(split), np.int64) if len(shares) == 1 else split.targets
    rng = seeded_rng(seed, "division among clients")
    owned: list[list[np.ndarray]] = [[] for _ in range(shares.shape[1])]
    for label, row in enumerate(shares):
        found = rng.permutation(np.flatnonzero(labels == label))
        ends = (np.cumsum(row)[:-1] * len(found)).round().astype(int)
        for own, part in zip(owned, np.split(found, ends), strict=True):
            own.append(part)
    return [split.take(np.sort(np.concatenate(own))) for own in owned]


def fewest(parts: Sequence[Split]) -> int:
    """The number of samples of the client that has the fewest."""
    return min(len(part) for part in parts)
