"""What every search space offers; a new space is one class and its modules, in one file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import params_and_macs
from hwnas.ops.heads import FACTORS, Head
from hwnas.spaces.decoding import DecodingProgram, Repeated, SharedWork, run_once, saved


class SpaceOptions(BaseModel):
    """Sizes that every network has, and what it reads and ends with; a space adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_channels: int = Field(3, ge=1, le=100_000)
    height: int = Field(32, ge=1, le=4096)
    width: int = Field(32, ge=1, le=4096, description="of tokens their number")
    classes: int = Field(10, ge=1, le=100_000, description="length of the vectors of the head")
    head: Head = Field(
        "classifier",
        description="one vector for a sample, for each place of the features (dense), or for each "
        "place of the input (upsampled)",
    )
    vocabulary: int | None = Field(
        None, ge=2, le=100_000, description="inputs are so many tokens; numbers by default"
    )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of one sample, or (L,) of tokens."""
        if self.vocabulary is not None:
            return (self.width,)
        return self.input_channels, self.height, self.width

    def head_operator(self, c_in: int, height: int, width: int) -> OpSpec:
        """What a network ends with behind its features.

        Raises:
            InputError: when features cannot be enlarged to the size of the input.
        """
        if self.head != "upsampled":
            return OpSpec(self.head, c_in, self.classes, height, width)
        factor = -(-self.height // height)
        enlarged = (factor * height, factor * width) == (self.height, self.width)
        if not enlarged or factor not in FACTORS:
            raise InputError(
                "the last features cannot be enlarged to the input's size",
                where="space",
                expected=f"{self.height} x {self.width}, one of {FACTORS} times as large",
                actual=f"features of {height} x {width}",
            )
        return OpSpec(f"upsampled_x{factor}", c_in, self.classes, height, width)


@dataclass(frozen=True)
class Choice:
    """A decision to be made, and what can be decided."""

    name: str
    options: tuple[str, ...]


class Supernet(nn.Module):
    """A network that holds all architectures of a space and runs any mixture of them."""

    @abstractmethod
    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Outputs, as the head gives them, of inputs (N, C, H, W) or tokens (N, L)."""


