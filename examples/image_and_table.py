"""A network with two inputs: a picture, and columns of a table beside it.

A part is photographed (16 x 16 pixels) and weighed. It is sound if its hole is wide enough for its
thickness: the picture alone tells the hole, the columns alone the thickness, and only both together
the answer. A sample is one row that has the pixels behind the columns; the network divides it.

    python examples/image_and_table.py [FOLDER]
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hwnas
from hwnas.nn import Build, Repeat, Value, Width

SIDE = 16
COLUMNS = ("length", "width", "weight")
DENSITY = 2.7


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (count, 3 + SIDE * SIDE) float32 and whether each part is sound (count,)."""
    rng = np.random.default_rng(seed)
    length, width = rng.uniform(10, 20, (2, count))
    thickness, radius = rng.uniform(1, 3, count), rng.uniform(2, 6, count)
    weight = DENSITY * length * width * thickness * rng.normal(1, 0.01, count)
    row, column = rng.uniform(6, 9, (2, count, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE]
    hole = np.hypot(y - row, x - column) < radius[:, None, None]
    pixels = np.where(hole, 0.2, 0.8) + rng.normal(0, 0.2, hole.shape)
    inputs = np.concatenate([np.stack([length, width, weight], 1), pixels.reshape(count, -1)], 1)
    return inputs.astype(np.float32), (radius > 2 * thickness).astype(np.int64)


def conv(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    """A convolution that halves both sides, with batch norm and ReLU."""
    layer = nn.Conv2d(c_in, c_out, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """A linear layer with ReLU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


class Network(nn.Module):
    """Rows (N, 3 + SIDE * SIDE) to logits (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        width, kernel = Width([4, 8, 16], name="width"), Value([3, 5], name="kernel")
        columns = Width([8, 16, 32], name="columns")
        self.picture = nn.Sequential(
            Build(conv, 1, width, kernel), Build(conv, width, 16, kernel), nn.Flatten()
        )
        self.table = nn.Sequential(dense(len(COLUMNS), columns), dense(columns, 16))
        joined = Width([16, 32, 64], name="joined")
        self.joined = dense(16 * (SIDE // 4) ** 2 + 16, joined)
        self.deeper = Repeat(lambda i: dense(joined, joined), 0, 2)
        self.head = nn.Linear(joined, 2)

    def forward(self, row: Tensor) -> Tensor:
        columns, pixels = row[:, : len(COLUMNS)], row[:, len(COLUMNS) :]
        picture = self.picture(pixels.reshape(-1, 1, SIDE, SIDE))
        both = torch.cat([picture, self.table(columns)], dim=1)
        return self.head(self.deeper(self.joined(both)))


def main(
    folder: str = "runs/image_and_table", samples: int = 3000, **arguments: Any
) -> hwnas.Result:
    """Search, train, export and check; further arguments replace those of `hwnas.search` below."""
    torch.manual_seed(0)
    usual = {"steps": 150, "epochs": 15, "settings": {"controls": 1}}
    return hwnas.search(
        Network(),
        folder,
        train=rows(samples, seed=0),
        validation=rows(samples // 3, seed=1),
        **usual | arguments,
    )


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result)
    for name, one in result.controls.items():
        print(f"{name}: score {one['score']:.3f}, {one['latency_ms']:.4f} ms")
