"""A network with two inputs: a picture, and columns of a table beside it.

A part is photographed (16 x 16 pixels) and weighed. It is sound if its hole is wide enough for its
thickness: the picture alone tells the hole, the columns alone the thickness, and only both together
the answer. Each input is normalised by itself, and the exported model has both under their names.

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


def parts(count: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Pictures (count, 1, SIDE, SIDE) uint8, columns (count, 3), and whether each part is sound."""
    rng = np.random.default_rng(seed)
    length, width = rng.uniform(10, 20, (2, count))
    thickness, radius = rng.uniform(1, 3, count), rng.uniform(2, 6, count)
    weight = DENSITY * length * width * thickness * rng.normal(1, 0.01, count)
    row, column = rng.uniform(6, 9, (2, count, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE]
    hole = np.hypot(y - row, x - column) < radius[:, None, None]
    pixels = np.where(hole, 50, 200) + rng.normal(0, 50, hole.shape)
    pictures = pixels.clip(0, 255).astype(np.uint8)[:, None]
    columns = np.stack([length, width, weight], axis=1).astype(np.float32)
    return (pictures, columns), (radius > 2 * thickness).astype(np.int64)


def conv(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    """A convolution that halves both sides, with batch norm and ReLU."""
    layer = nn.Conv2d(c_in, c_out, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """A linear layer with ReLU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


class Network(nn.Module):
    """Pictures (N, 1, SIDE, SIDE) and columns (N, 3) to logits (N, 2)."""

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

    def forward(self, picture: Tensor, columns: Tensor) -> Tensor:
        both = torch.cat([self.picture(picture), self.table(columns)], dim=1)
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
        train=parts(samples, seed=0),
        validation=parts(samples // 3, seed=1),
        **usual | arguments,
    )


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result)
    for name, one in result.controls.items():
        print(f"{name}: score {one['score']:.3f}, {one['latency_ms']:.4f} ms")
