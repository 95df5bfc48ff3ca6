"""Meta-training against the same steps done by hand; what is shared, and resuming."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import tiny_space

from hwnas.config import SearchConfig
from hwnas.data import Batches, Dataset, Split
from hwnas.errors import HwnasError
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.supernet.reptile import (
    Reptile,
    TaskTraining,
    random_paths,
    shared_tensors,
    uniform_mixture,
)

CONFIG = SearchConfig(
    steps=1, batch_size=6, learning_rate=0.05, momentum=0.9, weight_decay=1e-3, gradient_clip=1e6
)


def task(space_name: str, classes: int, seed: int) -> TaskTraining:
    """A task of noise with so many classes."""
    space = tiny_space(space_name, classes=classes)
    rng = np.random.default_rng(seed)
    labels = (np.arange(36) % classes).astype(np.int64)
    split = Split(rng.integers(0, 256, (36, 1, 9, 7), dtype=np.uint8), labels)
    dataset = Dataset("noise", tuple("abcde"[:classes]), split, split)
    torch.manual_seed(seed)
    batches = Batches(split, dataset, CONFIG.batch_size, seed, augment=None)
    return TaskTraining(space.supernet(), CONFIG, batches, random_paths(space, 0), F.cross_entropy)


def reptile(space_name: str = "nasbench201", rounds: int = 4, **settings) -> Reptile:
    tasks = [task(space_name, 3, seed=1), task(space_name, 5, seed=2)]
    shared = shared_tensors(
        [one.supernet for one in tasks], tiny_space(space_name, classes=4).supernet()
    )
    settings = {"inner_steps": 2, "rate": 0.5, "seed": 0} | settings
    return Reptile(tasks, shared, tiny_space(space_name), rounds=rounds, **settings)


def sgd(task: TaskTraining, weights: dict[str, torch.Tensor], first: int, steps: int) -> None:
    """Heavy-ball SGD with weight decay, written out, from weights that are loaded first."""
    net = task.supernet
    net.load_state_dict(weights, strict=False)
    net.train()
    velocity: dict[str, torch.Tensor] = {}
    for step in range(first, first + steps):
        inputs, targets = task.batches.batch(step)
        net.zero_grad()
        F.cross_entropy(net(inputs, task.propose(step)), targets).backward()
        with torch.no_grad():
            for name, p in net.named_parameters():
                if p.grad is None:
                    continue
                gradient = p.grad + CONFIG.weight_decay * p
                velocity[name] = CONFIG.momentum * velocity.get(name, 0) + gradient
                p -= CONFIG.learning_rate * velocity[name]


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_weights_move_part_of_the_way_to_what_a_task_trains(inner_steps: int) -> None:
    work = reptile(inner_steps=inner_steps)
    tasks = copy.deepcopy(work.tasks)
    weights = {name: value.clone() for name, value in work.weights.items()}
    numbers = []
    for step in range(4):
        number = work.advance()["task"] - 1
        numbers.append(number)
        sgd(tasks[number], weights, step // 2 * inner_steps, inner_steps)
        after, share = tasks[number].supernet.state_dict(), 0.5 * (1 - step / 4)
        for name, value in weights.items():
            is_float = value.dtype.is_floating_point
            moved = value + share * (after[name] - value) if is_float else after[name]
            weights[name] = moved.clone()
    assert sorted(numbers[:2]) == sorted(numbers[2:]) == [0, 1]
    for name, value in work.weights.items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("space_name", ["darts", "elastic", "mbconv", "nasbench201", "vit"])
def test_all_but_the_classifier_is_shared(space_name: str) -> None:
    work = reptile(space_name)
    own = set(work.tasks[0].supernet.state_dict()) - set(work.shared)
    assert len(own) == 2
    shapes = [one.supernet.state_dict() for one in work.tasks]
    assert all(
        state[name].shape[0] == k for name in own for state, k in zip(shapes, (3, 5), strict=True)
    )
    before = {name: value.clone() for name, value in work.weights.items()}
    assert work.advance()["loss"] > 0
    assert any(not torch.equal(value, before[name]) for name, value in work.weights.items())


def test_a_resumed_meta_training_is_bit_identical(tmp_path) -> None:
    whole = reptile()
    losses = [whole.advance()["loss"] for _ in range(4)]
    half = reptile()
    half.advance()
    save_checkpoint(tmp_path, "meta-train", 1, half.state_dict())
    resumed = reptile()
    found = load_checkpoint(tmp_path, "meta-train")
    assert found is not None
    resumed.load_state_dict(found[1])
    assert [resumed.advance()["loss"] for _ in range(3)] == losses[1:]
    assert all(torch.equal(v, whole.weights[n]) for n, v in resumed.weights.items())


def test_a_uniform_mixture_weighs_all_options_alike() -> None:
    space = tiny_space("mbconv", stage_layers=2)
    weights = uniform_mixture(space)(0).weights
    for row, choice in enumerate(space.choices):
        expected = torch.zeros(space.max_options)
        expected[: len(choice.options)] = 1 / len(choice.options)
        torch.testing.assert_close(weights[row], expected)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    work = reptile()
    next(iter(work.weights.values())).fill_(float("nan"))
    with pytest.raises(HwnasError, match="no longer finite"):
        work.advance()
