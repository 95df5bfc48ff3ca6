"""Named entities: a label for each word of a sentence, with a metric of its own.

Sentences come from a small grammar. Names of persons and places share words ("paris" may be either,
"washington" too), so that only the words around tell: a title stands before persons, a preposition
before places, and some verbs follow persons alone. The metric is F1 over the words of names.

    python examples/named_entities.py [FOLDER]
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hwnas
from hwnas.nn import Choice, Repeat, Width

LABELS = ("other", "person", "place")
LENGTH = 12
WORDS = {
    "name": "paris washington jordan florence lincoln georgia austin charlotte sydney".split(),
    "title": "doctor miss captain".split(),
    "preposition": "in near from".split(),
    "verb": "says thinks laughs".split(),
    "filler": "the rain was heavy and news of old trains came late again then".split(),
}
VOCABULARY = tuple(sorted({word for words in WORDS.values() for word in words}))


def sentence(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Words with their labels, at least LENGTH of them."""
    found: list[tuple[str, str]] = []
    while len(found) < LENGTH:
        found += [("filler", "other")] * int(rng.integers(1, 4))
        form = rng.choice(["titled", "located", "speaking"])
        if form == "titled":
            found += [("title", "other"), ("name", "person")]
        elif form == "located":
            found += [("preposition", "other"), ("name", "place")]
        else:
            found += [("name", "person"), ("verb", "other")]
    return [(str(rng.choice(WORDS[kind])), label) for kind, label in found]


def sentences(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Words and their labels, (count, LENGTH) each."""
    rng = np.random.default_rng(seed)
    pairs = [sentence(rng)[:LENGTH] for _ in range(count)]
    words = [[VOCABULARY.index(word) for word, _ in pair] for pair in pairs]
    labels = [[LABELS.index(label) for _, label in pair] for pair in pairs]
    return np.array(words), np.array(labels)


def f1(outputs: Tensor, labels: Tensor) -> float:
    """F1 over the words that are labelled as names, of logits (N, 3, L) and labels (N, L)."""
    found = outputs.argmax(dim=1)
    right = ((found == labels) & (labels > 0)).sum()
    return float(2 * right / ((found > 0).sum() + (labels > 0).sum()).clamp(min=1))


class Recurrent(nn.Module):
    """A GRU in both directions, (N, C, L) to (N, C, L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, channels // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.transpose(1, 2))[0].transpose(1, 2)


def conv(channels: int, hidden: int, kernel: int) -> nn.Sequential:
    """A convolution over neighbouring words, and one that returns to the channels."""
    first = nn.Conv1d(channels, hidden, kernel, padding=kernel // 2)
    return nn.Sequential(first, nn.ReLU(), nn.Conv1d(hidden, channels, 1))


class Network(nn.Module):
    """Words (N, L) to logits (N, 3, L)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        hidden = Width([8, 16, 32], name="hidden")
        self.embedding = nn.Embedding(len(VOCABULARY), channels)
        kinds = {f"conv {k}": conv(channels, hidden, k) for k in (1, 3, 5)}
        self.context = Choice({**kinds, "gru": Recurrent(channels)})
        self.deeper = Repeat(lambda i: conv(channels, hidden, 3), 0, 2)
        self.head = nn.Conv1d(channels, len(LABELS), 1)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words).transpose(1, 2)
        return self.head(self.deeper(self.context(x)))


def main(
    folder: str = "runs/named_entities", samples: int = 2000, **arguments: Any
) -> hwnas.Result:
    """Search, train, export and check; further arguments replace those of `hwnas.search` below."""
    torch.manual_seed(0)
    parts = sentences(samples, seed=0), sentences(samples // 3, seed=1)
    data = hwnas.dataset_of(*parts, kind="tokens", classes=LABELS, vocabulary=VOCABULARY)
    settings = {"controls": 1, "train.optimizer": "adamw", "train.learning_rate": 0.005}
    usual = {"steps": 150, "epochs": 10, "metric": f1, "settings": settings}
    return hwnas.search(Network(), folder, train=data, **usual | arguments)


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result)
    for name, one in result.controls.items():
        print(f"{name}: score {one['score']:.3f}, {one['latency_ms']:.4f} ms")
