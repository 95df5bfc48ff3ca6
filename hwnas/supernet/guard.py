"""Early stopping of a differentiable search that collapses onto skip connections.

The search is checked at regular intervals for two signs of collapse: too many skip connections in
the most probable architecture, and growth of the dominant eigenvalue of the Hessian of the
validation loss with respect to the architecture parameters (Zela et al., "Understanding and
Robustifying Differentiable Architecture Search", ICLR 2020, arXiv 1909.09656). When one is found,
the architecture parameters are reset to their state at an earlier check and stay there. For skip
connections that is the previous check; for the eigenvalue, whose growth is noticed late, it is the
check WINDOW checks ago.
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
from hwnas.strategies.gradient import GradientStrategy

SKIP = "skip_connect"
WINDOW = 5
"""Number of checks over which the eigenvalue is averaged, as in the paper."""
POWER_ITERATIONS = 8
"""Iterations of the power method."""
DIFFERENCE_STEP = 1e-2
"""Step of the finite difference of gradients, along a vector of length 1."""


@dataclass
class Guard:
    """Detects a collapse of the search and resets the strategy.

    Attributes:
        decoder: decodes the most probable architecture.
        max_skips: largest accepted number of skip connections in a cell.
        max_growth: largest accepted ratio of the mean eigenvalue over the latest WINDOW checks to
            the mean over the WINDOW checks before. None omits this test, which needs
            2 * POWER_ITERATIONS gradients per check.
        collapsed: description of the collapse; empty as long as there is none.
        eigenvalues: dominant eigenvalues at the latest checks.
        past: step and state of the strategy at the latest checks without a collapse.
    """

    decoder: Decoder
    max_skips: float
    max_growth: float | None
    collapsed: str = ""
    eigenvalues: deque[float] = field(default_factory=lambda: deque(maxlen=2 * WINDOW))
    past: deque[tuple[int, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def check(
        self, strategy: GradientStrategy, step: int, gradient: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """Check the strategy for a collapse, and reset its state if there is one.

        Args:
            strategy: the strategy.
            step: step of the search.
            gradient: maps mixing weights to the gradient of the validation loss with respect to
                them.

        Returns:
            A record for the run's history: the eigenvalue if it is watched, and a collapse.
        """
        skips, growth = (
            max_skips_per_cell(strategy.best(self.decoder)[0]),
            self._growth(strategy, gradient),
        )
        record = {"eigenvalue": self.eigenvalues[-1]} if self.eigenvalues else {}
        # At the first check there is no earlier state to return to.
        if self.past and skips > self.max_skips:
            self.collapsed, back = f"{skips} skip connections in a cell", self.past[-1]
        elif self.past and self.max_growth is not None and growth > self.max_growth:
            self.collapsed = f"the dominant eigenvalue grew by {growth:.2f}"
            back = self.past[0]
        else:
            self.past.append((step, copy.deepcopy(strategy.state_dict())))
            return record
        back_to_step, state = back
        # Copied because an optimiser keeps and changes the tensors of the state that it loads.
        strategy.load_state_dict(copy.deepcopy(state))
        return record | {"collapsed": self.collapsed, "back_to_step": back_to_step}

    def _growth(self, strategy: GradientStrategy, gradient: Callable[[Tensor], Tensor]) -> float:
        """Return the growth of the mean eigenvalue; 1 until there are 2 * WINDOW checks."""
        if self.max_growth is None:
            return 1.0
        self.eigenvalues.append(dominant_eigenvalue(strategy, gradient))
        values = list(self.eigenvalues)
        before, now = sum(values[:WINDOW]), sum(values[WINDOW:])
        return now / before if len(values) == 2 * WINDOW and before > 0 else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to resume the search."""
        return {
            "collapsed": self.collapsed,
            "eigenvalues": list(self.eigenvalues),
            "past": [[step, state] for step, state in self.past],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.collapsed = state["collapsed"]
        self.eigenvalues = deque(state["eigenvalues"], maxlen=2 * WINDOW)
        self.past = deque(((int(step), past) for step, past in state["past"]), maxlen=WINDOW)


def max_skips_per_cell(architecture: Architecture) -> int:
    """Return the largest number of skip connections in any cell.

    The name of a choice is the name of its cell, a slash, and the name of its edge.
    """
    cells = Counter(name.rpartition("/")[0] for name, option in architecture if option == SKIP)
    return max(cells.values(), default=0)


def dominant_eigenvalue(strategy: GradientStrategy, gradient: Callable[[Tensor], Tensor]) -> float:
    """Return the eigenvalue of largest magnitude of the validation loss's Hessian.

    The Hessian with respect to the strategy's parameters is applied by finite differences of
    gradients, and its eigenvalue is found by power iteration. The mixing weights must be a
    deterministic function of the parameters.

    Args:
        strategy: the strategy; its parameters are restored afterwards.
        gradient: maps mixing weights (choices, max_options) to the gradient of the loss with
            respect to them.
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
        for _ in range(POWER_ITERATIONS):
            vector = vector / vector.norm().clamp_min(1e-12)
            product = (
                at(origin + DIFFERENCE_STEP * vector) - at(origin - DIFFERENCE_STEP * vector)
            ) / (2 * DIFFERENCE_STEP)
            value = float((vector * product).sum())
            vector = product
    finally:
        with torch.no_grad():
            strategy.parameters.copy_(origin)
    return value
