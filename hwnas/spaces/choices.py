"""The discrete side of a search space: named choices, and the architectures that make them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError


@dataclass(frozen=True)
class Choice:
    """A named decision and the names of its options."""

    name: str
    options: tuple[str, ...]


class ChoiceSpace(ABC):
    """A set of architectures, each of which takes one option for every choice.

    Attributes:
        choices: in a fixed order; the index of a choice is called its row.
        max_options: the largest number of options of any choice.
        mask: (choices, max_options), True where the choice has that option.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.choices = self._choices()
        self.max_options = max(len(choice.options) for choice in self.choices)
        mask = torch.zeros(len(self.choices), self.max_options, dtype=torch.bool)
        for row, choice in enumerate(self.choices):
            mask[row, : len(choice.options)] = True
        self.mask = mask

    @abstractmethod
    def _choices(self) -> tuple[Choice, ...]:
        """The choices, in their order."""

    def size(self) -> int:
        """The exact number of architectures; by default that of independent choices."""
        return math.prod(len(choice.options) for choice in self.choices)

    @abstractmethod
    def validate(self, architecture: Architecture) -> None:
        """Check that an architecture belongs to the space.

        Raises:
            InputError: when it does not.
        """

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random architecture, uniformly distributed unless the space says otherwise."""

    @abstractmethod
    def to_genotype(self, architecture: Architecture) -> Any:
        """The architecture in the notation of the space's paper, as JSON data."""

    @abstractmethod
    def from_genotype(self, genotype: Any) -> Architecture:
        """Read an architecture in the notation that `to_genotype` writes.

        Raises:
            InputError: when the genotype is malformed or outside the space.
        """

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """A random neighbour: one choice takes another option.

        The architecture itself is returned if no choice can change.
        """
        chosen = self.chosen(architecture)
        idle = self.idle(chosen)
        free = [
            row
            for row, choice in enumerate(self.choices)
            if len(choice.options) > 1 and row not in idle
        ]
        if not free:
            return architecture
        row = int(rng.choice(free))
        step = int(rng.integers(1, len(self.choices[row].options)))
        chosen[row] = (chosen[row] + step) % len(self.choices[row].options)
        return self.architecture(chosen)

    def cross(
        self, first: Architecture, second: Architecture, rng: np.random.Generator
    ) -> Architecture:
        """A child of two architectures: each choice is taken from one of them at random.

        Uniform crossover (Syswerda, "Uniform Crossover in Genetic Algorithms", ICGA 1989).
        """
        parents = np.array([self.chosen(first), self.chosen(second)])
        taken = rng.integers(2, size=len(self.choices))
        return self.architecture(parents[taken, np.arange(len(self.choices))].tolist())

    def idle(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """Rows of the choices that have no effect, given what the other choices took.

        An architecture takes the first option of an idle choice, so that equal networks are equal
        architectures.
        """
        return ()

    def identity(self, architecture: Architecture) -> Hashable:
        """What is equal for architectures that the space knows to compute the same function.

        By default it is the architecture itself.
        """
        return architecture

    def open_options(self, decided: Sequence[int]) -> tuple[int, ...]:
        """Options of the next choice that can still be completed to a valid architecture.

        Args:
            decided: the option of every earlier choice, each of which was open at its turn.

        Returns:
            Indices of options, ascending.
        """
        return tuple(range(len(self.choices[len(decided)].options)))

    def chosen(self, architecture: Architecture) -> list[int]:
        """The index of the option that each choice takes; the architecture is validated."""
        self.validate(architecture)
        return [
            choice.options.index(option)
            for choice, (_, option) in zip(self.choices, architecture, strict=True)
        ]

    def architecture(self, chosen: Mapping[str, str] | list[int]) -> Architecture:
        """A validated architecture.

        Args:
            chosen: option names by choice name, or the option index of each choice; the indices of
                idle choices are ignored.

        Raises:
            InputError: when there is no such architecture.
        """
        if isinstance(chosen, list):
            idle = self.idle(chosen)
            options = [
                choice.options[0 if row in idle else option]
                for row, (choice, option) in enumerate(zip(self.choices, chosen, strict=True))
            ]
            chosen = dict(zip((c.name for c in self.choices), options, strict=True))
        architecture = Architecture.of(self.name, chosen)
        self.validate(architecture)
        return architecture

    def one_hot(self, architecture: Architecture) -> Mixture:
        """The mixture that is exactly this architecture."""
        chosen = self.chosen(architecture)
        weights = torch.zeros(len(self.choices), self.max_options)
        weights[torch.arange(len(chosen)), torch.tensor(chosen)] = 1.0
        return Mixture(weights, tuple((option,) for option in chosen))

    def one_hots(self, architectures: Collection[Architecture]) -> Tensor:
        """One-hot weights of several architectures.

        Returns:
            (architectures, choices, max_options), float64.
        """
        chosen = torch.tensor([self.chosen(architecture) for architecture in architectures])
        shape = (len(architectures), len(self.choices), self.max_options)
        weights = torch.zeros(shape, dtype=torch.float64)
        return weights.scatter_(2, chosen.view(*shape[:2], 1), 1.0)

    def most_likely(self, mixture: Mixture) -> Architecture:
        """The architecture of each choice's largest weight; inverts `one_hot`."""
        return self.architecture(mixture.weights.argmax(dim=1).tolist())

    def to_rows(self, figures: Iterable[tuple[Architecture, float]]) -> list[list[float]]:
        """Pairs of an architecture and a number as rows of numbers, for checkpoints."""
        return [[*self.chosen(architecture), value] for architecture, value in figures]

    def from_rows(self, rows: Iterable[Sequence[float]]) -> list[tuple[Architecture, float]]:
        """Read rows that `to_rows` wrote."""
        return [
            (self.architecture([int(option) for option in chosen]), float(value))
            for *chosen, value in rows
        ]

    def node_inputs(self) -> list[list[int]]:
        """Rows of the choices whose outputs are summed, for each node of the network's graph.

        Every choice belongs to exactly one node.
        """
        return [[row] for row in range(len(self.choices))]

    @property
    def scored_options(self) -> Tensor:
        """Options that are scored by their weight when a mixture is decoded.

        (choices, max_options), bool. The other options score 0.
        """
        return self.mask

    def validate_options(self, architecture: Architecture) -> None:
        """Check the names of choices and options, the part of `validate` that all spaces share.

        Raises:
            InputError: for an unknown, missing or misplaced name.
        """
        if architecture.space != self.name:
            raise InputError(
                "architecture of another space", expected=self.name, actual=architecture.space
            )
        names = [choice.name for choice in self.choices]
        given = [name for name, _ in architecture]
        if given != names:
            differing = sorted(set(names) ^ set(given)) or ["order"]
            raise InputError(
                "choices do not match the space",
                where="choices",
                expected=f"{len(names)} choices {names[0]} ... {names[-1]}",
                actual=f"{len(given)}, differing in {', '.join(differing[:3])}",
            )
        for choice, (_, option) in zip(self.choices, architecture, strict=True):
            if option not in choice.options:
                raise InputError(
                    "unknown option",
                    where=f"choices: {choice.name}",
                    expected=f"one of {', '.join(choice.options)}",
                    actual=option,
                )

    def validate_idle(self, architecture: Architecture, message: str) -> None:
        """Check that idle choices take their first option, after `validate_options`.

        Args:
            architecture: the architecture.
            message: what is wrong if one does not.

        Raises:
            InputError: when an idle choice takes another option.
        """
        chosen = [
            choice.options.index(option)
            for choice, (_, option) in zip(self.choices, architecture, strict=True)
        ]
        for row in self.idle(chosen):
            if chosen[row] != 0:
                raise InputError(
                    message,
                    where=f"choices: {self.choices[row].name}",
                    expected=self.choices[row].options[0],
                    actual=self.choices[row].options[chosen[row]],
                )
