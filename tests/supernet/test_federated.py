"""Federated search against steps on all samples, written anew, and its resumption."""

from __future__ import annotations

import copy

import numpy as np
import torch
from helpers.supernet_searches import (
    CONFIG,
    assert_same_weights,
    make_search,
    run_with_interruptions,
)

from hwnas.config import SearchConfig
from hwnas.strategies.base import Outcome
from hwnas.supernet.federated import Client, FederatedSearch, mean_outcome, mean_weights

PLAIN = CONFIG.model_copy(update={"momentum": 0.0, "weight_decay": 0.0, "gradient_clip": 1e9})


def federated(
    config: SearchConfig, shares: list[float], local_steps: int, *, same: bool = False
) -> FederatedSearch:
    """A search by clients with batches of their own, or with the same ones."""
    loop = make_search("nasbench201", config)
    clients = []
    for number, share in enumerate(shares):
        training, validation = copy.copy(loop.training), copy.copy(loop.validation)
        if not same:
            training._seed, validation._seed = 10 + number, 20 + number
        clients.append(Client(training, validation, share))
    return FederatedSearch(
        loop.supernet,
        loop.strategy,
        loop.limits,
        config,
        loop.training,
        loop.validation,
        clients=clients,
        local_steps=local_steps,
    )


def test_one_client_without_momentum_is_an_ordinary_search() -> None:
    config = PLAIN.model_copy(update={"warmup": 0.75})
    alone, whole = federated(config, [1.0], 2, same=True), make_search("nasbench201", config)
    while alone.step < 6:
        alone.advance()
    for _ in range(6):
        whole.advance()
    assert_same_weights(alone.supernet, whole.supernet)


def test_a_round_of_single_steps_follows_the_mean_of_the_gradients() -> None:
    loop = federated(PLAIN, [0.25, 0.75], 1)
    begin = copy.deepcopy(loop.supernet)
    mixture = copy.deepcopy(loop.strategy).ask_training()
    expected = {name: value.double() for name, value in begin.named_parameters()}
    for client in loop.clients:
        network = copy.deepcopy(begin).train()
        inputs, targets = client.training.batch(0)
        loss = torch.nn.functional.cross_entropy(network(inputs, mixture.detach()), targets)
        names, parameters = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                step = client.share * PLAIN.learning_rate * gradient.double()
                expected[name] = expected[name] - step
    loop.advance()
    for name, value in loop.supernet.named_parameters():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)


def test_the_strategy_learns_from_the_mean_over_clients() -> None:
    config = CONFIG.model_copy(update={"warmup": 0.0})
    loop = federated(config, [0.25, 0.75], 2)
    told: list[Outcome] = []
    tell = loop.strategy.tell
    loop.strategy.tell = lambda m, outcome, p: (told.append(outcome), tell(m, outcome, p))
    single = copy.deepcopy(loop)
    mixture = copy.deepcopy(loop.strategy).ask()
    found = []
    for client in single.clients:
        single.validation = client.validation
        single.supernet.train()
        found.append(
            [single._evaluate(mixture, step, 0.0, with_gradient=True) for step in range(2)]
        )
    loop.advance()
    (outcome,) = told
    weights = np.array([0.125, 0.125, 0.375, 0.375])
    losses = [one.loss for pair in found for one in pair]
    gradients = [one.gradient.double() for pair in found for one in pair]
    np.testing.assert_allclose(outcome.loss, weights @ losses, rtol=1e-4)
    expected = sum(w * g for w, g in zip(weights, gradients, strict=True))
    torch.testing.assert_close(outcome.gradient.double(), expected, rtol=1e-3, atol=1e-5)


def test_a_resumed_federated_search_is_bit_identical(tmp_path) -> None:
    whole = federated(CONFIG, [0.5, 0.5], 2)
    while whole.step < CONFIG.steps:
        whole.advance()
    # Interrupted after step 6; the checkpoint is that of step 4, behind the multiple of 3.
    resumed = run_with_interruptions(lambda: federated(CONFIG, [0.5, 0.5], 2), tmp_path, 6)
    assert resumed.step == CONFIG.steps
    assert torch.equal(resumed.strategy.ask().weights, whole.strategy.ask().weights)
    assert_same_weights(resumed.supernet, whole.supernet)


def test_the_last_round_is_shorter_where_steps_do_not_divide() -> None:
    loop = federated(CONFIG, [0.5, 0.5], 3)
    steps = []
    while loop.step < CONFIG.steps:
        loop.advance()
        steps.append(loop.step)
    assert steps == [3, 6, 8]


def test_means_are_weighted_and_counters_stay() -> None:
    states = [{"w": torch.full((2,), value), "n": torch.tensor(7)} for value in (1.0, 5.0)]
    found = mean_weights(states, [0.75, 0.25])
    assert found["w"].tolist() == [2.0, 2.0] and int(found["n"]) == 7
    outcomes = [Outcome(1.0, 2.0, 0.5, torch.ones(1, 2)), Outcome(3.0, 6.0, 0.5, torch.zeros(1, 2))]
    mean = mean_outcome(outcomes, [0.5, 0.5])
    assert (mean.objective, mean.loss, mean.gradient.tolist()) == (2.0, 4.0, [[0.5, 0.5]])
    assert mean_outcome([Outcome(1.0, 1.0, 1.0)], [1.0]).gradient is None
