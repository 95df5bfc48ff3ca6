"""A watch over a differentiable search that collapses onto skip connections.

Two signs, looked at every so many steps: too many skips in the most probable architecture, and a
dominant eigenvalue of the validation loss's Hessian by the parameters that grows (Zela et al.,
"Understanding and Robustifying Differentiable Architecture Search", ICLR 2020, arXiv 1909.09656).
At either the architecture goes back to where it was in order and stays there: by one look for
skips, by WINDOW looks for the eigenvalue, which has grown for some time when it is noticed.
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
from hwnas.strategies.base import Decoder
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
        past: step and state of the strategy at the latest looks that were in order.
    """

    decoder: Decoder
    max_skips: float
    max_growth: float | None
    collapsed: str = ""
    eigenvalues: deque[float] = field(default_factory=lambda: deque(maxlen=2 * WINDOW))
    past: deque[tuple[int, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def look(
        self, strategy: GradientStrategy, step: int, gradient: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """Judge the strategy; at a collapse its state is set back.

        Args:
            strategy: searches.
            step: of the search.
            gradient: of the validation loss by the mixing weights, at given ones.

        Returns:
            What the history says of a collapse; empty when there is none.
        """
        skips, growth = most_skips(strategy.best(self.decoder)[0]), self._growth(strategy, gradient)
        # What was never in order cannot be set back: the first look only counts.
        if self.past and skips > self.max_skips:
            self.collapsed, back = f"{skips} skip connections in a cell", self.past[-1]
        elif self.past and self.max_growth is not None and growth > self.max_growth:
            self.collapsed = f"the dominant eigenvalue grew by {growth:.2f}"
            back = self.past[0]
        else:
            self.past.append((step, copy.deepcopy(strategy.state_dict())))
            return {}
        back_to_step, state = back
        # An optimiser keeps the tensors it is given.
        strategy.load_state_dict(copy.deepcopy(state))
        return {"collapsed": self.collapsed, "back_to_step": back_to_step}

    def _growth(self, strategy: GradientStrategy, gradient: Callable[[Tensor], Tensor]) -> float:
        """The eigenvalue's mean over the last WINDOW looks by that of those before; 1 at first."""
        if self.max_growth is None:
            return 1.0
        self.eigenvalues.append(dominant_eigenvalue(strategy, gradient))
        values = list(self.eigenvalues)
        before, now = sum(values[:WINDOW]), sum(values[WINDOW:])
        return now / before if len(values) == 2 * WINDOW and before > 0 else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed search needs."""
        return {
            "collapsed": self.collapsed,
            "eigenvalues": list(self.eigenvalues),
            "past": [[step, state] for step, state in self.past],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.collapsed = state["collapsed"]
        self.eigenvalues = deque(state["eigenvalues"], maxlen=2 * WINDOW)
        self.past = deque(((int(step), past) for step, past in state["past"]), maxlen=WINDOW)


def most_skips(architecture: Architecture) -> int:
    """Skip connections in the cell that has most; cells are named before the `/` of a choice."""
    cells = Counter(name.rpartition("/")[0] for name, option in architecture if option == SKIP)
    return max(cells.values(), default=0)


def dominant_eigenvalue(strategy: GradientStrategy, gradient: Callable[[Tensor], Tensor]) -> float:
    """Largest eigenvalue, by its size, of the Hessian of the validation loss by the parameters.

    Power iteration on finite differences of gradients; the mixture must be a function of the
    parameters, not a draw.

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
