"""The interface of a search strategy.

A search repeatedly asks the strategy for a mixture, evaluates it, and tells the strategy the
outcome; at the end it asks for the best architectures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace


class Experience(Protocol):
    """What is known from earlier searches; implemented by `hwnas.strategies.experience`."""

    @property
    def trust(self) -> float:
        """How far the present task can be expected to be like earlier ones, 0 to 1."""

    @property
    def option_scores(self) -> np.ndarray:
        """The mean prediction of architectures that take an option, (choices, max_options)."""

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of scores, (architectures,) each; higher is better."""

    def start(self, decoder: Decoder, k: int, rng: np.random.Generator) -> list[Architecture]:
        """Up to k architectures within the budgets to begin a search with."""


class Decoder(Protocol):
    """Finds architectures that keep the budgets; implemented by `hwnas.budget.decode.Decoder`."""

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether the predicted latencies are within the budgets."""

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """The k feasible architectures with the largest sums of scores, in descending order.

        Args:
            scores: (choices, max_options), the score of each option.
            k: how many architectures to find.
        """

    def largest(
        self, sizes: np.ndarray, rng: np.random.Generator | None = None
    ) -> Iterator[Architecture]:
        """The feasible architectures in descending order of size, without useless weights.

        Args:
            sizes: (coefficients,), the size of each part.
            rng: breaks ties; None for the exact order.
        """


@dataclass(frozen=True)
class Outcome:
    """The outcome of the evaluation of a mixture.

    Attributes:
        objective: the scalar to minimise, the sum of the loss and the latency term.
        loss: the validation loss or error alone.
        ratio: expected latency divided by the budget, the largest over all devices.
        gradient: of the objective with respect to the mixture's weights, (choices, max_options);
            only for strategies that use it.
        lasting: whether the same mixture would have the same outcome at any other time of the
            search, up to noise. That is so for a table or a training from scratch, but not for a
            supernet, whose weights change. Only lasting outcomes are compared with each other at
            the end of the search.
        fidelity: the share of a complete evaluation that was run; None if evaluations cannot be
            shortened.
    """

    objective: float
    loss: float
    ratio: float
    gradient: Tensor | None = None
    lasting: bool = False
    fidelity: float | None = None


class Settings(BaseModel):
    """The settings of a strategy, `[search.settings]` in a configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SearchStrategy(ABC):
    """A search algorithm, which knows the search space and the budgets but not the data.

    Args:
        space: the search space.
        seed: of all random decisions of the strategy.
        settings: an instance of `settings_model`.
        decoder: decides which architectures keep the budgets, as they are when the search starts.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    """Authors, title, venue and number of the paper that the strategy follows."""
    settings_model: ClassVar[type[Settings]] = Settings
    uses_gradient: ClassVar[bool] = False
    """Whether `tell` needs the gradient of the objective."""
    partial_channels: ClassVar[int] = 1
    """Only 1 of this many channels passes through the candidates of a supernet's cells, unless the
    configuration sets another number."""

    def __init__(self, space: SearchSpace, seed: int, settings: Settings, decoder: Decoder) -> None:
        self.space = space
        self.seed = seed
        self.decoder = decoder

    def begin_from(self, experience: Experience) -> None:  # noqa: B027  # it may be ignored
        """Begin from what earlier searches of the space found; by default that is ignored.

        It is called before the first `ask`, and again before the state of an interrupted search is
        loaded.

        Args:
            experience: predicts scores of architectures.
        """

    @abstractmethod
    def ask(self) -> Mixture:
        """The mixture to train and evaluate next."""

    def ask_training(self) -> Mixture | None:
        """The mixture on which the supernet is trained next; None for no training step.

        By default it is another mixture from `ask`.
        """
        return self.ask()

    @property
    def fidelity(self) -> float:
        """The share of a complete evaluation that the next architecture gets, by default 1.

        Evaluations that cannot be shortened ignore it.
        """
        return 1.0

    @property
    def widening(self) -> int:
        """The factor by which the share of mixed channels has grown since the start, by default 1.

        It is used only if `search.partial_channels` is greater than 1.
        """
        return 1

    @property
    def judged_on(self) -> int:
        """The number of fixed validation batches on which the next mixture is evaluated.

        They are the same ones every time, and no gradient is computed. By default it is 0: each
        step is evaluated on its own batch.
        """
        return 0

    @abstractmethod
    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        """Learn from the outcome of a mixture that `ask` returned.

        Args:
            mixture: the mixture that was evaluated.
            outcome: of its evaluation.
            progress: the share of the search that is done, between 0 and 1, for schedules.
        """

    @abstractmethod
    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """Up to k architectures that keep the budgets, the most promising first.

        Raises:
            InputError: when no architecture keeps them.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed search needs, as tensors, numbers and lists."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def entropy(self) -> float | None:
        """The mean normalised entropy of the choices, from 1 (uniform) to 0; None if undefined."""
        return None

    def size_weight(self) -> float | None:
        """The weight of a network's size that the evaluations gave; None if nothing is learned."""
        return None

    def probabilities(self) -> Tensor | None:
        """The strategy's current probability of each option, (choices, max_options).

        Rows sum to 1. It is None as long as the strategy has no preference.
        """
        return None


def probability_rows(strategy: SearchStrategy) -> list[list[float]] | None:
    """The strategy's probabilities for the history: for each choice one number per option."""
    probabilities = strategy.probabilities()
    if probabilities is None:
        return None
    return [
        [round(p, 4) for p in row[: len(choice.options)]]
        for choice, row in zip(strategy.space.choices, probabilities.tolist(), strict=True)
    ]
