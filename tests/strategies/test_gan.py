"""The discriminator of pairs, the generator that it teaches, and a search by both."""

from __future__ import annotations

import numpy as np
import torch
from helpers.tiny import decoder_of, tiny_space

from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.strategies import build_strategy
from hwnas.strategies.base import Outcome

SPACE = tiny_space("nasbench201")
SETTINGS = {"startup": 6, "size_prior": False, "steps": 30, "elite": 4}
GOOD = SPACE.choices[0].options.index("nor_conv_1x1")


def error(architecture) -> float:
    return 0.9 - 0.1 * SPACE.chosen(architecture).count(GOOD)


def tell(strategy, architecture, ratio: float = 0.5) -> None:
    value = error(architecture)
    outcome = Outcome(value, value, ratio, lasting=True)
    strategy.tell(SPACE.one_hot(architecture), outcome, 0.0)


def advance(strategy, steps: int) -> None:
    for _ in range(steps):
        tell(strategy, SPACE.most_likely(strategy.ask()))


def told(count: int, **settings):
    """A strategy that has seen so many random architectures."""
    strategy = build_strategy("gan", SPACE, 0, SETTINGS | settings, decoder_of(SPACE))
    rng = np.random.default_rng(5)
    for _ in range(count):
        tell(strategy, SPACE.sample(rng))
    return strategy


def test_the_discriminator_prefers_the_better_of_unseen_pairs(rng) -> None:
    strategy = told(100, steps=200)
    strategy.propose(rng)
    _, discriminator = strategy._trained()
    drawn = [SPACE.sample(rng) for _ in range(100)]
    scores = discriminator(strategy._features(SPACE.one_hots(drawn).float()))[:, 0].numpy()
    errors = np.array([error(architecture) for architecture in drawn])
    better = errors[:50] < errors[50:]
    differing = errors[:50] != errors[50:]
    agrees = (scores[:50] > scores[50:]) == better
    assert agrees[differing].mean() > 0.85


def test_the_generator_makes_architectures_like_the_best_and_better(rng) -> None:
    strategy = told(60, steps=100)
    proposed = strategy.propose(rng)
    generated = strategy._generated(rng)
    random = [SPACE.sample(rng) for _ in range(200)]
    means = [
        np.mean([error(architecture) for architecture in group]) for group in (generated, random)
    ]
    assert means[0] < means[1] - 0.1
    assert error(proposed) <= np.mean([one.objective for one in strategy._elite()])


def test_the_condition_is_the_share_of_the_budget(rng) -> None:
    """Good architectures of two kinds, of which one takes the whole budget."""
    strategy = build_strategy("gan", SPACE, 0, SETTINGS | {"steps": 150}, decoder_of(SPACE))
    pairs = [(SPACE.architecture([GOOD] * 5 + [0]), 0.1), (SPACE.architecture([GOOD] * 5 + [3]), 1)]
    for _ in range(5):
        for architecture, ratio in pairs:
            tell(strategy, architecture, ratio)
    strategy.propose(rng)
    generator, _ = strategy._trained()
    noise = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    of_ratio = [
        strategy._log_probabilities(generator, noise, torch.full((50,), float(ratio)))
        .exp()
        .mean(dim=0)[5]
        for _, ratio in pairs
    ]
    assert of_ratio[0][0] > of_ratio[1][0]
    assert of_ratio[1][3] > of_ratio[0][3]


def test_of_equal_short_trainings_the_larger_network_is_better() -> None:
    """It gains more in a longer training; scores that do not last are compared as they are."""
    small, large = SPACE.architecture([1] * 6), SPACE.architecture([3] * 6)
    for lasting, best in ((True, large), (False, small)):
        strategy = build_strategy("gan", SPACE, 0, SETTINGS, decoder_of(SPACE))
        for architecture in (small, large):
            outcome = Outcome(0.5, 0.5, 0.5, lasting=lasting)
            strategy.tell(SPACE.one_hot(architecture), outcome, 0.0)
        assert strategy.ranked()[0] == best


def test_a_search_is_resumed_with_the_same_networks(tmp_path) -> None:
    first, reference = (
        build_strategy("gan", SPACE, 3, SETTINGS, decoder_of(SPACE)) for _ in range(2)
    )
    advance(reference, 12)
    advance(first, 8)
    save_checkpoint(tmp_path, "search", 8, {"strategy": first.state_dict()})
    resumed = build_strategy("gan", SPACE, 3, SETTINGS, decoder_of(SPACE))
    resumed.load_state_dict(load_checkpoint(tmp_path, "search")[1]["strategy"])
    advance(resumed, 4)
    assert resumed.observed == reference.observed
    assert torch.equal(resumed.ask().weights, reference.ask().weights)
