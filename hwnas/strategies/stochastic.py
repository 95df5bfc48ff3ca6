"""Differentiable strategies that sample a new mixture at every step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome
from hwnas.strategies.gradient import GradientSettings, GradientStrategy


class StochasticStrategy(GradientStrategy):
    """Samples mixtures from a distribution that the architecture parameters define.

    Attributes:
        draws: number of mixtures sampled so far; each is seeded by its number.
    """

    def __init__(
        self, space: SearchSpace, seed: int, settings: GradientSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.draws = 0

    @abstractmethod
    def draw(self) -> Mixture:
        """Sample a mixture with the global random generator, differentiably."""

    def ask(self) -> Mixture:
        self.draws += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                int(np.random.SeedSequence([self.seed, self.draws]).generate_state(1)[0])
            )
            return self.draw()

    def mixing_weights(self) -> Tensor:
        return self.ask().weights

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.draws = int(state["draws"])


class GumbelSettings(GradientSettings):
    """Settings of Adam, and the temperature, which changes linearly over the search."""

    temperature: float = Field(
        10.0, gt=0, description="temperature of the Gumbel softmax at the start"
    )
    temperature_end: float = Field(0.1, gt=0, description="temperature at the end")


class GdasStrategy(StochasticStrategy):
    """Sample one option of each choice; the gradient is that of the Gumbel softmax."""

    name = "gdas"
    paper = (
        "Dong & Yang, Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019, "
        "arXiv 1910.04465"
    )
    settings_model = GumbelSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: GumbelSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.temperatures = settings.temperature, settings.temperature_end

    def soft_draw(self) -> Tensor:
        """A sample of the Gumbel softmax, softmax((log p + Gumbel noise) / temperature)."""
        start, end = self.temperatures
        temperature = start + (end - start) * self.progress
        gumbel = -torch.empty(self.mask.shape).exponential_().log()
        return ((self.log_probabilities() + gumbel) / temperature).softmax(dim=1)

    def draw(self) -> Mixture:
        soft = self.soft_draw()
        chosen = soft.argmax(dim=1)
        hard = torch.nn.functional.one_hot(chosen, soft.shape[1])
        active = tuple((option,) for option in chosen.tolist())
        return Mixture(hard + soft - soft.detach(), active)


class SnasStrategy(GdasStrategy):
    """Run all options, weighted by a sample of the Gumbel softmax."""

    name = "snas"
    paper = "Xie et al., SNAS: Stochastic Neural Architecture Search, ICLR 2019, arXiv 1812.09926"

    def draw(self) -> Mixture:
        return Mixture(self.soft_draw())


class DrnasSettings(GradientSettings):
    """Settings of Adam without weight decay, of the regulariser, and of pruning."""

    weight_decay: float = Field(
        0.0, ge=0, description="weight decay of the architecture parameters"
    )
    anchor: float = Field(
        1e-3, ge=0, description="weight of the distance of the concentrations to 1"
    )
    prune_at: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the search after which options are pruned; 1 for never",
    )
    prune_to: float = Field(
        0.5, gt=0, le=1, description="share of a choice's options that stay after pruning"
    )
    widen: int = Field(
        2,
        ge=1,
        description="factor by which the share of mixed channels grows at pruning; divides "
        "`search.partial_channels`, without effect where that is 1",
    )


class DrnasStrategy(StochasticStrategy):
    """Sample weights from a Dirichlet distribution, and prune weak options during the search.

    With `search.partial_channels` the search is progressive: after pruning, the remaining options
    mix `widen` times as many channels. The paper mixes 1 of 6 channels first, and then 1 of 3.
    """

    name = "drnas"
    paper = "Chen et al., DrNAS: Dirichlet Neural Architecture Search, ICLR 2021, arXiv 2006.10355"
    settings_model = DrnasSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: DrnasSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.settings = settings

    def concentration(self) -> Tensor:
        """The concentrations of the Dirichlet distribution, elu(parameters) + 1."""
        return torch.nn.functional.elu(self.parameters) + 1

    def draw(self) -> Mixture:
        # Normalised independent gamma samples are a Dirichlet sample, for rows of any length.
        gamma = torch.distributions.Gamma(self.concentration().clamp_min(1e-3), 1.0).rsample()
        gamma = gamma.clamp_min(1e-12) * self.mask
        active = tuple(tuple(torch.nonzero(row).flatten().tolist()) for row in self.mask)
        return Mixture(gamma / gamma.sum(dim=1, keepdim=True), active)

    def regulariser(self) -> Tensor:
        distance: Tensor = (self.concentration() - 1)[self.mask].norm()
        return self.settings.anchor * distance

    def log_probabilities(self) -> Tensor:
        return self.log_shares(self.concentration())

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        super().tell(mixture, outcome, progress)
        if progress >= self.settings.prune_at and torch.equal(self.mask, self.space.mask):
            self._prune()

    @property
    def widening(self) -> int:
        return self.settings.widen if self.progress >= self.settings.prune_at else 1

    def _prune(self) -> None:
        with torch.no_grad():
            scores = self.log_probabilities()
        for row, choice in enumerate(self.space.choices):
            stay = max(1, round(self.settings.prune_to * len(choice.options)))
            self.mask[row] = False
            self.mask[row, scores[row].topk(stay).indices] = True

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"mask": self.mask.to(torch.uint8)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.mask = state["mask"].bool()
