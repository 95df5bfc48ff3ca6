"""The base class of differentiable strategies, which follow the gradient of the objective.

The evaluator computes the gradient with respect to the mixing weights, and decides whether it is of
first or second order.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Experience, Outcome, SearchStrategy, Settings

PRIOR_STRENGTH = 0.5
"""What a parameter gains at full trust from an option that raises the predicted score by a standard
deviation."""


class GradientSettings(Settings):
    """Settings of Adam for the architecture parameters; the defaults are those of DARTS."""

    learning_rate: float = Field(
        3e-4, gt=0, description="learning rate of Adam for the architecture parameters"
    )
    weight_decay: float = Field(
        1e-3, ge=0, description="weight decay of the architecture parameters"
    )
    entropy: float = Field(
        0.0,
        ge=0,
        description="weight of the choices' entropy at the end of the search; grows linearly "
        "from 0",
    )


class GradientStrategy(SearchStrategy):
    """One parameter for each option of each choice, trained by Adam.

    With the setting `entropy`, the term `entropy * progress * mean_entropy()` is added to the
    objective, so that the choices are decided at the end of the search: Tian et al.,
    "Discretization-Aware Architecture Search", Pattern Recognition 2021 (arXiv 2007.03154).

    Attributes:
        mask: (choices, max_options), True for options that exist and are not pruned.
        parameters: (choices, max_options), alpha in the papers.
        progress: the share of the search that is done.
    """

    uses_gradient = True

    def __init__(
        self, space: SearchSpace, seed: int, settings: GradientSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.mask = space.mask.clone()
        self.entropy_weight = settings.entropy
        generator = torch.Generator().manual_seed(seed)
        self.parameters = 1e-3 * torch.randn(self.mask.shape, generator=generator)
        self.parameters.requires_grad_()
        self.optimizer = torch.optim.Adam(
            [self.parameters],
            lr=settings.learning_rate,
            betas=(0.5, 0.999),
            weight_decay=settings.weight_decay,
        )
        self.progress = 0.0

    def begin_from(self, experience: Experience) -> None:
        """Move the parameters towards the options that earlier searches predict to be good."""
        scores = PRIOR_STRENGTH * experience.trust * experience.option_scores
        with torch.no_grad():
            self.parameters += torch.from_numpy(scores).to(self.parameters)

    @abstractmethod
    def mixing_weights(self) -> Tensor:
        """The weights of the next mixture, differentiable; zero where there is no option."""

    def regulariser(self) -> Tensor:
        """A scalar that is added to the objective, by default zero."""
        return self.parameters.new_zeros(())

    def log_probabilities(self) -> Tensor:
        """The log-probability of each option, -inf where there is none; by default log-softmax."""
        return self.parameters.masked_fill(~self.mask, -math.inf).log_softmax(dim=1)

    def log_shares(self, weights: Tensor) -> Tensor:
        """Logarithms of weights that are normalised over each choice's options.

        They are -inf where there is no option, with a gradient of zero instead of nan.

        Args:
            weights: (choices, max_options), not negative.
        """
        shares = weights / (weights * self.mask).sum(dim=1, keepdim=True)
        return shares.masked_fill(~self.mask, 1.0).log().masked_fill(~self.mask, -math.inf)

    def scores(self) -> Tensor:
        """The scores whose sum the decoder maximises, by default the log-probabilities."""
        return self.log_probabilities()

    def ask(self) -> Mixture:
        return Mixture(self.mixing_weights())

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        if outcome.gradient is None:
            raise ValueError(f"{self.name} needs the gradient of the objective")
        self.progress = progress
        self.optimizer.zero_grad()
        added = self.regulariser()
        if self.entropy_weight:
            added = added + self.entropy_weight * progress * self.mean_entropy()
        if added.requires_grad:
            torch.autograd.backward(added)
        torch.autograd.backward(mixture.weights, outcome.gradient.to(mixture.weights))
        self.optimizer.step()

    def decoding_scores(self) -> np.ndarray:
        """The scores whose sum is maximised at the end, (choices, max_options), finite."""
        with torch.no_grad():
            # Pruned and impossible options get a very low but finite score.
            scores = self.scores().clamp_min(-1e3).masked_fill(~self.space.scored_options, 0.0)
        found: np.ndarray = scores.double().numpy()
        return found

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        return decoder.best(self.decoding_scores(), k)

    def mean_entropy(self) -> Tensor:
        """The mean entropy of the choices, each normalised to [0, 1]; differentiable."""
        log_p = self.log_probabilities().clamp_min(-1e3)
        entropy = -(log_p.exp() * log_p.masked_fill(~self.mask, 0.0)).sum(dim=1)
        options = self.space.mask.sum(dim=1).clamp_min(2)
        return (entropy / options.log()).mean()

    def entropy(self) -> float:
        with torch.no_grad():
            return float(self.mean_entropy())

    def probabilities(self) -> Tensor:
        with torch.no_grad():
            return self.log_probabilities().exp()

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters.detach(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.parameters.copy_(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = float(state["progress"])


class DeterministicStrategy(GradientStrategy):
    """A strategy whose mixture is a function of its parameters, so that its Hessian is defined."""
