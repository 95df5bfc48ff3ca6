"""Sandwich rule, in-place distillation and progressive shrinking, and their resuming."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.supernet_searches import (
    CONFIG,
    assert_same_weights,
    make_search,
    run_with_interruptions,
)

from hwnas.architecture import Mixture
from hwnas.budget.decode import smallest_and_largest
from hwnas.supernet.sandwich import reorder

SHARED = CONFIG.model_copy(
    update={"strategy": "spos", "sandwich": 2, "distillation": 0.75, "settings": {}}
)
SHRINKING = SHARED.model_copy(update={"shrinking": 0.5, "warmup": 0.5})


def one_hots(space, *architectures):
    return [space.one_hot(architecture) for architecture in architectures]


@pytest.mark.parametrize("space_name", ["elastic", "vit", "nasbench201"])
def test_gradients_are_the_sum_over_all_losses(space_name: str) -> None:
    """The largest architecture learns from the labels, the others also from its outputs."""
    search = make_search(space_name, SHARED)
    supernet, space = search.supernet.double(), search.strategy.space
    images, labels = search.training.batch(0)
    images = images.double()
    smallest, largest = smallest_and_largest(space)
    own = space.sample(np.random.default_rng(7))
    random = space.sample(np.random.default_rng([search.strategy.seed, 3]))
    reference = copy.deepcopy(supernet)
    first, *others = one_hots(space, largest, own, random, smallest)
    logits = reference(images, first)
    losses = [F.cross_entropy(logits, labels)]
    teacher = logits.detach().softmax(dim=1)
    for other in others:
        log_p = reference(images, other).log_softmax(dim=1)
        soft = -(teacher * log_p).sum(dim=1).mean()
        losses.append(0.25 * F.nll_loss(log_p, labels) + 0.75 * soft)
    sum(losses).backward()
    found = search.sandwich.backward(space.one_hot(own), (images, labels), 3)
    torch.testing.assert_close(found, sum(losses).detach() / 4)
    for mine, expected in zip(supernet.parameters(), reference.parameters(), strict=True):
        assert (mine.grad is None) == (expected.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, expected.grad)


def test_without_a_sandwich_only_the_strategys_mixture_is_trained() -> None:
    search = make_search("elastic", CONFIG)
    reference = copy.deepcopy(search.supernet)
    batch = search.training.batch(0)
    mixture = search.strategy.ask().detach()
    loss = F.cross_entropy(reference(batch[0], mixture), batch[1])
    loss.backward()
    assert search.sandwich.backward(mixture, batch, 0) == loss
    for mine, expected in zip(search.supernet.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine.grad, expected.grad)


@pytest.mark.parametrize("name", ["elastic", "vit"])
def test_smallest_and_largest_bound_the_macs_of_random_architectures(name: str) -> None:
    space = make_search(name, CONFIG).strategy.space
    fewest, most = (space.params_and_macs(a)[1] for a in smallest_and_largest(space))
    for seed in range(50):
        _, macs = space.params_and_macs(space.sample(np.random.default_rng(seed)))
        assert fewest <= macs <= most


def test_phases_ascend_and_end_after_the_shrinking_steps() -> None:
    search = make_search("elastic", SHRINKING.model_copy(update={"steps": 80}))
    phases = [search.sandwich.phase(step) for step in range(80)]
    count = search.supernet.phases
    assert count == 3
    assert sorted(phases) == phases
    assert [phases.index(p) for p in range(1, count + 1)] == [14, 27, 40]
    assert set(phases[40:]) == {count}


def test_each_phase_trains_only_the_sizes_added_so_far(monkeypatch) -> None:
    search = make_search("elastic", SHRINKING.model_copy(update={"steps": 80}))
    space, seen = search.strategy.space, []

    def forward(inputs: torch.Tensor, mixture: Mixture) -> torch.Tensor:
        seen.append(space.to_genotype(space.most_likely(mixture)))
        return torch.zeros(len(inputs), 3, requires_grad=True)

    monkeypatch.setattr(search.supernet, "forward", forward)
    mixture = space.one_hot(space.architecture([0] * len(space.choices)))
    phases = ((0, 5, 2, 3), (20, 3, 2, 3), (30, 3, 1, 3), (50, 3, 1, 1))
    for step, kernel, depth, expansion in phases:
        seen.clear()
        search.sandwich.backward(mixture, search.training.batch(0), step)
        largest, own, _, smallest = seen
        assert set(largest["kernels"]) == {5}
        assert set(largest["expansions"]) == {3}
        assert largest["depths"] == [2] * 3
        for genotype in (own, smallest):
            assert set(genotype["kernels"]) == {kernel}
            assert genotype["depths"] == [depth] * 3
            assert set(genotype["expansions"]) == {expansion}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_reordering_keeps_weights_and_optimiser_consistent(optimizer: str) -> None:
    """A step of the largest architecture has the same effect with and without reordering."""
    config = SHARED.model_copy(update={"optimizer": optimizer})
    search = make_search("elastic", config.model_copy(update={"sandwich": 0, "distillation": 0}))
    search.supernet.double()
    mixture = search.strategy.space.one_hot(smallest_and_largest(search.strategy.space)[1])
    images, labels = search.training.batch(0)
    batch = images.double(), labels
    for _ in range(3):
        search._weights_step(mixture, batch)
    other = copy.deepcopy(search)
    reorder(other.supernet.reordering(3), other.optimizer)
    pairs = zip(search.supernet.parameters(), other.supernet.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)
    for both in (search, other):
        both._weights_step(mixture, batch)
    outputs = [both.supernet.eval()(batch[0], mixture) for both in (search, other)]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)


def test_resumed_search_with_shrinking_is_bit_identical(tmp_path) -> None:
    """It is resumed from a checkpoint right before the phase that sorts channels."""
    config = SHRINKING.model_copy(update={"steps": 8, "checkpoint_every": 4})
    whole = make_search("elastic", config)
    assert whole.sandwich.phase(3) < whole.sandwich.phase(4) == whole.supernet.phases
    while whole.step < config.steps:
        whole.advance()
    resumed = run_with_interruptions(lambda: make_search("elastic", config), tmp_path, 5)
    assert_same_weights(resumed.supernet, whole.supernet)
