"""The interface of a search space: its choices, the operators they run, and its networks."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import OperatorModule, definitions, operator_module, params_and_macs
from hwnas.ops.heads import Head
from hwnas.spaces.choices import ChoiceSpace
from hwnas.spaces.decoding import DecodingProgram, Repeated, SharedWork, paid_share, saved_runs
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions, Variants


class SearchSpace(ChoiceSpace):
    """Choices, the operators that each of them runs, and the networks that they build.

    The latency of a network is linear in what it runs. The *coefficients* of this linear model
    are, in this order: the fixed operators, the parts of the first choice, of the second, ..., and
    the shared work. A *part* is a set of operators that run because of one choice: usually an
    option, but where the size of an option's operators depends on another choice there is a part
    for each size.

    Attributes:
        options: the sizes of the networks.
        parts: names of the parts of each choice.
        max_parts: the largest number of parts of any choice.
    """

    paper: ClassVar[str]
    """Authors, title, venue and number of the paper that the space follows."""
    options_model: ClassVar[type[SpaceOptions]]
    heads: ClassVar[tuple[Head, ...]] = ("classifier",)
    """The heads that its networks can have."""
    reads_tokens: ClassVar[bool] = False
    """Whether its networks can read tokens."""
    reads_categories: ClassVar[bool] = False
    """Whether its networks learn a vector for each category of a table's columns."""
    variants: ClassVar[Variants] = {"": {}}
    """The sets of options that listings show, at the sizes of their papers."""

    def __init__(self, options: SpaceOptions) -> None:
        self.options = options
        super().__init__()
        self.parts = self._parts()
        self.max_parts = max(map(len, self.parts))

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """The names of each choice's parts; by default those of its options."""
        return tuple(choice.options for choice in self.choices)

    @abstractmethod
    def operators(self, choice: int, part: int) -> Counter[OpSpec]:
        """The operators that the deployed network runs because of one part of a choice."""

    @abstractmethod
    def fixed_operators(self) -> Counter[OpSpec]:
        """The operators that every deployed network runs, whatever is chosen."""

    @abstractmethod
    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """`run_probability` under any rule but `once`."""

    @abstractmethod
    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """`decoding_program` under any rule but `once`."""

    def operator_module(self, spec: OpSpec) -> OperatorModule:
        """What is measured for an operator of this space.

        Returns:
            A new module, the shape of each of its inputs without the batch dimension, and its kind.
        """
        return operator_module(spec)

    def operator_params_and_macs(self, spec: OpSpec) -> tuple[int, int]:
        """Parameters of an operator, and its multiply-accumulates for one sample."""
        return params_and_macs(spec)

    def definitions(self) -> dict[str, str]:
        """A hash of the structure of every operator, by name."""
        return definitions(self.all_operators())

    def runs_of_weights(self, spec: OpSpec) -> int:
        """How many runs of an operator in one network share the same weights."""
        return 1

    def repeats(self) -> Sequence[Repeated]:
        """Parts whose operators repeat the same parameter-free work on the same input.

        A runtime that eliminates common subexpressions runs such work once.
        """
        return ()

    def shared_work(self) -> Sequence[SharedWork]:
        """Parameter-free work on the same input with which several different operators begin.

        A runtime that eliminates common subexpressions runs it once.
        """
        return ()

    def run_probability(self, weights: Tensor, edges: EdgeRule = "live") -> Tensor:
        """The probability that the operators of each part run, differentiable.

        For one-hot weights it is 1 for the operators that the network runs and 0 for the others.
        Under the rule `once` it is instead the share of an operator's latency that is paid, and
        under `all` it is 1 for everything that is chosen.

        Args:
            weights: (..., choices, max_options).
            edges: which edges of a cell the runtime runs. The networks that a space builds have
                only `live` edges.

        Returns:
            (..., choices, max_parts).
        """
        if edges == "once":
            return paid_share(self._run_probability(weights, "live"), self.repeats())
        return self._run_probability(weights, edges)

    def saved_work(self, weights: Tensor, edges: EdgeRule = "live") -> Tensor:
        """The expected number of runs of each shared work that are saved, differentiable.

        Args:
            weights: (..., choices, max_options).
            edges: which edges of a cell the runtime runs; work is shared only under `once`.

        Returns:
            (..., shared work).
        """
        if edges != "once":
            return weights.new_zeros((*weights.shape[:-2], len(self.shared_work())))
        return saved_runs(self._run_probability(weights, "live"), self.shared_work())

    def decoding_program(self, edges: EdgeRule = "live") -> DecodingProgram:
        """The architectures as a mixed-integer linear program, for exact decoding.

        Args:
            edges: the rule that says which operators run and therefore cost time.
        """
        if edges == "once":
            program = self._decoding_program("live")
            return program.run_once(self.repeats(), self.shared_work())
        return self._decoding_program(edges)

    @abstractmethod
    def supernet(self, partial_channels: int = 1) -> Supernet:
        """A new supernet.

        Args:
            partial_channels: only 1 of this many channels passes through a cell's candidates; the
                others bypass them (Xu et al., "PC-DARTS", ICLR 2020). Spaces without cells ignore
                it.

        Raises:
            InputError: when the number of channels is not divisible by it.
        """

    @abstractmethod
    def network(self, architecture: Architecture) -> Network:
        """A new network of one architecture."""

    def all_operators(self) -> list[OpSpec]:
        """Every operator that a latency table must contain for this space, sorted."""
        specs = set(self.fixed_operators())
        for work in self.shared_work():
            specs |= set(work.operators)
        for row, parts in enumerate(self.parts):
            for column in range(len(parts)):
                specs |= set(self.operators(row, column))
        return sorted(specs)

    def coefficient(self, choice: str, part: str) -> int:
        """The index of a part among the coefficients.

        Raises:
            InputError: when the space has no such choice or part.
        """
        for row, known in enumerate(self.choices):
            if known.name == choice and part in self.parts[row]:
                return 1 + row * self.max_parts + self.parts[row].index(part)
        raise InputError("no such choice or option", where=self.name, actual=f"{choice} {part}")

    @property
    def coefficient_options(self) -> list[str]:
        """The name of each coefficient: of its part, or of the operators of its shared work.

        It is "" for the fixed operators and where a choice has fewer parts than `max_parts`.
        """
        names = [""]
        for parts in self.parts:
            names += [*parts, *[""] * (self.max_parts - len(parts))]
        for work in self.shared_work():
            names.append("shared " + " ".join(sorted(spec.name for spec in work.operators)))
        return names

    @property
    def first_shared(self) -> int:
        """The index of the first shared work among the coefficients."""
        return 1 + len(self.choices) * self.max_parts

    @property
    def coefficient_launches(self) -> np.ndarray:
        """The number of operators that each coefficient stands for, (coefficients,)."""
        counts = np.zeros((len(self.choices), self.max_parts))
        for row, parts in enumerate(self.parts):
            for column in range(len(parts)):
                counts[row, column] = self.operators(row, column).total()
        shared = [work.operators.total() for work in self.shared_work()]
        return np.concatenate([[self.fixed_operators().total()], counts.ravel(), shared])

    @property
    def coefficient_params_and_macs(self) -> np.ndarray:
        """Parameters and multiply-accumulates of each coefficient, (coefficients, 2).

        Those of shared work are 0.
        """
        of_parts = self._params_and_macs.reshape(-1, 2)
        of_shared = np.zeros((len(self.shared_work()), 2), dtype=np.int64)
        return np.vstack([self._fixed_params_and_macs, of_parts, of_shared])

    def params_and_macs(self, architecture: Architecture) -> tuple[int, int]:
        """Parameters of an architecture's network, and its multiply-accumulates for one sample."""
        totals = self._fixed_params_and_macs + self.choice_params_and_macs(architecture).sum(axis=0)
        return int(totals[0]), int(totals[1])

    def choice_params_and_macs(self, architecture: Architecture) -> np.ndarray:
        """Parameters and multiply-accumulates of what each choice takes, (choices, 2)."""
        taken = self.run_probability(self.one_hots([architecture]), "all")[0].bool().numpy()
        counts: np.ndarray = (self._params_and_macs * taken[..., None]).sum(axis=1)
        return counts

    @cached_property
    def _params_and_macs(self) -> np.ndarray:
        """Parameters and multiply-accumulates of each part, (choices, max_parts, 2)."""
        counts = np.zeros((len(self.choices), self.max_parts, 2), dtype=np.int64)
        for row, parts in enumerate(self.parts):
            for column in range(len(parts)):
                counts[row, column] = self._total(self.operators(row, column))
        return counts

    @cached_property
    def _fixed_params_and_macs(self) -> np.ndarray:
        """Parameters and multiply-accumulates of the fixed operators, (2,)."""
        return self._total(self.fixed_operators())

    def _total(self, operators: Counter[OpSpec]) -> np.ndarray:
        """Parameters and multiply-accumulates of several operators, (2,)."""
        total = np.zeros(2, dtype=np.int64)
        for spec, count in operators.items():
            params, macs = self.operator_params_and_macs(spec)
            total += (params * count // self.runs_of_weights(spec), macs * count)
        return total
