"""Claim: a network that hwnas shrinks keeps the latency budget and scores higher than baselines.

A network is trained on a part of Fashion-MNIST (14 x 14 pixels) or of CIFAR-10 from `HWNAS_DATA`
(16 x 16), whose sides are halved so that a shared processor gets through it. It is then brought to
a share of its own measured latency by `hwnas.shrink` and by baselines:

- `channels`: the same without removing residual blocks
- `uniform`: all groups of channels narrowed by one factor, the most important channels kept by the
  same Taylor importance; the factor is the largest whose network keeps the budget as measured
- `macs`: Torch-Pruning's global pruner with its Taylor importance, which removes the least
  important channels step by step until the network keeps the budget as measured
- `fastnas`: FastNAS of NVIDIA's Model Optimizer with the largest number of FLOPs whose network
  keeps the budget as measured (`pip install nvidia-modelopt huggingface_hub`)

All are trained for the same number of epochs with the same teacher, schedule and batches: hwnas'
rounds use a part of them. Latencies are those of ONNX Runtime on one thread, measured by hwnas.

    python benchmarks/shrink.py --network resnet20 --shares 0.5 0.333 --seeds 0 1
"""

from __future__ import annotations

import argparse
import copy
import io
import lzma
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from results import append_row
from search_value import decoded_images
from shrink_baselines import (
    BATCH,
    Plain,
    by_macs,
    fastnas,
    latency_ms,
    sample_batches,
    score,
    uniform,
)
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.plain_networks import MobileNetV2, ResNet, Vgg

import hwnas
from hwnas.config import TrainConfig
from hwnas.data import Batches, Dataset, Split, load_dataset
from hwnas.tasks import task_of
from hwnas.training.recalibration import recalibrate_norms
from hwnas.training.teacher import Distillation
from hwnas.training.train import Training

NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet20": lambda channels, size: ResNet(3, channels=channels),
    "resnet8": lambda channels, size: ResNet(1, channels=channels),
    "vgg11": lambda channels, size: Vgg(channels=channels, width=32, size=size),
    "mobilenetv2": lambda channels, size: MobileNetV2(channels=channels, width=0.5),
}
BASELINES = {"uniform": uniform, "macs": by_macs, "fastnas": fastnas}
METHODS = ["hwnas", "channels", *BASELINES]
DATA = ["fashion-mnist-slice", "cifar10"]
RATE = {"teacher": 0.05, "recovery": 0.02}


def small_images(name: str, samples: int, tests: int) -> Dataset:
    """A part of a set of images whose sides are halved by averaging."""
    data = cifar10() if name == "cifar10" else load_dataset("fashion-mnist-slice", None)
    parts = []
    for split, count in ((data.train, samples), (data.test, tests)):
        images = torch.from_numpy(split.inputs[:count].astype(np.float32))
        halved = F.avg_pool2d(images, 2).round().numpy().astype(np.uint8)
        parts.append(Split(halved, split.targets[:count]))
    return Dataset(data.name, data.classes, *parts, data.task)


def cifar10() -> Dataset:
    """The first half of the training images, and the test images."""
    splits = []
    for name in ("train_a", "test"):
        path = Path(os.environ["HWNAS_DATA"]) / f"cifar10_{name}.npz.xz"
        with np.load(io.BytesIO(lzma.open(path).read()), allow_pickle=False) as file:
            splits.append(Split(decoded_images(file["dx"]), file["y"].astype(np.int64)))
            classes = tuple(str(one) for one in file["classes"])
    return Dataset("cifar10", classes, *splits)


def trained(
    model: nn.Module, data: Dataset, epochs: int, seed: int, teacher: nn.Module | None = None
) -> nn.Module:
    """Train a module as hwnas does, and return the moving average of its weights."""
    config = TrainConfig(
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=RATE["teacher" if teacher is None else "recovery"],
        label_smoothing=0.0,
        ema_decay=0.99,
    )
    torch.manual_seed(seed)
    help_of = None if teacher is None else Distillation(teacher.eval(), 0.5)
    batches = Batches(data.train, data, BATCH, seed, augment=None)
    network = Plain(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    training = Training(network, config, batches, seed, task_of(data).loss, None, help_of)
    while training.step < training.steps:
        training.advance()
    return training.average.model.eval()


def settings(rounds: int) -> dict[str, Any]:
    """The settings of `hwnas.shrink` in all comparisons."""
    return {
        "train.batch_size": BATCH,
        "train.ema_decay": 0.99,
        "search.batch_size": BATCH,
        "shrink.rounds": rounds,
        "check.max_accuracy_drop": 1.0,
        "latency.operator_seconds": 0.15,
        "latency.measure_seconds": 4.0,
        "check.measure_seconds": 20.0,
        "threads": 1,
    }


def shrunk(
    model: nn.Module,
    data: Dataset,
    budget_ms: float,
    seed: int,
    epochs: int,
    out: Path,
    remove_blocks: bool = True,
) -> tuple[nn.Module, str]:
    """The network of `hwnas.shrink`, and the verdict on its budget."""
    rounds = 3
    result = hwnas.shrink(
        model,
        data,
        out,
        budget_ms=budget_ms,
        epochs=epochs - (rounds - 1),
        seed=seed,
        show_progress=False,
        settings=settings(rounds) | {"shrink.remove_blocks": remove_blocks},
    )
    return result.model, result.verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument(
        "--data", choices=["fashion-mnist-slice", "cifar10"], default="fashion-mnist-slice"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 1 / 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = small_images(arguments.data, arguments.samples, arguments.tests)
    channels, height, width = data.input_shape
    for seed in arguments.seeds:
        torch.manual_seed(seed)
        model = NETWORKS[arguments.network](channels, height)
        teacher = trained(model, data, arguments.teacher_epochs, seed)
        whole_ms, whole = latency_ms(teacher, data), score(teacher, data)
        for share in arguments.shares:
            budget_ms = share * whole_ms
            for method in arguments.methods:
                started, verdict = time.monotonic(), ""
                if method in ("hwnas", "channels"):
                    with TemporaryDirectory() as folder:
                        out = Path(folder) / "run"
                        epochs = arguments.epochs
                        blocks = method == "hwnas"
                        final, verdict = shrunk(teacher, data, budget_ms, seed, epochs, out, blocks)
                else:
                    smaller = BASELINES[method](teacher, data, budget_ms, seed)
                    recalibrate_norms(smaller, ((x,) for x, _ in sample_batches(data, 8, seed)))
                    final = trained(smaller, data, arguments.epochs, seed, teacher)
                append_row(
                    "shrink",
                    {
                        "network": arguments.network,
                        "data": f"{data.name} {height}x{width}, {arguments.samples} samples",
                        "share": round(share, 3),
                        "seed": seed,
                        "method": method,
                        "epochs": arguments.epochs,
                        "accuracy_original": whole,
                        "accuracy": score(final, data),
                        "ms_original": whole_ms,
                        "budget_ms": budget_ms,
                        "ms": latency_ms(final, data),
                        "verdict": verdict,
                        "params": sum(p.numel() for p in final.parameters()),
                        "seconds": round(time.monotonic() - started, 1),
                    },
                )


if __name__ == "__main__":
    main()
