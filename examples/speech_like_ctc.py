"""Speech-like sequences: which sounds were made in which order, learned by CTC.

A recording has 64 frames of 12 bands. Each of four sounds excites bands of its own, lasts 4 to 8
frames and follows the one before at once or after a pause; which frames belong to which sound is
not told. The loss is CTC (Graves et al., ICML 2006), and the metric is the share of sounds that
greedy decoding gets right: 1 less the edit distance to the truth over its length.

    python examples/speech_like_ctc.py [FOLDER]
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hwnas
from hwnas.nn import Choice, Repeat, Width

SOUNDS = ("a", "m", "o", "s")
BANDS, FRAMES, LONGEST = 12, 64, 6
BLANK, NONE = len(SOUNDS), -1


def recordings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Recordings (count, BANDS, FRAMES) and their sounds (count, LONGEST), -1 behind them."""
    rng = np.random.default_rng(seed)
    spectra = np.random.default_rng(7).uniform(0, 1.5, (len(SOUNDS), BANDS, 1))
    inputs = rng.normal(0, 0.7, (count, BANDS, FRAMES))
    targets = np.full((count, LONGEST), NONE)
    for recording, sounds in zip(inputs, targets, strict=True):
        frame = int(rng.integers(0, 6))
        for place in range(rng.integers(2, LONGEST + 1)):
            # The same sound again is only heard as two after a pause.
            sounds[place] = rng.integers(0, len(SOUNDS))
            is_same = place > 0 and sounds[place] == sounds[place - 1]
            frame += int(rng.integers(2, 4)) if is_same else int(rng.integers(0, 3))
            length = int(rng.integers(4, 9))
            recording[:, frame : frame + length] += spectra[sounds[place]]
            frame += length
    return inputs, targets


def ctc(outputs: Tensor, targets: Tensor) -> Tensor:
    """CTC loss of logits (N, 5, T) and sounds (N, LONGEST)."""
    log_p = outputs.float().log_softmax(dim=1).permute(2, 0, 1)
    times = torch.full((len(targets),), len(log_p), dtype=torch.long)
    lengths = (targets != NONE).sum(dim=1).cpu()
    return nn.functional.ctc_loss(log_p, targets.clamp(min=0), times, lengths, blank=BLANK)


def decoded(outputs: Tensor) -> list[list[int]]:
    """Greedy decoding of logits (N, 5, T): repetitions are one sound, and blanks are left out."""
    return [
        [sound for sound in torch.unique_consecutive(best).tolist() if sound != BLANK]
        for best in outputs.argmax(dim=1)
    ]


def edits(found: list[int], truth: list[int]) -> int:
    """The smallest number of insertions, deletions and replacements (Levenshtein)."""
    row = list(range(len(truth) + 1))
    for i, sound in enumerate(found, 1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(truth, 1):
            replaced = diagonal + (sound != wanted)
            diagonal, row[j] = row[j], min(replaced, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def sounds_right(outputs: Tensor, targets: Tensor) -> float:
    """One less the edit distance over the number of sounds, at least 0."""
    truths = [[sound for sound in row if sound != NONE] for row in targets.tolist()]
    distance = sum(map(edits, decoded(outputs), truths))
    return max(0.0, 1 - distance / sum(map(len, truths)))


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution over time with batch norm and ReLU."""
    layer = nn.Conv1d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm1d(c_out), nn.ReLU())


class Network(nn.Module):
    """Recordings (N, BANDS, FRAMES) to logits (N, 5, FRAMES / 2) of sounds and the blank."""

    def __init__(self) -> None:
        super().__init__()
        width = Width([8, 16, 32], name="width")
        self.first = Choice({f"kernel {k}": conv(BANDS, width, k, stride=2) for k in (3, 5, 9)})
        self.deeper = Repeat(lambda i: conv(width, width, 3), 0, 2)
        self.head = nn.Conv1d(width, len(SOUNDS) + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deeper(self.first(x)))


def main(folder: str = "runs/speech", samples: int = 2000, **arguments: Any) -> hwnas.Result:
    """Search, train, export and check; further arguments replace those of `hwnas.search` below."""
    torch.manual_seed(0)
    parts = recordings(samples, seed=0), recordings(samples // 3, seed=1)
    data = hwnas.dataset_of(*parts, kind="signal", classes=SOUNDS)
    optimizer = {"optimizer": "adamw", "nesterov": False, "learning_rate": 0.005}
    settings = {"controls": 1, **{f"train.{key}": value for key, value in optimizer.items()}}
    usual = {"steps": 150, "epochs": 15, "settings": settings, "loss": ctc, "metric": sounds_right}
    return hwnas.search(Network(), folder, train=data, **usual | arguments)


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result, result.controls, sep="\n")
