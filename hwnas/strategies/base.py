"""What the search loop asks of a strategy: where to look next, and what it found best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from hwnas.architecture import Architecture, Mixture


class Decoder(Protocol):
    """Turns scores into architectures that keep the budget (`hwnas.budget.decode.Decoder`)."""

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether the predicted latencies are within the budgets."""

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """The k feasible architectures with the highest sum of scores (choices, max_options)."""


@dataclass(frozen=True)
class Outcome:
    """What the evaluation of a mixture gave.

    Attributes:
        objective: the scalar to be minimised, loss and latency term together.
        loss: validation loss alone.
        ratio: expected latency over budget, the largest of all devices.
        gradient: of the objective by the mixture's weights, (choices, max_options), for
            strategies that use it.
    """

    objective: float
    loss: float
    ratio: float
    gradient: Tensor | None = None


class SearchStrategy(ABC):
    """One search algorithm. It knows the space, but neither data, tables nor kernels."""

    uses_gradient: bool = False

    @abstractmethod
    def ask(self) -> Mixture:
        """The mixture to train and evaluate next."""

    @abstractmethod
    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        """Learn from the outcome of the mixture that `ask` gave last.

        Args:
            mixture: what was evaluated.
            outcome: how good it was.
            progress: share of the search that is done, 0 to 1, for schedules.
        """

    @abstractmethod
    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """Up to k architectures that keep the budget, the most promising first."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed search needs: tensors, numbers and lists only."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""

    def entropy(self) -> float | None:
        """Mean entropy of the choices, 1 for undecided and 0 for decided; None if undefined."""
        return None
