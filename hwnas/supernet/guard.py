"""A watch over a differentiable search that collapses onto skip connections.

Two signs, looked at every so many steps: too many skips in the most probable architecture, and a
dominant eigenvalue of the validation loss's Hessian by the parameters that grows (Zela et al.,
"Understanding and Robustifying Differentiable Architecture Search", ICLR 2020, arXiv 1909.09656).
At either the architecture goes back to where it last was in order, and stays there.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.strategies.base import Decoder, SearchStrategy
from hwnas.strategies.differentiable import GradientStrategy

SKIP = "skip_connect"
WINDOW = 5
"""Looks over whose mean the eigenvalue is judged, as in the paper."""
ITERATIONS = 8
"""Of the power method."""
STEP = 1e-2
"""Of the finite difference of gradients, along a vector of length 1."""


@dataclass
class Guard:
    """What was seen so far.

    Attributes:
        decoder: for the most probable architecture.
        max_skips: most skips in a cell that are in order.
        max_growth: largest ratio of the eigenvalue's mean to that of WINDOW looks before; None to
            leave the eigenvalue out, which takes 2 * ITERATIONS gradients a look.
        collapsed: why the search was stopped; empty while it is in order.
        eigenvalues: one a look.
        last: the strategy's state at the last look that was in order, and its step.
    """

    decoder: Decoder
    max_skips: float
    max_growth: float | None
    collapsed: str = ""
    eigenvalues: deque[float] = field(default_factory=lambda: deque(maxlen=2 * WINDOW))
    last: dict[str, Any] | None = None
    last_step: int = 0

    def look(
        self, strategy: SearchStrategy, step: int, gradient: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """Judge the strategy; at a collapse its state is set back.

        Args:
            strategy: searches.
            step: of the search.
            gradient: of the validation loss by the mixing weights, at given ones.

        Returns:
            What the history says of a collapse; empty when there is none.
        """
        reason = self._reason(strategy, gradient)
        if not reason:
            self.last, self.last_step = copy.deepcopy(strategy.state_dict()), step
            return {}
        self.collapsed = reason
        if self.last is not None:
            strategy.load_state_dict(self.last)
        return {"collapsed": reason, "back_to_step": self.last_step}

    def _reason(self, strategy: SearchStrategy, gradient: Callable[[Tensor], Tensor]) -> str:
        skips = most_skips(strategy.best(self.decoder)[0])
        if skips > self.max_skips:
            return f"{skips} skip connections in a cell"
        if self.max_growth is None or not isinstance(strategy, GradientStrategy):
            return ""
        self.eigenvalues.append(dominant_eigenvalue(strategy, gradient))
        values = list(self.eigenvalues)
        if len(values) < 2 * WINDOW:
            return ""
        before, now = sum(values[:WINDOW]) / WINDOW, sum(values[WINDOW:]) / WINDOW
        if before > 0 and now > self.max_growth * before:
            return f"the dominant eigenvalue grew by {now / before:.2f}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed search needs."""
        return {
            "collapsed": self.collapsed,
            "eigenvalues": list(self.eigenvalues),
            "last": self.last,
            "last_step": self.last_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.collapsed = state["collapsed"]
        self.eigenvalues = deque(state["eigenvalues"], maxlen=2 * WINDOW)
        self.last = state["last"]
        self.last_step = int(state["last_step"])


def most_skips(architecture: Architecture) -> int:
    """Skip connections in the cell that has most; cells are named before the `/` of a choice."""
    cells = Counter(name.rpartition("/")[0] for name, option in architecture if option == SKIP)
    return max(cells.values(), default=0)


def dominant_eigenvalue(strategy: GradientStrategy, gradient: Callable[[Tensor], Tensor]) -> float:
    """Largest eigenvalue, by its size, of the Hessian of the validation loss by the parameters.

    Power iteration on finite differences of gradients.

    Args:
        strategy: its parameters are what they were before, afterwards.
        gradient: of the loss by the mixing weights (choices, max_options).
    """
    origin = strategy.parameters.detach().clone()

    def at(parameters: Tensor) -> Tensor:
        with torch.no_grad():
            strategy.parameters.copy_(parameters)
        weights = strategy.mixing_weights()
        return torch.autograd.grad(weights, strategy.parameters, gradient(weights.detach()))[0]

    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(origin.shape, generator=generator) * strategy.mask
    value = 0.0
    try:
        for _ in range(ITERATIONS):
            vector = vector / vector.norm().clamp_min(1e-12)
            product = (at(origin + STEP * vector) - at(origin - STEP * vector)) / (2 * STEP)
            value = float((vector * product).sum())
            vector = product
    finally:
        with torch.no_grad():
            strategy.parameters.copy_(origin)
    return value
