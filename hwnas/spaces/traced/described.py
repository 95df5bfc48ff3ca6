"""A traced search space without its modules: choices, when they matter, and what runs when.

Everything that prices, decodes and reports architectures needs no more than this description. It
is kept in the run folder, so that a run can be read where the model's Python code is not at hand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.data.inputs import InputShape, NamedInput
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.heads import Head
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.choices import Choice
from hwnas.spaces.decoding import DecodingProgram
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions

TRACED = "own"
"""The name of all spaces that are found in a user's model."""

Literals = tuple[tuple[int, tuple[int, ...]], ...]
"""Rows of choices, each with options of which it has to take one; ascending by row."""
_Index = Annotated[int, Field(ge=0)]


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DescribedChoice(_Described):
    """A choice, and when it matters.

    Attributes:
        name: of the choice.
        options: their names.
        matters: it decides something if any of these lists of literals holds; no list if it
            always does.
    """

    name: str = Field(min_length=1, max_length=500)
    options: tuple[str, ...] = Field(min_length=2)
    matters: tuple[Literals, ...] = ()


class DescribedOperator(_Described):
    """An operator's key in the latency table, its parameters and its multiply-accumulates."""

    name: str = Field(min_length=1, max_length=500)
    c_in: _Index
    c_out: _Index
    height: _Index
    width: _Index
    stride: _Index
    params: _Index
    macs: _Index

    @property
    def spec(self) -> OpSpec:
        """The key."""
        return OpSpec(self.name, self.c_in, self.c_out, self.height, self.width, self.stride)


class DescribedPart(_Described):
    """Operators that run under the same conditions.

    Attributes:
        when: the options that let them run at all.
        sizes: the options of the widths that they depend on, one for each.
        operators: their numbers in the list of operators, once for each run.
    """

    when: Literals
    sizes: tuple[tuple[int, int], ...] = ()
    operators: tuple[int, ...]

    @property
    def literals(self) -> Literals:
        """All conditions."""
        return tuple(sorted([*self.when, *((row, (option,)) for row, option in self.sizes)]))


class TracedOptions(SpaceOptions):
    """What was found in a model."""

    shape: tuple[int, ...] = Field(description="shape of one sample, of the first input")
    inputs: tuple[NamedInput, ...] | None = Field(
        None, description="names, shapes and types of several inputs"
    )
    found: tuple[DescribedChoice, ...] = Field(min_length=1, description="the choices")
    measured: tuple[DescribedOperator, ...] = Field(min_length=1, description="the operators")
    fixed: tuple[_Index, ...] = Field((), description="numbers of operators that always run")
    conditional: tuple[DescribedPart, ...] = Field(
        (), description="operators that run because of choices"
    )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def reads(self) -> InputShape:
        return self.inputs or self.shape


