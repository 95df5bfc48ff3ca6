"""DARTS: architecture weights learned by gradient (Liu et al., ICLR 2019, arXiv 1806.09055).

Whether the gradient is of first or second order is the evaluator's business; here it is only
followed. Beta-decay (Ye et al., "beta-DARTS", CVPR 2022, arXiv 2203.01665) keeps the choices from
collapsing onto parameter-free operators.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome, SearchStrategy


class DartsStrategy(SearchStrategy):
    """Softmax over the options of each choice; its logits follow the gradient by Adam.

    Args:
        space: the search space.
        seed: of the initial logits, 1e-3 standard normal.
        learning_rate: of Adam; betas (.5, .999) as published.
        weight_decay: of Adam, in the gradient.
        beta_decay: weight of the regulariser mean(logsumexp(logits)) at the search's end; it
            grows linearly from 0 (eqs. 12 and 13 of beta-DARTS).
    """

    uses_gradient = True

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        learning_rate: float,
        weight_decay: float,
        beta_decay: float,
    ) -> None:
        self.mask = space.mask
        generator = torch.Generator().manual_seed(seed)
        self.logits = 1e-3 * torch.randn(self.mask.shape, generator=generator)
        self.logits.requires_grad_()
        self.beta_decay = beta_decay
        self.optimizer = torch.optim.Adam(
            [self.logits], lr=learning_rate, betas=(0.5, 0.999), weight_decay=weight_decay
        )

    def _log_probabilities(self) -> Tensor:
        return self.logits.masked_fill(~self.mask, -math.inf).log_softmax(dim=1)

    def ask(self) -> Mixture:
        return Mixture(self._log_probabilities().exp())

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        if outcome.gradient is None:
            raise ValueError("DARTS needs the gradient of the objective")
        self.optimizer.zero_grad()
        masked = self.logits.masked_fill(~self.mask, -math.inf)
        decay = self.beta_decay * progress * masked.logsumexp(dim=1).mean()
        decay.backward()
        mixture.weights.backward(outcome.gradient.to(mixture.weights))
        self.optimizer.step()

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        with torch.no_grad():
            scores = self._log_probabilities().masked_fill(~self.mask, 0.0)
        return decoder.best(scores.double().numpy(), k)

    def entropy(self) -> float:
        with torch.no_grad():
            log_p = self._log_probabilities()
            entropy = -(log_p.exp() * log_p.masked_fill(~self.mask, 0.0)).sum(dim=1)
            return float((entropy / self.mask.sum(dim=1).log()).mean())

    def state_dict(self) -> dict[str, Any]:
        return {"logits": self.logits.detach(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
