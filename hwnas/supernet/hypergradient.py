"""The gradient of the bilevel problem that a differentiable search follows, at one step of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.errors import InputError
from hwnas.strategies.gradient import DeterministicStrategy, GradientStrategy
from hwnas.supernet.bilevel import evaluate_mixture_second_order
from hwnas.supernet.evaluate import evaluate_mixture
from hwnas.supernet.guard import dominant_eigenvalue
from hwnas.supernet.search import SupernetSearch


@dataclass(frozen=True)
class Hypergradient:
    """The gradient of the objective with respect to the architecture's parameters.

    Attributes:
        norm: its length by the first-order approximation, in the objective's unit for each unit of
            the parameters.
        relative_error: length of its difference from the second-order gradient, divided by the
            length of that.
        cosine: of the angle between the two.
        learning_rate: of the unrolled step of the weights.
        eigenvalue: of largest magnitude of the validation loss's Hessian with respect to the
            parameters (Zela et al., "Understanding and Robustifying Differentiable Architecture
            Search", ICLR 2020, arXiv 1909.09656); None if the mixture is random.
    """

    norm: float
    relative_error: float
    cosine: float
    learning_rate: float
    eigenvalue: float | None


def hypergradient(search: SupernetSearch, batch: int = 0) -> Hypergradient:
    """Compare the first-order gradient with the second-order one on one batch.

    Both are those of Liu et al., "DARTS", ICLR 2019 (arXiv 1806.09055), eqs. 6 to 8. The weights
    are unrolled with the learning rate of the search's start, since at its end nothing moves. Costs
    six forward and backward passes of the supernet, and sixteen for the eigenvalue.

    Args:
        search: of a gradient strategy, with weights trained by SGD; it is restored.
        batch: index of the training and of the validation batch.

    Raises:
        InputError: for another strategy or optimiser.
    """
    strategy = search.strategy
    if not isinstance(strategy, GradientStrategy) or search.config.optimizer != "sgd":
        raise InputError(
            "the hypergradient is that of a gradient strategy beside weights trained by sgd",
            where="search.strategy",
            actual=f"{strategy.name} with {search.config.optimizer}",
        )
    search.supernet.train()
    training, validation = search.training.batch(batch), search.validation.batch(batch)
    mixture = strategy.ask()
    groups = search.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    first = evaluate_mixture(
        search.supernet,
        search.limits,
        mixture,
        validation,
        multiplier=search.multiplier,
        with_gradient=True,
        loss_of=search.loss_of,
    )
    try:
        for group in groups:
            group["lr"] = search.config.learning_rate
        second = evaluate_mixture_second_order(
            search.supernet,
            search.limits,
            mixture,
            training,
            validation,
            search.optimizer,
            multiplier=search.multiplier,
            loss_of=search.loss_of,
        )
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    approximate, exact = (
        _of_parameters(strategy, mixture, outcome.gradient) for outcome in (first, second)
    )
    length = float(exact.norm().clamp_min(1e-30))
    return Hypergradient(
        float(approximate.norm()),
        float((approximate - exact).norm()) / length,
        float(torch.nn.functional.cosine_similarity(approximate, exact, dim=0)),
        search.config.learning_rate,
        _eigenvalue(search, strategy, batch),
    )


def _of_parameters(strategy: GradientStrategy, mixture: Mixture, gradient: Tensor | None) -> Tensor:
    """The gradient with respect to the strategy's parameters, flattened."""
    assert gradient is not None
    (found,) = torch.autograd.grad(
        mixture.weights, strategy.parameters, gradient.to(mixture.weights), retain_graph=True
    )
    return found.flatten().double()


def _eigenvalue(search: SupernetSearch, strategy: GradientStrategy, batch: int) -> float | None:
    """The dominant eigenvalue of the architecture's Hessian, without the latency term."""
    if not isinstance(strategy, DeterministicStrategy):
        return None
    validation = search.validation.batch(batch)

    def gradient(weights: Tensor) -> Tensor:
        outcome = evaluate_mixture(
            search.supernet,
            search.limits,
            Mixture(weights),
            validation,
            multiplier=0.0,
            with_gradient=True,
            loss_of=search.loss_of,
        )
        assert outcome.gradient is not None
        return outcome.gradient

    return dominant_eigenvalue(strategy, gradient)
