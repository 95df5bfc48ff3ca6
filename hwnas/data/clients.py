"""Division of samples among clients of a federated search, equally or by classes that differ."""

from __future__ import annotations

import numpy as np

from hwnas.data.dataset import Split
from hwnas.data.formats import seeded_rng
from hwnas.errors import InputError


def client_shares(clients: int, classes: int, skew: float | None, seed: int) -> np.ndarray:
    """The share of each class that each client has, (classes, clients); rows sum to 1.

    Args:
        clients: their number.
        classes: number of classes.
        skew: concentration of the Dirichlet distribution that the shares of each class are drawn
            from (Hsu et al., arXiv 1909.06335): the smaller, the more do clients differ. All
            clients have the same shares if None.
        seed: of the drawing.
    """
    if skew is None:
        return np.full((classes, clients), 1 / clients)
    return seeded_rng(seed, "clients").dirichlet([skew] * clients, classes)


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


def require_batches(parts: list[Split], batch_size: int, mend: str) -> None:
    """Raise InputError for a client that has fewer samples than a batch.

    Args:
        parts: the samples of each client.
        batch_size: samples in a batch.
        mend: what helps.
    """
    for number, part in enumerate(parts, start=1):
        if len(part) < batch_size:
            raise InputError(
                "a client has fewer samples than a batch",
                where=f"client {number} of {len(parts)}",
                expected=f"at least {batch_size}",
                actual=len(part),
                mend=mend,
            )
