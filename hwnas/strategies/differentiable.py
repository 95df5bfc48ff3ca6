"""Differentiable strategies whose mixture is a deterministic function of their parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder
from hwnas.strategies.gradient import DeterministicStrategy, GradientSettings


class DartsSettings(GradientSettings):
    """The settings of DARTS, with the weight of beta-decay."""

    beta_decay: float = Field(
        50.0,
        ge=0,
        description="weight of beta-decay at the end of the search; grows linearly from 0",
    )


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
