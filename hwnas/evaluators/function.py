"""Evaluation of architectures by a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from hwnas.architecture import Architecture
from hwnas.errors import InputError, first_line
from hwnas.spaces.base import SearchSpace

Evaluate = Callable[[nn.Module], float]
"""Trains a module in place, or judges it as it is, and returns its score; higher is better."""


class EvaluationError(InputError):
    """A user's function raised, or did not return a finite number."""


@dataclass
class OwnFunction:
    """Scores architectures by a function; one that fails scores as the worst so far.

    Attributes:
        space: the search space.
        module_of: the plain module of an architecture.
        function: the user's function.
        on_failure: called with an architecture and the reason why it has no score.
        known: scores so far; their architectures are not evaluated again.
        perfect: 0, since scores have no upper bound.
    """

    space: SearchSpace
    module_of: Callable[[Architecture], nn.Module]
    function: Evaluate
    on_failure: Callable[[Architecture, str], None]
    known: dict[Architecture, float] = field(default_factory=dict)
    perfect: float = 0.0

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """Return the score of the function.

        Args:
            architecture: the architecture.
            fidelity: ignored; the function has one fidelity.
        """
        if architecture not in self.known:
            try:
                score = evaluated(self.function, self.module_of(architecture))
            except EvaluationError as error:
                self.on_failure(architecture, str(error))
                score = min(self.known.values(), default=0.0)
            self.known[architecture] = score
        return self.known[architecture]

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Return the score of each architecture."""
        return [self(architecture) for architecture in architectures]


def evaluated(function: Evaluate, module: nn.Module) -> float:
    """The score that a user's function returns.

    Raises:
        EvaluationError: when it raises, or returns something else than a finite number.
    """
    try:
        score = float(function(module))
    except Exception as error:
        raise EvaluationError(
            "the function raised",
            where="evaluate",
            actual=f"{type(error).__name__}: {first_line(error)}",
        ) from error
    if not math.isfinite(score):
        raise EvaluationError(
            "the function did not return a finite number", where="evaluate", actual=score
        )
    return score
