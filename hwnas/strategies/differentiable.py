"""Differentiable strategies, which follow the gradient of the objective by the mixing weights.

This module has their base class and the strategies whose mixture is a deterministic function of
the architecture parameters. The evaluator decides whether the gradient is of first or second order.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome, SearchStrategy, Settings


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

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        with torch.no_grad():
            # Pruned and impossible options get a very low but finite score.
            scores = self.scores().clamp_min(-1e3).masked_fill(~self.space.scored_options, 0.0)
        return decoder.best(scores.double().numpy(), k)

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


class DartsSettings(GradientSettings):
    """The settings of DARTS, with the weight of beta-decay."""

    beta_decay: float = Field(
        50.0,
        ge=0,
        description="weight of beta-decay at the end of the search; grows linearly from 0",
    )


class DeterministicStrategy(GradientStrategy):
    """A strategy whose mixture is a function of its parameters, so that its Hessian is defined."""


class DartsStrategy(DeterministicStrategy):
    """A softmax over the options of each choice, with beta-decay against collapse to skips.

    Beta-decay adds `beta_decay * progress * mean(logsumexp(parameters))`: Ye et al., "beta-DARTS",
    CVPR 2022 (arXiv 2203.01665), eqs. 12 and 13.
    """

    name = "darts"
    paper = "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019, arXiv 1806.09055"
    settings_model = DartsSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: DartsSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.beta_decay = settings.beta_decay

    def mixing_weights(self) -> Tensor:
        return self.log_probabilities().exp()

    def regulariser(self) -> Tensor:
        masked = self.parameters.masked_fill(~self.mask, -math.inf)
        return self.beta_decay * self.progress * masked.logsumexp(dim=1).mean()


class PcDartsSettings(DartsSettings):
    """The published settings, which have no beta-decay."""

    beta_decay: float = Field(
        0.0,
        ge=0,
        description="weight of beta-decay at the end of the search; grows linearly from 0",
    )


class PcDartsStrategy(DartsStrategy):
    """DARTS with edge normalisation, on a supernet that mixes 1 of 4 channels.

    Each edge has a weight of its own, a softmax over the edges into the same node, which multiplies
    the weights of its options.
    """

    name = "pc-darts"
    paper = (
        "Xu et al., PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture "
        "Search, ICLR 2020, arXiv 1907.05737"
    )
    partial_channels = 4
    settings_model = PcDartsSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: DartsSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.nodes = space.node_inputs()
        generator = torch.Generator().manual_seed(seed)
        self.edge_parameters = 1e-3 * torch.randn(len(space.choices), generator=generator)
        self.edge_parameters.requires_grad_()
        self.optimizer.add_param_group({"params": [self.edge_parameters]})

    def log_edge_weights(self) -> Tensor:
        """The logarithm of each edge's weight, (choices, 1)."""
        rows = torch.empty_like(self.edge_parameters)
        for edges in self.nodes:
            rows = rows.index_copy(
                0, torch.tensor(edges), self.edge_parameters[edges].log_softmax(dim=0)
            )
        return rows.unsqueeze(1)

    def mixing_weights(self) -> Tensor:
        return self.scores().exp()

    def scores(self) -> Tensor:
        return self.log_probabilities() + self.log_edge_weights()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"edge_parameters": self.edge_parameters.detach()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            self.edge_parameters.copy_(state["edge_parameters"])


class DartsMinusSettings(DartsSettings):
    """The published settings, which have no beta-decay."""

    beta_decay: float = Field(
        0.0,
        ge=0,
        description="weight of beta-decay at the end of the search; grows linearly from 0",
    )
    auxiliary_skip: float = Field(
        1.0, ge=0, description="weight of the auxiliary skip connection at the start; falls to 0"
    )


class DartsMinusStrategy(DartsStrategy):
    """DARTS with an auxiliary skip connection on every edge, which fades out during the search.

    The weight of the auxiliary skip is added to that of the candidate `skip_connect`, which
    computes the same.
    """

    name = "darts-minus"
    paper = (
        "Chu et al., DARTS-: Robustly Stepping out of Performance Collapse Without Indicators, "
        "ICLR 2021, arXiv 2009.01027"
    )
    settings_model = DartsMinusSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: DartsMinusSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.auxiliary = torch.zeros(self.mask.shape)
        for row, choice in enumerate(space.choices):
            if "skip_connect" in choice.options:
                self.auxiliary[row, choice.options.index("skip_connect")] = settings.auxiliary_skip

    def mixing_weights(self) -> Tensor:
        return super().mixing_weights() + (1 - self.progress) * self.auxiliary


class FairDartsSettings(GradientSettings):
    """Settings of Adam, and the weight of the zero-one loss."""

    zero_one: float = Field(
        10.0, ge=0, description="weight of the loss that drives the sigmoids to 0 or 1"
    )


class FairDartsStrategy(DeterministicStrategy):
    """A sigmoid for each option, so that options do not compete; a loss drives it to 0 or 1."""

    name = "fairdarts"
    paper = (
        "Chu et al., Fair DARTS: Eliminating Unfair Advantages in DARTS, ECCV 2020, "
        "arXiv 1911.12126"
    )
    settings_model = FairDartsSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: FairDartsSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.zero_one = settings.zero_one

    def mixing_weights(self) -> Tensor:
        return self.parameters.sigmoid() * self.mask

    def regulariser(self) -> Tensor:
        """The zero-one loss -w mean((sigmoid - 1/2)^2), eq. 6 of the paper."""
        away = (self.parameters.sigmoid() - 0.5).square()
        return -self.zero_one * away[self.mask].mean()

    def log_probabilities(self) -> Tensor:
        return self.log_shares(self.mixing_weights())
