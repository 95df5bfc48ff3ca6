"""What a search asks of a strategy: where to look next, and what it found best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace


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
        loss: validation loss or error alone.
        ratio: expected latency over budget, the largest of all devices.
        gradient: of the objective by the mixture's weights, (choices, max_options), for
            strategies that use it.
        lasting: whether the same mixture would get the same figures at any time of the search, up
            to noise. A supernet's weights change; a table or a training from scratch lasts. Only
            what lasts is answered with as the best.
        fidelity: share of a whole evaluation that it was; None where none can be cut short.
    """

    objective: float
    loss: float
    ratio: float
    gradient: Tensor | None = None
    lasting: bool = False
    fidelity: float | None = None


class Settings(BaseModel):
    """What can be set of a strategy: `[search.settings]` in a configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SearchStrategy(ABC):
    """One search algorithm. It knows the space and what is feasible, but no data and no kernels.

    Args:
        space: the search space.
        seed: of everything random.
        settings: of `settings_model`.
        decoder: knows the budgets as they are when the search starts.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    """Authors, title, venue and number of the paper that the strategy follows."""
    settings_model: ClassVar[type[Settings]] = Settings
    uses_gradient: ClassVar[bool] = False
    partial_channels: ClassVar[int] = 1
    """1 of so many channels goes through the candidates of a supernet's cells, unless the
    configuration says otherwise."""

    def __init__(self, space: SearchSpace, seed: int, settings: Settings, decoder: Decoder) -> None:
        self.space = space
        self.seed = seed
        self.decoder = decoder

    @abstractmethod
    def ask(self) -> Mixture:
        """The mixture to train and evaluate next."""

    def ask_training(self) -> Mixture | None:
        """The mixture whose weights are trained next, None to leave them; by default as `ask`."""
        return self.ask()

    @property
    def fidelity(self) -> float:
        """Share of a whole evaluation that the next architecture is to get, where an evaluation
        can be cut short; 1 by default.
        """
        return 1.0

    @property
    def widening(self) -> int:
        """How many times as many channels as at first go through a supernet's candidates, where a
        part of them does; 1 by default.
        """
        return 1

    @property
    def judged_on(self) -> int:
        """How many validation batches judge the next mixture, always the same ones and without a
        gradient; 0 for a batch of the step's own.
        """
        return 0

    @abstractmethod
    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        """Learn from the outcome of a mixture that `ask` gave.

        Args:
            mixture: what was evaluated.
            outcome: how good it was.
            progress: share of the search that is done, 0 to 1, for schedules.
        """

    @abstractmethod
    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """Up to k architectures that keep the budget, the most promising first.

        Raises:
            InputError: when none keeps it.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed search needs: tensors, numbers and lists only."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""

    def entropy(self) -> float | None:
        """Mean entropy of the choices, 1 for undecided and 0 for decided; None if undefined."""
        return None

    def probabilities(self) -> Tensor | None:
        """What the strategy thinks of the options now, (choices, max_options); rows sum to 1.

        None before there is anything to tell.
        """
        return None


def probability_rows(strategy: SearchStrategy) -> list[list[float]] | None:
    """The strategy's probabilities for the history: a row a choice, a number for each option."""
    probabilities = strategy.probabilities()
    if probabilities is None:
        return None
    return [
        [round(p, 4) for p in row[: len(choice.options)]]
        for choice, row in zip(strategy.space.choices, probabilities.tolist(), strict=True)
    ]