class DescribedSpace(SearchSpace):
    """The choices of a user's model, and the operators that run because of them.

    A part runs if its conditions hold, so with the product of their probabilities.
    """

    name = TRACED
    paper = "the model of the user"
    options_model = TracedOptions
    heads = get_args(Head)
    reads_tokens = True
    options: TracedOptions

    def __init__(self, options: TracedOptions) -> None:
        self._parts_of: list[list[DescribedPart]] = [[] for _ in options.found]
        for part in options.conditional:
            self._parts_of[max(row for row, _ in part.literals)].append(part)
        self.matters = [choice.matters for choice in options.found]
        super().__init__(options)
        self._prepare_probabilities()

    def _choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(choice.name, choice.options) for choice in self.options.found)

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """Each part by its conditions, such as `32 with stem.width 16`."""
        return tuple(
            tuple(self._part_name(row, part) for part in parts)
            for row, parts in enumerate(self._parts_of)
        )

    def _part_name(self, row: int, part: DescribedPart) -> str:
        options = {r: "/".join(self.choices[r].options[k] for k in ks) for r, ks in part.literals}
        own = options.pop(row)
        others = ", ".join(f"{self.choices[r].name} {text}" for r, text in options.items())
        return f"{own} with {others}" if others else own

    def _prepare_probabilities(self) -> None:
        """Put the literals of all parts into tensors."""
        parts = [(row, k, p) for row, own in enumerate(self._parts_of) for k, p in enumerate(own)]
        longest = max((len(part.literals) for _, _, part in parts), default=1)
        self._rows = torch.zeros(len(parts), longest, dtype=torch.long)
        # A literal that is not used is one that always holds.
        self._allowed = torch.ones(len(parts), longest, self.max_options, dtype=torch.float64)
        self._places = torch.tensor([row * self.max_parts + k for row, k, _ in parts])
        for index, (_, _, part) in enumerate(parts):
            for number, (row, options) in enumerate(part.literals):
                self._rows[index, number] = row
                self._allowed[index, number] = 0
                self._allowed[index, number, list(options)] = 1

    def operators(self, choice: int, part: int) -> Counter[OpSpec]:
        return self._counted(self._parts_of[choice][part].operators)

    def fixed_operators(self) -> Counter[OpSpec]:
        return self._counted(self.options.fixed)

    def _counted(self, numbers: Sequence[int]) -> Counter[OpSpec]:
        return Counter(self.options.measured[number].spec for number in numbers)

    def operator_params_and_macs(self, spec: OpSpec) -> tuple[int, int]:
        return self._sizes_of_operators[spec]

    @cached_property
    def _sizes_of_operators(self) -> Mapping[OpSpec, tuple[int, int]]:
        return {one.spec: (one.params, one.macs) for one in self.options.measured}

    def definitions(self) -> dict[str, str]:
        """Each operator's hash, which is a part of its name."""
        return {spec.name: spec.name.rpartition("-")[2] for spec in self.all_operators()}

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """The product of the probabilities of a part's conditions."""
        # Rows need not sum to 1 (sigmoids, an auxiliary weight).
        odds = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        allowed = self._allowed.to(odds)
        runs = (odds[..., self._rows.to(odds.device), :] * allowed).sum(dim=-1)
        is_used = (allowed < 1).any(dim=-1)
        runs = torch.where(is_used, runs, 1.0).prod(dim=-1)
        shape = *odds.shape[:-2], len(self.choices), self.max_parts
        flat = odds.new_zeros((*shape[:-2], shape[-2] * shape[-1]))
        return flat.index_add(-1, self._places.to(odds.device), runs).view(shape)

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """Every choice takes one option, and a part's variable is the product of its literals.

        Parts that differ in sizes only form a family. Within it the variables of one size sum to
        at most that size's variable, and all of them to the product of the common literals. With
        binary options this determines every variable, whatever the parts cost.
        """
        count, width = self.mask.shape
        taken = np.arange(count * width).reshape(count, width)
        runs = np.full((count, self.max_parts), -1)
        families: dict[tuple[Literals, tuple[int, ...]], list[tuple[int, int]]] = {}
        auxiliary = 0
        for row, parts in enumerate(self._parts_of):
            for column, part in enumerate(parts):
                (first, options), *more = part.literals
                if not more and len(options) == 1:
                    runs[row, column] = taken[first, options[0]]
                    continue
                runs[row, column] = taken.size + auxiliary
                auxiliary += 1
                key = part.when, tuple(r for r, _ in part.sizes)
                families.setdefault(key, []).append((row, column))
        constraints = _Constraints(taken.size + auxiliary)
        for row in range(count):
            constraints.add(dict.fromkeys(taken[row].tolist(), 1.0), 1.0, 1.0)
        for (when, _), members in families.items():
            self._add_family(constraints, taken, runs, when, members)
        return DecodingProgram(auxiliary, *constraints.arrays(), runs)

    def _add_family(
        self,
        constraints: _Constraints,
        taken: np.ndarray,
        runs: np.ndarray,
        when: Literals,
        members: Sequence[tuple[int, int]],
    ) -> None:
        """Add the constraints of parts with the same conditions and different sizes."""
        variables = {int(runs[place]): 1.0 for place in members}
        whole = dict(variables)
        for row, options in when:
            literal = {int(taken[row, k]): -1.0 for k in options}
            constraints.add(variables | literal, -np.inf, 0.0)
            whole |= literal
        # The sum is at least 1 if all literals hold; without literals it is exactly 1.
        constraints.add(whole, 1.0 - len(when), 1.0 if not when else np.inf)
        by_size: dict[tuple[int, int], dict[int, float]] = {}
        for row, column in members:
            for size in self._parts_of[row][column].sizes:
                by_size.setdefault(size, {})[int(runs[row, column])] = 1.0
        for (row, option), own in by_size.items():
            constraints.add(own | {int(taken[row, option]): -1.0}, -np.inf, 0.0)

    def idle(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """The choices none of whose conditions holds; they are decided after what decides that."""
        found: list[int] = []
        for row, alternatives in enumerate(self.matters):
            holds = [all(r not in found and chosen[r] in o for r, o in a) for a in alternatives]
            if alternatives and not any(holds):
                found.append(row)
        return tuple(found)

    def open_options(self, decided: Sequence[int]) -> tuple[int, ...]:
        row = len(decided)
        rest = [0] * (len(self.choices) - row)
        return (0,) if row in self.idle([*decided, *rest]) else super().open_options(decided)

    def size(self) -> int:
        """The number of architectures, in which idle choices are not counted."""
        return math.prod(self._count(group, {}) for group in self._connected())

    def _connected(self) -> list[list[int]]:
        """Groups of rows whose choices depend on each other, each ascending."""
        group_of = list(range(len(self.choices)))
        for row, alternatives in enumerate(self.matters):
            for other in {r for a in alternatives for r, _ in a}:
                old, new = group_of[other], group_of[row]
                group_of = [new if g == old else g for g in group_of]
        return [[r for r, g in enumerate(group_of) if g == group] for group in set(group_of)]

    def _count(self, rows: Sequence[int], decided: dict[int, int]) -> int:
        """The number of ways to complete the decisions of connected choices."""
        if not rows:
            return 1
        row, *rest = rows
        alternatives = self.matters[row]
        matters = not alternatives or any(
            all(decided.get(r) in options for r, options in a) for a in alternatives
        )
        options = range(len(self.choices[row].options)) if matters else range(0)
        if not any(row == r for later in rest for a in self.matters[later] for r, _ in a):
            return max(1, len(options)) * self._count(rest, decided)
        if not matters:
            return self._count(rest, decided)
        return sum(self._count(rest, decided | {row: option}) for option in options)

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)
        message = "a choice that decides nothing here must take its first option"
        self.validate_idle(architecture, message)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every choice uniformly; choices that are idle then take their first option."""
        return self.architecture([int(rng.integers(len(c.options))) for c in self.choices])

    def to_genotype(self, architecture: Architecture) -> dict[str, str]:
        """The option of each choice that is not idle, by name."""
        idle = self.idle(self.chosen(architecture))
        return {name: option for row, (name, option) in enumerate(architecture) if row not in idle}

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read the notation that `to_genotype` writes."""
        if not isinstance(genotype, dict):
            raise InputError(
                "malformed",
                where="genotype",
                expected="an object with the option of each choice, by name",
                actual=repr(genotype),
            )
        idle_options = {choice.name: choice.options[0] for choice in self.choices}
        unknown = sorted(map(str, set(genotype) - set(idle_options)))
        if unknown:
            raise InputError("no such choice", where="genotype", actual=unknown[0])
        architecture = self.architecture(idle_options | genotype)
        missing = set(self.to_genotype(architecture)) - set(genotype)
        if missing:
            raise InputError("a choice is missing", where="genotype", expected=min(missing))
        return architecture

    def supernet(self, partial_channels: int = 1) -> Supernet:
        raise self._needs_model()

    def network(self, architecture: Architecture) -> Network:
        raise self._needs_model()

    def _needs_model(self) -> InputError:
        return InputError(
            "the model that this search space was found in is not known here",
            where=f"space {self.name}",
            mend="call hwnas.search(model, ...) with the same model again",
        )


class _Constraints:
    """Rows of a linear program, which are collected one by one."""

    def __init__(self, variables: int) -> None:
        self.variables = variables
        self.rows: list[tuple[np.ndarray, float, float]] = []

    def add(self, weights: Mapping[int, float], lower: float, upper: float) -> None:
        """Add lower <= weighted sum of variables <= upper."""
        row = np.zeros(self.variables)
        row[list(weights)] = list(weights.values())
        self.rows.append((row, lower, upper))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The matrix, the lower and the upper bounds."""
        rows, lower, upper = zip(*self.rows, strict=True)
        return np.array(rows), np.array(lower), np.array(upper)
