"""Images of 16 bits in one channel, which the exported model reads as the scanner writes them.

A bright disc, the organ, lies in a field of view of 32 x 32 pixels and may have a lesion: a smaller
disc that is 15 % brighter or darker. Organs differ by a factor of two in brightness, so no single
value tells the class, only the contrast to what is around it.

    python examples/medical_image.py [FOLDER]
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hwnas
from hwnas.nn import Build, Choice, Repeat, Value, Width

CLASSES = ("without", "brighter", "darker")
SIDE = 32
CONTRAST = 0.15


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 1, SIDE, SIDE) uint16 and their classes (count,)."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(CLASSES), count)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found = rng.normal(1000, 100, (count, SIDE, SIDE))
    for image, name in zip(found, (CLASSES[k] for k in classes), strict=True):
        row, column = rng.uniform(13, 19, 2)
        radius, level = rng.uniform(9, 12), rng.uniform(20000, 40000)
        distance = np.hypot(rows - row, columns - column)
        image[distance < radius] += level
        angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(0, radius - 4)
        place = np.hypot(
            rows - row - shift * np.sin(angle), columns - column - shift * np.cos(angle)
        )
        if name != "without":
            contrast = CONTRAST if name == "brighter" else -CONTRAST
            image[place < rng.uniform(2, 3)] += contrast * level
        image += rng.normal(0, 0.012 * level, image.shape) * (distance < radius)
    return found.clip(0, 2**16 - 1).astype(np.uint16)[:, None], classes


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution with batch norm and ReLU."""
    layer = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


class Residual(nn.Module):
    """A block that adds to its input what two convolutions compute."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(channels, channels, kernel), conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Network(nn.Module):
    """Images (N, 1, SIDE, SIDE) to logits (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        width, kernel = Width([8, 12, 16], name="width"), Value([3, 5], name="kernel")
        self.stem = Choice({f"kernel {k}": conv(1, width, k, stride=2) for k in (3, 5)})
        self.first = Repeat(lambda i: Build(Residual, width, kernel=kernel), 0, 2)
        self.down = conv(width, 32, 3, stride=2)
        self.second = Repeat(lambda i: Build(Residual, 32, kernel=kernel), 0, 2)
        self.head = nn.Sequential(
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, len(CLASSES))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.down(self.first(self.stem(x)))))


def main(folder: str = "runs/medical_image", samples: int = 2400, **arguments: Any) -> hwnas.Result:
    """Search, train, export and check; further arguments replace those of `hwnas.search` below."""
    torch.manual_seed(0)
    usual = {
        "steps": 120,
        "epochs": 15,
        # The model that is exported reads the scanner's values.
        "settings": {"controls": 1, "export.preprocess": True},
    }
    return hwnas.search(
        Network(),
        folder,
        train=images(samples, seed=0),
        validation=images(samples // 3, seed=1),
        **usual | arguments,
    )


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result)
    for name, one in result.controls.items():
        print(f"{name}: score {one['score']:.3f}, {one['latency_ms']:.4f} ms")
