"""A recommender: embeddings of users and things, and a network that says what will be liked.

Every user and every thing has three hidden traits. A thing is liked if the traits agree and if it
is popular; one rating in ten is a whim. A sample is a pair of tokens, a user and a thing, and test
pairs were never rated in training.

    python examples/recommender.py [FOLDER]
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hwnas
from hwnas.data import Dataset
from hwnas.nn import Choice, Repeat, Width

USERS, THINGS, TRAITS = 120, 80, 3
NAMES = tuple(f"user {k}" for k in range(USERS)) + tuple(f"thing {k}" for k in range(THINGS))


def ratings(count: int, seed: int = 0) -> Dataset:
    """Pairs (N, 2) of tokens and whether they are liked (N,); a fifth is for the test."""
    rng = np.random.default_rng(seed)
    users, things = rng.normal(size=(USERS, TRAITS)), rng.normal(size=(THINGS, TRAITS))
    likes = users @ things.T + rng.normal(size=THINGS) > 0
    pairs = rng.permutation(USERS * THINGS)[:count]
    user, thing = np.divmod(pairs, THINGS)
    liked = np.where(rng.random(len(pairs)) < 0.1, rng.random(len(pairs)) < 0.5, likes[user, thing])
    tokens, targets = np.stack([user, USERS + thing], axis=1), liked.astype(np.int64)
    train = len(pairs) * 4 // 5
    return hwnas.dataset_of(
        (tokens[:train], targets[:train]),
        (tokens[train:], targets[train:]),
        kind="tokens",
        classes=("no", "yes"),
        vocabulary=NAMES,
    )


class Product(nn.Module):
    """The products of both embeddings, (N, 2, C) to (N, C): a factorisation of the ratings."""

    def forward(self, pair: Tensor) -> Tensor:
        return pair[:, 0] * pair[:, 1]


class Difference(nn.Module):
    """How far the embeddings are apart in each channel, (N, 2, C) to (N, C)."""

    def forward(self, pair: Tensor) -> Tensor:
        return (pair[:, 0] - pair[:, 1]).abs()


class Joined(nn.Module):
    """A linear layer that reads both embeddings, (N, 2, C) to (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2 * channels, channels), nn.ReLU())

    def forward(self, pair: Tensor) -> Tensor:
        return self.layers(pair)


class Network(nn.Module):
    """Pairs (N, 2) of tokens to logits (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        channels, hidden = 16, Width([16, 32, 64], name="hidden")
        self.embedding = nn.Embedding(len(NAMES), channels)
        self.meeting = Choice(
            {"product": Product(), "difference": Difference(), "joined": Joined(channels)}
        )
        self.first = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU())
        self.deeper = Repeat(lambda i: nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()), 0, 2)
        self.head = nn.Linear(hidden, 2)

    def forward(self, pair: Tensor) -> Tensor:
        return self.head(self.deeper(self.first(self.meeting(self.embedding(pair)))))


def main(folder: str = "runs/recommender", samples: int = 6000, **arguments: Any) -> hwnas.Result:
    """Search, train, export and check; further arguments replace those of `hwnas.search` below."""
    torch.manual_seed(0)
    optimizer = {"optimizer": "adamw", "nesterov": False, "learning_rate": 0.005}
    settings = {"controls": 1, **{f"train.{key}": value for key, value in optimizer.items()}}
    usual = {"steps": 200, "epochs": 30, "settings": settings}
    return hwnas.search(Network(), folder, train=ratings(samples), **usual | arguments)


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result)
    for name, one in result.controls.items():
        print(f"{name}: score {one['score']:.3f}, {one['latency_ms']:.4f} ms")
