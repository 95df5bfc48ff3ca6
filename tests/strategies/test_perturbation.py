"""Perturbation-based selection on a known loss."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import decoder_of, tiny_space

from hwnas.architecture import Mixture
from hwnas.strategies import Outcome, build_strategy

SPACE = tiny_space("nasbench201")
DECODER = decoder_of(SPACE)
SETTINGS = {"judged_on": 3, "tune": 1, "learning_rate": 0.2, "beta_decay": 0.0}
WORTH = torch.rand(SPACE.mask.shape, generator=torch.Generator().manual_seed(5))
WORTH[:, 0] = 0.0
HARMFUL = 4
"""The row of an edge whose removal lowers the loss."""
TRIALS = 6 * (4 + 1) + 1 + 6


def make():
    return build_strategy("darts-pt", SPACE, 0, SETTINGS, DECODER)


def loss(mixture: Mixture) -> float:
    """Falls with each option that is present, whatever its weight; grows with the harmful edge."""
    present = mixture.weights > 0
    return 10.0 - float((WORTH * present).sum()) + 5.0 * bool(present[HARMFUL].any())


def search(strategy, first: int, last: int, steps: int) -> list[bool]:
    """Run steps with a gradient that favours the first operator; say which trained the weights."""
    trained = []
    for step in range(first, last):
        mixture = strategy.ask()
        gradient = torch.zeros(SPACE.mask.shape)
        gradient[:, 1] = -1.0
        known = None if strategy.judged_on else gradient
        strategy.tell(mixture, Outcome(loss(mixture), loss(mixture), 0.5, known), step / steps)
        trained.append(strategy.ask_training() is not None)
    return trained


def test_the_option_with_the_largest_loss_of_removal_is_selected() -> None:
    strategy = make()
    steps = 2 * TRIALS + 6
    trained = search(strategy, 0, steps, steps)
    first = steps - TRIALS
    # Each of a choice's four options is removed, then the weights are trained for one step.
    assert trained == [True] * first + [False, False, False, False, True] * 6 + [False] * 7
    (best,) = strategy.best(DECODER)
    for row, choice in enumerate(SPACE.choices):
        expected = "none" if row == HARMFUL else choice.options[int(WORTH[row].argmax())]
        assert best[choice.name] == expected
    assert strategy.entropy() == pytest.approx(0.0, abs=1e-6)


def test_choices_that_are_not_reached_are_decided_by_their_weights() -> None:
    strategy = make()
    steps = TRIALS
    search(strategy, 0, steps, steps)
    (best,) = strategy.best(DECODER)
    chosen = torch.tensor(SPACE.chosen(best))
    assert 0 < (chosen == WORTH.argmax(dim=1)).sum() < 6
    assert (chosen == 1).any()


def test_a_selection_resumes_where_it_was() -> None:
    steps = 2 * TRIALS + 6
    whole, half, rest = make(), make(), make()
    search(whole, 0, steps, steps)
    search(half, 0, steps - 17, steps)
    rest.load_state_dict(half.state_dict())
    search(rest, steps - 17, steps, steps)
    assert rest.best(DECODER, 3) == whole.best(DECODER, 3)
    assert torch.equal(rest.ask().weights, whole.ask().weights)
