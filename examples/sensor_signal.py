"""A fault from an accelerometer: 1-d convolutions whose kernels, depth and width are decided.

Three axes of vibration are recorded at 96 times. A healthy machine hums; a worn bearing adds a
pulse every 12 times, a loose foot one every 17 times, and an imbalance makes two axes swing a
quarter of a period apart. All of it lies under noise.

    python examples/sensor_signal.py [FOLDER]
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hwnas
from hwnas.nn import Choice, Repeat, Width

CLASSES = ("healthy", "bearing", "foot", "imbalance")
TIMES = 96


def signals(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals (count, 3, TIMES) float32 and their classes (count,)."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(CLASSES), count)
    times = np.arange(TIMES)
    noise = rng.normal(0, 1, (count, 3, TIMES))
    hum = np.sin(times / 4 + rng.uniform(0, 2 * np.pi, (count, 3, 1)))
    for signal, name in zip(hum, (CLASSES[k] for k in classes), strict=True):
        phase = rng.integers(0, 12)
        if name == "imbalance":
            signal[:2] = np.sin(times / 4 + phase + np.array([[0], [np.pi / 2]]))
        elif name != "healthy":
            period = 12 if name == "bearing" else 17
            signal[2] += 2.5 * ((times + phase) % period < 2)
    return (hum + noise).astype(np.float32), classes


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A 1-d convolution with batch norm and ReLU."""
    layer = nn.Conv1d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm1d(c_out), nn.ReLU())


class Network(nn.Module):
    """Signals (N, 3, TIMES) to logits (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        width = Width([8, 16, 24], name="width")
        self.stem = Choice({f"kernel {k}": conv(3, width, k, stride=2) for k in (3, 7, 15)})
        self.down = Choice({f"kernel {k}": conv(width, 32, k, stride=2) for k in (3, 7)})
        self.blocks = Repeat(lambda i: conv(32, 32, 3 if i % 2 else 7), 0, 3)
        self.head = nn.Sequential(
            nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, len(CLASSES))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.down(self.stem(x))))


def main(folder: str = "runs/sensor_signal", samples: int = 3000, **arguments: Any) -> hwnas.Result:
    """Search, train, export and check; further arguments replace those of `hwnas.search` below."""
    torch.manual_seed(0)
    usual = {
        "steps": 150,
        "epochs": 15,
        "settings": {"controls": 1, "export.preprocess": True},
    }
    return hwnas.search(
        Network(),
        folder,
        train=signals(samples, seed=0),
        validation=signals(samples // 3, seed=1),
        **usual | arguments,
    )


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result)
    for name, one in result.controls.items():
        print(f"{name}: score {one['score']:.3f}, {one['latency_ms']:.4f} ms")
