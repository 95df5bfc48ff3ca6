"""Claim: a network that hwnas shrinks keeps the latency budget and scores higher than baselines.

A network is trained on a part of Fashion-MNIST, reduced to 14 x 14 pixels so that a shared
processor gets through it. It is then brought to a share of its own measured latency by
`hwnas.shrink` and by baselines:

- `channels`: the same without removing residual blocks
- `uniform`: all groups of channels narrowed by one factor, the most important channels kept by the
  same Taylor importance; the factor is the largest whose network keeps the budget as measured
- `macs`: Torch-Pruning's global pruner with its Taylor importance, which removes the least
  important channels step by step until the network keeps the budget as measured

All are trained for the same number of epochs with the same teacher, schedule and batches: hwnas'
rounds use a part of them. Latencies are those of ONNX Runtime on one thread, measured by hwnas.

    python benchmarks/shrink.py --network resnet20 --shares 0.5 0.333 --seeds 0 1
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from results import append_row
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.plain_networks import MobileNetV2, ResNet, Vgg

import hwnas
from hwnas.budget.gate import measure_network
from hwnas.config import TrainConfig
from hwnas.data import Batches, Dataset, Split, load_dataset
from hwnas.deploy.export import INPUT, export_network
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.shrinking.channels import (
    channel_groups,
    narrowed,
)
from hwnas.shrinking.importance import unit_importance
from hwnas.spaces.networks import Network
from hwnas.tasks import task_of
from hwnas.training.evaluate import predictions
from hwnas.training.recalibration import recalibrate_norms
from hwnas.training.teacher import Distillation
from hwnas.training.train import Training

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: ResNet(3, channels=1),
    "resnet8": lambda: ResNet(1, channels=1),
    "vgg11": lambda: Vgg(channels=1, width=16),
    "mobilenetv2": lambda: MobileNetV2(channels=1, width=0.5),
}
METHODS = ["hwnas", "channels", "uniform", "macs"]
BATCH = 64
RATE = {"teacher": 0.05, "recovery": 0.02}
FACTORS = 24
"""Steps of the uniform factor between 0 and 1."""


class Plain(Network):
    """Any module as a network of hwnas."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def small_images(samples: int, tests: int) -> Dataset:
    """A part of Fashion-MNIST whose sides are halved by averaging."""
    data = load_dataset("fashion-mnist-slice", None)
    parts = []
    for split, count in ((data.train, samples), (data.test, tests)):
        images = torch.from_numpy(split.inputs[:count].astype(np.float32))
        halved = F.avg_pool2d(images, 2).round().numpy().astype(np.uint8)
        parts.append(Split(halved, split.targets[:count]))
    return Dataset(data.name, data.classes, *parts, data.task)


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


def score(model: nn.Module, data: Dataset) -> float:
    found = predictions(Plain(model).eval(), data.test, data, torch.device("cpu"))
    return task_of(data).score(found)


def latency_ms(model: nn.Module, data: Dataset, seconds: float = 4.0) -> float:
    """The measured latency of the exported module."""
    runtime = create_runtime("onnxruntime-cpu", 1)
    onnx = export_network(Plain(model).eval(), data.input_shape).SerializeToString()
    feeds = {INPUT: np.zeros((1, *data.input_shape), np.float32)}
    return measure_network(
        lambda: runtime.prepare_onnx(onnx, feeds), runtime, budget_ms=None, seconds=seconds
    ).value_ms


def sample_batches(data: Dataset, count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = Batches(data.train, data, BATCH, seed, augment=None)
    return [batches.batch(step) for step in range(count)]


def uniform(model: nn.Module, data: Dataset, budget_ms: float, seed: int) -> nn.Module:
    """The widest uniformly narrowed network that keeps the budget."""
    batches = sample_batches(data, 16, seed)
    groups, _ = channel_groups(model, (batches[0][0][:2],))
    importance = unit_importance(model, groups, batches, task_of(data).loss)

    def at(step: int) -> nn.Module:
        kept = {
            g.name: np.argsort(-importance[g.name])[: max(1, round(g.units * step / FACTORS))]
            for g in groups
        }
        return narrowed(model, groups, {name: sorted(v.tolist()) for name, v in kept.items()})

    low, high = 1, FACTORS
    while high - low > 1:
        middle = (low + high) // 2
        fits = latency_ms(at(middle), data) <= budget_ms
        low, high = (middle, high) if fits else (low, middle)
    return at(low)


def by_macs(model: nn.Module, data: Dataset, budget_ms: float, seed: int) -> nn.Module:
    """Torch-Pruning's global pruner, stepped until the network keeps the budget."""
    model = copy.deepcopy(model)
    batches, steps = sample_batches(data, 16, seed), 24
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        batches[0][0][:2],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=0.98,
        max_pruning_ratio=0.9,
        iterative_steps=steps,
        ignored_layers=heads[-1:],
    )
    for _ in range(steps):
        model.zero_grad()
        for inputs, targets in batches:
            task_of(data).loss(model(inputs), targets).backward()
        pruner.step()
        if latency_ms(model, data, 2.0) <= budget_ms and latency_ms(model, data) <= budget_ms:
            break
    model.zero_grad()
    return model


def shrunk(
    model: nn.Module,
    data: Dataset,
    budget_ms: float,
    seed: int,
    epochs: int,
    out: Path,
    remove_blocks: bool,
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
        settings={
            "train.batch_size": BATCH,
            "train.ema_decay": 0.99,
            "search.batch_size": BATCH,
            "shrink.rounds": rounds,
            "shrink.remove_blocks": remove_blocks,
            "check.max_accuracy_drop": 1.0,
            "latency.operator_seconds": 0.15,
            "latency.measure_seconds": 4.0,
            "check.measure_seconds": 20.0,
            "threads": 1,
        },
        table=None,
    )
    return result.model, result.verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 1 / 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = small_images(arguments.samples, arguments.tests)
    for seed in arguments.seeds:
        torch.manual_seed(seed)
        model = NETWORKS[arguments.network]()
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
                    prune = uniform if method == "uniform" else by_macs
                    smaller = prune(teacher, data, budget_ms, seed)
                    recalibrate_norms(smaller, (x for x, _ in sample_batches(data, 8, seed)))
                    final = trained(smaller, data, arguments.epochs, seed, teacher)
                append_row(
                    "shrink",
                    {
                        "network": arguments.network,
                        "data": f"fashion-mnist-slice 14x14, {arguments.samples} samples",
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
