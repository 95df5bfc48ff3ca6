"""Baselines that make a trained network faster, for `shrink.py`."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch_pruning
from torch import nn

from hwnas.budget.gate import measure_network
from hwnas.data import Batches, Dataset, Split
from hwnas.deploy.export import INPUT, export_network
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.shrinking.channels import channel_groups, narrowed
from hwnas.shrinking.importance import unit_importance
from hwnas.spaces.networks import Network
from hwnas.tasks import task_of
from hwnas.training.evaluate import predictions

BATCH = 64
FACTORS = 24
"""Steps of the uniform factor between 0 and 1."""
DIVISOR = 4
"""FastNAS' widths are multiples of it; its own 32 leaves these networks as they are."""
SCORED = 1000
"""Training samples that FastNAS scores a network by."""


class Plain(Network):
    """Any module as a network of hwnas."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def score(model: nn.Module, data: Dataset, split: Split | None = None) -> float:
    """The score on the test samples, or on others."""
    found = predictions(
        Plain(model).eval(), data.test if split is None else split, data, torch.device("cpu")
    )
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
    given = [((inputs,), targets) for inputs, targets in batches]
    importance = unit_importance(model, groups, given, task_of(data).loss)

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


def fastnas(model: nn.Module, data: Dataset, budget_ms: float, seed: int) -> nn.Module:
    """FastNAS of NVIDIA's Model Optimizer; the most FLOPs whose network keeps the budget.

    Where none does, it is the smallest network that was tried.

    The share of FLOPs is found by bisection in steps of 1 %; all share one sensitivity map.
    """
    pruning = importlib.import_module("modelopt.torch.prune")  # not among the requirements
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    batches = sample_batches(data, 16, seed)
    probe = data.train.take(np.arange(SCORED))
    widths = {"channels_ratio": tuple(k / 20 for k in range(1, 21)), "channel_divisor": DIVISOR}
    features = {"features_ratio": widths["channels_ratio"], "feature_divisor": DIVISOR}
    rules = {"nn.Conv2d": {"*": widths}, "nn.BatchNorm2d": {"*": features}}

    def at(percent: int) -> nn.Module:
        found, _ = pruning.prune(
            copy.deepcopy(model),
            mode=[("fastnas", rules)],
            constraints={"flops": f"{percent}%"},
            dummy_input=batches[0][0][:1],
            config={
                "data_loader": batches,
                "collect_func": lambda batch: batch[0],
                "score_func": lambda one: score(one, data, probe),
                "checkpoint": str(Path(folder) / "sensitivity.pth"),
                "verbose": False,
            },
        )
        return found

    with TemporaryDirectory() as folder:
        low, high, found, best = 0, 100, model, None
        while high - low > 1:
            middle = (low + high) // 2
            try:
                found = at(middle)
            except ValueError:  # nothing in its space has so few FLOPs
                low = middle
                continue
            fits = latency_ms(found, data) <= budget_ms
            low, high = (middle, high) if fits else (low, middle)
            best = found if fits else best
        return found if best is None else best
