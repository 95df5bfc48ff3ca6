"""Small models with the modules of `hwnas.nn`, as a user would write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwnas.nn import Build, Choice, Repeat, Value, Width
from hwnas.spaces.traced.space import TracedSpace, space_of


def conv_bn(c_in: int, c_out: int, kernel: int, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out))


class Residual(nn.Module):
    """A block that ends in a batch norm and has a residual connection."""

    def __init__(self, channels: int, kernel: int = 3, ratio: int = 1) -> None:
        super().__init__()
        self.first = conv_bn(channels, ratio * channels, 1)
        self.second = conv_bn(ratio * channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


class OwnNetwork(nn.Module):
    """Every kind of choice: shared and nested ones, a depth, and a width of three layers."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.width = Width([2, 4, 6])
        self.kernel = Value([1, 3])
        self.stem = nn.Conv2d(1, self.width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(self.width)
        wide = nn.Sequential(conv_bn(self.width, 2 * self.width, 1), conv_bn(2 * self.width, 4, 3))
        self.first = Choice({"plain": conv_bn(self.width, 4, 3), "wide": wide})
        self.stage = Repeat(
            lambda i: Build(Residual, 4, kernel=self.kernel, ratio=Value([1, 2])), 0, 2
        )
        nested = nn.Sequential(Choice({"a": conv_bn(4, 4, 1), "b": nn.Conv2d(4, 4, 3, padding=1)}))
        self.last = Choice({"skip": nn.Identity(), "block": Residual(4), "nested": nested})
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.stage(self.first(x))
        return self.head((x + self.last(x)).mean((2, 3)))


def own_space(height: int = 9, width: int = 7, classes: int = 3) -> TracedSpace:
    """The space of `OwnNetwork`, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return space_of(OwnNetwork(classes), torch.zeros(1, 1, height, width))


class FourInputs(nn.Module):
    """An image, a signal, columns of a table and tokens, each behind a layer of its own."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        width = Width([2, 4])
        self.of_image = Choice({"1": conv_bn(2, 3, 1), "3": conv_bn(2, 3, 3)})
        self.of_signal = nn.Conv1d(3, 3, 3, padding=1)
        deep = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
        self.of_table = Choice({"flat": nn.Linear(4, 3), "deep": deep})
        self.of_tokens = nn.Embedding(9, 3)
        self.head = nn.Linear(3, classes)

    def forward(self, image: Tensor, signal: Tensor, columns: Tensor, words: Tensor) -> Tensor:
        seen = self.of_image(image).mean((2, 3)) + self.of_signal(signal).mean(2)
        return self.head(seen + self.of_table(columns) * self.of_tokens(words).mean(1))