class Network(nn.Module):
    """One architecture's network.

    Attributes:
        drop_path: probability that a branch is dropped while training.
        auxiliary: the head used in training only, or None.
        choice_modules: paths of the modules that run because of a choice, with the choice's name;
            a space may leave it empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drop_path = 0.0
        self.auxiliary: nn.Module | None = None
        self.choice_modules: dict[str, str] = {}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Outputs, as the head gives them, of inputs (N, C, H, W) or tokens (N, L)."""

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs, and those of the auxiliary head where there is one."""
        return self(x), None


class SearchSpace(ABC):
    """Named choices with named options, the operators they run, and the networks they make."""

    name: ClassVar[str]
    paper: ClassVar[str]
    """Authors, title, venue and number of the paper that the space follows."""
    options_model: ClassVar[type[SpaceOptions]]
    heads: ClassVar[tuple[Head, ...]] = ("classifier",)
    """What its networks can end with."""
    reads_tokens: ClassVar[bool] = False
    """Whether its networks can read tokens."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {}}
    """Options, by name, that make spaces worth listing; at the sizes of their papers."""

    def __init__(self, options: SpaceOptions) -> None:
        self.options = options
        self.choices = self._choices()
        self.max_options = max(len(choice.options) for choice in self.choices)
        mask = torch.zeros(len(self.choices), self.max_options, dtype=torch.bool)
        for row, choice in enumerate(self.choices):
            mask[row, : len(choice.options)] = True
        self.mask = mask
        self.parts = self._parts()
        self.max_parts = max(map(len, self.parts))

    @abstractmethod
    def _choices(self) -> tuple[Choice, ...]:
        """The choices, in their order."""

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """What can run because of each choice, by name: `parts`, which costs are stated for.

        These are its options, unless the sizes of an option's operators depend on another choice:
        then there is a part for each of the sizes.
        """
        return tuple(choice.options for choice in self.choices)

    @abstractmethod
    def operators(self, choice: int, part: int) -> Counter[OpSpec]:
        """The operators that run in the deployed network because of one part of a choice."""

    @abstractmethod
    def fixed_operators(self) -> Counter[OpSpec]:
        """The operators of the deployed network that run whatever is chosen."""

    @abstractmethod
    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """`run_probability` under a rule other than `once`."""

    @abstractmethod
    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """`decoding_program` under a rule other than `once`."""

    def runs_of_weights(self, spec: OpSpec) -> int:
        """How many runs of an operator in a network share their weights."""
        return 1

    def repeats(self) -> Sequence[Repeated]:
        """What a runtime may run once: equal work without weights on one input."""
        return ()

    def shared_work(self) -> Sequence[SharedWork]:
        """What a runtime may run once though it belongs to several different operators."""
        return ()

    def run_probability(self, weights: Tensor, edges: EdgeRule = "live") -> Tensor:
        """Probability that each part's operators run, differentiable.

        For one-hot weights it is 1 for the operators that the network runs and 0 for the others;
        under the rule `once` it is the share of its time that an operator costs, under `all` 1 for
        what is chosen.

        Args:
            weights: (..., choices, max_options).
            edges: which edges of a cell the runtime runs; networks that are built here have
                nothing but `live` ones.

        Returns:
            (..., choices, max_parts).
        """
        if edges == "once":
            return run_once(self._run_probability(weights, "live"), self.repeats())
        return self._run_probability(weights, edges)

    def saved_work(self, weights: Tensor, edges: EdgeRule = "live") -> Tensor:
        """How often the runtime saves each shared work, differentiable.

        Args:
            weights: (..., choices, max_options).
            edges: which edges of a cell the runtime runs; work is shared under `once` only.

        Returns:
            (..., shared), the expected number of times.
        """
        if edges != "once":
            return weights.new_zeros((*weights.shape[:-2], len(self.shared_work())))
        return saved(self._run_probability(weights, "live"), self.shared_work())

    def decoding_program(self, edges: EdgeRule = "live") -> DecodingProgram:
        """The structure of the space for exact decoding, with `runs` under a rule."""
        if edges == "once":
            program = self._decoding_program("live")
            return program.run_once(self.repeats(), self.shared_work())
        return self._decoding_program(edges)

    def size(self) -> int:
        """Number of architectures, exact; here of choices that are free of each other."""
        return math.prod(len(choice.options) for choice in self.choices)

    @abstractmethod
    def validate(self, architecture: Architecture) -> None:
        """Raise InputError unless the architecture belongs to the space."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random architecture, uniform unless the space says otherwise."""

    @abstractmethod
    def supernet(self, partial_channels: int = 1) -> Supernet:
        """A new supernet at this space's sizes.

        Args:
            partial_channels: 1 of so many channels goes through a cell's candidates, the others
                go past them (Xu et al., "PC-DARTS", ICLR 2020). Spaces without cells have no such
                thing and take no notice.

        Raises:
            InputError: when the channels cannot be divided so.
        """

    @abstractmethod
    def network(self, architecture: Architecture) -> Network:
        """A new network of an architecture at this space's sizes."""

    @abstractmethod
    def to_genotype(self, architecture: Architecture) -> Any:
        """The architecture in the notation of the space's paper, as JSON data."""

    @abstractmethod
    def from_genotype(self, genotype: Any) -> Architecture:
        """Read `to_genotype`'s notation; InputError when malformed."""

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """A random neighbour: one choice takes another option; itself if there is none."""
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

    def idle(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """Choices that decide nothing beside what others took; architectures have the first
        option there.
        """
        return ()

    def open_options(self, decided: Sequence[int]) -> tuple[int, ...]:
        """What the next choice may take, in their order, so that an architecture can follow.

        Args:
            decided: the options of all choices before it, each one open at its time.
        """
        return tuple(range(len(self.choices[len(decided)].options)))

    def chosen(self, architecture: Architecture) -> list[int]:
        """The index of the option that each choice takes; the architecture is validated."""
        self.validate(architecture)
        return [
            choice.options.index(option)
            for choice, (_, option) in zip(self.choices, architecture, strict=True)
        ]

    def one_hot(self, architecture: Architecture) -> Mixture:
        """The mixture that is exactly this architecture."""
        chosen = self.chosen(architecture)
        weights = torch.zeros(len(self.choices), self.max_options)
        weights[torch.arange(len(chosen)), torch.tensor(chosen)] = 1.0
        return Mixture(weights, tuple((option,) for option in chosen))

    def one_hots(self, architectures: Collection[Architecture]) -> Tensor:
        """Weights of many architectures, (architectures, choices, max_options), float64."""
        chosen = torch.tensor([self.chosen(architecture) for architecture in architectures])
        shape = (len(architectures), len(self.choices), self.max_options)
        weights = torch.zeros(shape, dtype=torch.float64)
        return weights.scatter_(2, chosen.view(*shape[:2], 1), 1.0)

    def most_likely(self, mixture: Mixture) -> Architecture:
        """The architecture of each choice's heaviest option; for a one-hot mixture its own."""
        return self.architecture(mixture.weights.argmax(dim=1).tolist())

    def to_rows(self, figures: Iterable[tuple[Architecture, float]]) -> list[list[float]]:
        """Architectures with a figure each as rows of numbers, for checkpoints."""
        return [[*self.chosen(architecture), value] for architecture, value in figures]

    def from_rows(self, rows: Iterable[Sequence[float]]) -> list[tuple[Architecture, float]]:
        """Read `to_rows`."""
        return [
            (self.architecture([int(option) for option in chosen]), float(value))
            for *chosen, value in rows
        ]

    def coefficient(self, choice: str, part: str) -> int:
        """Where a part stands among the coefficients: the fixed one, the parts, shared work.

        Raises:
            InputError: when the space has no such choice or part.
        """
        for row, known in enumerate(self.choices):
            if known.name == choice and part in self.parts[row]:
                return 1 + row * self.max_parts + self.parts[row].index(part)
        raise InputError("no such choice or option", where=self.name, actual=f"{choice} {part}")

    def architecture(self, chosen: Mapping[str, str] | list[int]) -> Architecture:
        """An architecture from option indices, where idle choices may have any, or a mapping;
        validated.
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

    def node_inputs(self) -> list[list[int]]:
        """Choices (rows) whose outputs are summed, node by node; together they are all choices."""
        return [[row] for row in range(len(self.choices))]

    @property
    def scored(self) -> Tensor:
        """(choices, max_options), options whose weight speaks for an architecture that takes it."""
        return self.mask

    def validate_options(self, architecture: Architecture) -> None:
        """The part of `validate` that is the same for all spaces: names of choices and options."""
        if architecture.space != self.name:
            raise InputError(
                "architecture of another space", expected=self.name, actual=architecture.space
            )
        names = [choice.name for choice in self.choices]
        given = [name for name, _ in architecture]
        if given != names:
            odd = sorted(set(names) ^ set(given)) or ["order"]
            raise InputError(
                "choices do not match the space",
                where="choices",
                expected=f"{len(names)} choices {names[0]} ... {names[-1]}",
                actual=f"{len(given)}, differing in {', '.join(odd[:3])}",
            )
        for choice, (_, option) in zip(self.choices, architecture, strict=True):
            if option not in choice.options:
                raise InputError(
                    "unknown option",
                    where=f"choices: {choice.name}",
                    expected=f"one of {', '.join(choice.options)}",
                    actual=option,
                )

    def all_operators(self) -> list[OpSpec]:
        """Every operator that a latency table needs for this space, sorted."""
        specs = set(self.fixed_operators())
        for work in self.shared_work():
            specs |= set(work.operators)
        for row, parts in enumerate(self.parts):
            for column in range(len(parts)):
                specs |= set(self.operators(row, column))
        return sorted(specs)

    @property
    def coefficient_options(self) -> list[str]:
        """Part of each coefficient, operators of shared work.

        "" for the fixed one and where a choice has fewer parts.
        """
        names = [""]
        for parts in self.parts:
            names += [*parts, *[""] * (self.max_parts - len(parts))]
        for work in self.shared_work():
            names.append("shared " + " ".join(sorted(spec.name for spec in work.operators)))
        return names

    @property
    def first_shared(self) -> int:
        """Where the coefficients of shared work begin."""
        return 1 + len(self.choices) * self.max_parts

    @property
    def coefficient_launches(self) -> np.ndarray:
        """(coefficients,), how many operators what a coefficient stands for runs."""
        counts = np.zeros((len(self.choices), self.max_parts))
        for row, parts in enumerate(self.parts):
            for column in range(len(parts)):
                counts[row, column] = self.operators(row, column).total()
        shared = [work.operators.total() for work in self.shared_work()]
        return np.concatenate([[self.fixed_operators().total()], counts.ravel(), shared])

    @property
    def coefficient_params_and_macs(self) -> np.ndarray:
        """(coefficients, 2): of what is fixed first, of each part, of shared work (none)."""
        of_parts = self._params_and_macs.reshape(-1, 2)
        of_shared = np.zeros((len(self.shared_work()), 2), dtype=np.int64)
        return np.vstack([self._fixed_params_and_macs, of_parts, of_shared])

    def params_and_macs(self, architecture: Architecture) -> tuple[int, int]:
        """Parameters and multiply-accumulates (one image) of an architecture's network."""
        totals = self._fixed_params_and_macs + self.choice_params_and_macs(architecture).sum(axis=0)
        return int(totals[0]), int(totals[1])

    def choice_params_and_macs(self, architecture: Architecture) -> np.ndarray:
        """(choices, 2): parameters and multiply-accumulates of what each choice has taken."""
        taken = self.run_probability(self.one_hots([architecture]), "all")[0].bool().numpy()
        return (self._params_and_macs * taken[..., None]).sum(axis=1)

    @cached_property
    def _params_and_macs(self) -> np.ndarray:
        """(choices, max_parts, 2)."""
        counts = np.zeros((len(self.choices), self.max_parts, 2), dtype=np.int64)
        for row, parts in enumerate(self.parts):
            for column in range(len(parts)):
                counts[row, column] = self._total(self.operators(row, column))
        return counts

    @cached_property
    def _fixed_params_and_macs(self) -> np.ndarray:
        """(2,)."""
        return self._total(self.fixed_operators())

    def _total(self, operators: Counter[OpSpec]) -> np.ndarray:
        """Parameters and multiply-accumulates of several operators."""
        total = np.zeros(2, dtype=np.int64)
        for spec, count in operators.items():
            params, macs = params_and_macs(spec)
            total += (params * count // self.runs_of_weights(spec), macs * count)
        return total
