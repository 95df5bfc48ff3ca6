"""A policy for CartPole that answers within 20 microseconds, trained by reinforcement learning.

No gradient of the score reaches the policy, and there are no data: `evaluate` trains a module by
the cross-entropy method (Mannor, Rubinstein & Gat, ICML 2003) in the simulator, and returns the
mean length of test episodes, of which 500 is the best. It needs `gymnasium`.

    python examples/cartpole.py [FOLDER]
"""

import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import hwnas
from hwnas.nn import Build, Repeat, Value, Width

LONGEST = 500
BUDGET_MS = 0.02
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
# Positions and angles are small beside velocities; the policy sees all of them near 1.
SCALE = np.array([2.4, 2.0, 0.2, 2.0], dtype=np.float32)


def layer(inputs: int, outputs: int, activation: str) -> nn.Sequential:
    """A linear layer with an activation."""
    return nn.Sequential(nn.Linear(inputs, outputs), ACTIVATIONS[activation]())


class Network(nn.Module):
    """States (N, 4) to preferences (N, 2) for pushing to the left or right."""

    def __init__(self) -> None:
        super().__init__()
        width, activation = Width([4, 8, 16], name="width"), Value([*ACTIVATIONS], "activation")
        self.first = Build(layer, 4, width, activation)
        self.hidden = Repeat(lambda i: Build(layer, width, width, activation), 0, 2, name="depth")
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(self.first(x)))


def lengths(policies: Tensor, module: nn.Module, games: int, seed: int) -> Tensor:
    """How long policies (policies, weights) balance the pole, the mean over their games.

    All games are played at once. The weights are those of `module`, one policy in each row.
    """
    count = len(policies)
    simulator = gymnasium.make_vec("CartPole-v1", count * games)
    names, shapes = zip(*((n, p.shape) for n, p in module.named_parameters()), strict=True)
    parts = policies.split([shape.numel() for shape in shapes], dim=1)
    weights = {
        name: part.reshape(count, *shape)
        for name, part, shape in zip(names, parts, shapes, strict=True)
    }
    preferences = torch.vmap(lambda w, x: torch.func.functional_call(module, w, x))
    states, _ = simulator.reset(seed=seed)
    alive, steps = np.ones(count * games, dtype=bool), np.zeros(count * games)
    while alive.any() and steps.max() < LONGEST:
        steps += alive
        inputs = torch.from_numpy(states / SCALE).reshape(count, games, 4)
        actions = preferences(weights, inputs).argmax(dim=2).flatten()
        states, _, fallen, _, _ = simulator.step(actions.numpy())
        alive &= ~fallen
    simulator.close()
    return torch.from_numpy(steps).reshape(count, games).mean(dim=1)


def trained(module: nn.Module, generations: int, policies: int = 32, seed: int = 0) -> float:
    """Train a module by the cross-entropy method; its score from 0 to 1 in other games."""
    generator = torch.Generator().manual_seed(seed)
    mean = parameters_to_vector(module.parameters()).detach()
    spread = torch.ones_like(mean)
    for generation in range(generations):
        drawn = mean + spread * torch.randn(policies, len(mean), generator=generator)
        scores = lengths(drawn, module, games=2, seed=generation)
        best = drawn[scores.argsort(descending=True)[: policies // 4]]
        mean, spread = best.mean(dim=0), best.std(dim=0) + 0.05
    vector_to_parameters(mean, module.parameters())
    return tested(module, seed=1000)


@torch.no_grad()
def tested(module: nn.Module, seed: int) -> float:
    """The mean length of 50 games as a share of the longest."""
    vector = parameters_to_vector(module.parameters())
    return float(lengths(vector[None], module, games=50, seed=seed)) / LONGEST


def main(folder: str = "runs/cartpole", generations: int = 8, **arguments: Any) -> hwnas.Result:
    """Search, train, export and check; further arguments replace those of `hwnas.search` below."""
    torch.manual_seed(0)
    usual = {"strategy": "evolution", "steps": 16, "budget_ms": BUDGET_MS}
    return hwnas.search(
        Network(),
        folder,
        evaluate=lambda module: trained(module, generations),
        example_inputs=torch.zeros(1, 4),
        **usual | arguments,
    )


def control(generations: int = 8) -> dict[str, float]:
    """A usual policy of two hidden layers, trained alike: its score in new games, its latency."""
    torch.manual_seed(0)
    policy = nn.Sequential(layer(4, 16, "relu"), layer(16, 16, "relu"), nn.Linear(16, 2))
    trained(policy, generations)
    measured = hwnas.check(policy, torch.zeros(1, 4), budget_ms=BUDGET_MS)["measured"]
    return {"score": tested(policy, seed=2000), "latency_ms": measured["value_ms"]}


if __name__ == "__main__":
    result = main(*sys.argv[1:2])
    print(result)
    print(f"score in new games {tested(result.model, seed=2000):.3f}, control {control()}")
