"""What is found in a user's model: its choices, and what runs under which of them.

Widths are found by changing them one at a time: an operator whose shapes or structure change
depends on that width. It is then described for every combination of the widths that it depends on.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from hwnas.data.inputs import NamedInput
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.decisions import Decision
from hwnas.nn.narrowing import narrow, widths_of
from hwnas.nn.searchable import Build, Searchable
from hwnas.spaces.traced.described import (
    DescribedChoice,
    DescribedPart,
    Literals,
    TracedOptions,
)
from hwnas.spaces.traced.naming import (
    Named,
    argument_names,
    named_decisions,
    readable_modules,
)
from hwnas.spaces.traced.operators import Operator
from hwnas.spaces.traced.walk import Walk

Assignment = tuple[int, ...]
"""The index of the option of each row; only those of widths matter."""
EXAMPLES = 2
"""Samples of the example that run."""


@dataclass
class Finding:
    """What is found in a model.

    Attributes:
        model: a copy of the user's model, whose searchable modules know their rows.
        inputs: example inputs, (2, ...) each.
        named: the choices, by row.
        channels_last: whether the model runs in that memory format.
        row_of: the row of each decision.
        widths: the rows of widths.
        walks: the walk at each assignment of widths that was needed.
        depending: the rows of the widths that each piece depends on.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    named: list[Named]
    channels_last: bool
    row_of: dict[Decision, int] = field(default_factory=dict)
    widths: list[int] = field(default_factory=list)
    walks: dict[Assignment, Walk] = field(default_factory=dict)
    depending: list[tuple[int, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module, inputs: Sequence[Tensor]) -> Self:
        """Look at every option of every choice of a model.

        Raises:
            InputError: see `space_of`.
        """
        model = copy.deepcopy(model).cpu().eval()
        argument_names(model, len(inputs))
        named = named_decisions(model)
        if not named:
            raise InputError(
                "the model has no choices",
                where="model",
                expected="modules of hwnas.nn: Choice, Repeat, Build, or layers with a Width",
            )
        examples = [_examples(x) for x in inputs]
        if any(x.dim() == 4 for x in examples):
            # It is faster, but code such as `x.view(len(x), -1)` does not run in it.
            with contextlib.suppress(InputError):
                return cls._looked(model, examples, named, channels_last=True)
        return cls._looked(model, examples, named, channels_last=False)

    @classmethod
    def _looked(
        cls, model: nn.Module, inputs: Sequence[Tensor], named: list[Named], *, channels_last: bool
    ) -> Self:
        """Look at a model in one of the memory formats."""
        memory = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=memory)  # type: ignore[call-overload]
        examples = (x.contiguous(memory_format=memory) if x.dim() == 4 else x for x in inputs)
        finding = cls(model, tuple(examples), list(named), channels_last)
        finding._number(range(len(named)))
        finding._look()
        return finding

    def _number(self, order: Sequence[int]) -> None:
        """Put the choices into an order, and tell the modules their rows."""
        self.named = [self.named[old] for old in order]
        self.row_of = {one.decision: row for row, one in enumerate(self.named)}
        for module in self.model.modules():
            if isinstance(module, Searchable):
                module.rows = tuple(self.row_of[decision] for decision in module.decisions)
        found = {w.decision for module in self.model.modules() for _, w in widths_of(module)}
        self.widths = [row for row, one in enumerate(self.named) if one.decision in found]

    def _look(self) -> None:
        """Walk through the model as often as its widths need it."""
        self._find_dependences()
        order = self._order()
        if order != list(range(len(self.named))):
            self._number(order)
            self._find_dependences()
        self._cover()

    def _find_dependences(self) -> None:
        """Find the widths that each piece depends on, by changing one after the other."""
        self.walks.clear()
        first = self._walk(self.largest)
        self._require_called(first)
        self.depending = [()] * len(first.pieces)
        for row in self.widths:
            walk = self._walk(tuple(0 if r == row else k for r, k in enumerate(self.largest)))
            for index, (one, other) in enumerate(zip(first.pieces, walk.pieces, strict=True)):
                if one.operator.spec != other.operator.spec:
                    self.depending[index] += (row,)

    @property
    def largest(self) -> Assignment:
        """The last option of every choice, which is the largest of a width."""
        return tuple(len(one.decision.options) - 1 for one in self.named)

    def _walk(self, assignment: Assignment) -> Walk:
        """The walk through the model with certain widths."""
        if assignment in self.walks:
            return self.walks[assignment]
        model = self.model
        if self.widths:
            model = copy.deepcopy(model)
            narrow(model, lambda width: width.values[assignment[self.row_of[width.decision]]])
        walk = Walk(model, self.inputs, _paths(model, self.named))
        try:
            walk.run()
        except InputError as error:
            if assignment == self.largest:
                raise
            raise InputError(
                str(error),
                where=", ".join(
                    f"{self.named[row].name} {self.named[row].decision.options[assignment[row]]}"
                    for row in self.widths
                ),
                mend="make every layer that reads these channels with the same Width",
            ) from error
        self.walks[assignment] = walk
        return walk

    def _require_called(self, walk: Walk) -> None:
        for path in walk.paths.values():
            if path not in walk.met:
                raise InputError(
                    "this choice is never called",
                    where=path,
                    expected="a forward that calls it",
                    mend="call it, or remove it",
                )

    def _order(self) -> list[int]:
        """The rows in an order in which each comes after those that decide whether it matters."""
        before = [
            {r for literals in self._matters(row) for r, _ in literals}
            for row in range(len(self.named))
        ]
        order: list[int] = []
        while len(order) < len(before):
            rest = [row for row in range(len(before)) if row not in order]
            ready = [row for row in rest if before[row] <= set(order)]
            if not ready:
                raise InputError(
                    "each of these choices decides whether the others matter",
                    where=", ".join(self.named[row].name for row in rest),
                )
            order.append(ready[0])
        return order

    def _matters(self, row: int) -> tuple[Literals, ...]:
        """The conditions under which a choice decides something; none if it always does."""
        walk = self.walks[self.largest]
        found = list(walk.matters.get(row, []))
        if row in self.widths:
            pieces = zip(walk.pieces, self.depending, strict=True)
            found += [piece.when for piece, rows in pieces if row in rows]
        return () if () in found else tuple(dict.fromkeys(found))

    def _cover(self) -> None:
        """Walk until every operator was seen with all combinations of its widths."""
        wanted = {
            tuple(zip(rows, options, strict=True))
            for rows in set(self.depending)
            for options in itertools.product(*(range(self.largest[row] + 1) for row in rows))
        }
        for assignment in self.walks:
            wanted -= {pairs for pairs in wanted if all(assignment[r] == k for r, k in pairs)}
        while wanted:
            taken: dict[int, int] = {}
            for pairs in sorted(wanted, key=lambda pairs: (-len(pairs), pairs)):
                if all(taken.get(row, option) == option for row, option in pairs):
                    taken |= dict(pairs)
            assignment = tuple(taken.get(row, k) for row, k in enumerate(self.largest))
            self._walk(assignment)
            wanted -= {pairs for pairs in wanted if all(assignment[r] == k for r, k in pairs)}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the model's output for one sample."""
        return self.walks[self.largest].output_shape

    def _named_inputs(self) -> tuple[NamedInput, ...] | None:
        """Several inputs under the names of the arguments of `forward`; None if there is one."""
        if len(self.inputs) == 1:
            return None
        names = argument_names(self.model, len(self.inputs))
        return tuple(
            NamedInput(name, tuple(x.shape[1:]), str(x.dtype).removeprefix("torch."))
            for name, x in zip(names, self.inputs, strict=True)
        )

    @property
    def operators(self) -> dict[OpSpec, Operator]:
        """All operators, by their key; equal modules at equal shapes are one."""
        found: dict[OpSpec, Operator] = {}
        for walk in self.walks.values():
            for piece in walk.pieces:
                found.setdefault(piece.operator.spec, piece.operator)
        return found

    def describe(self) -> TracedOptions:
        """The search space without its modules.

        Raises:
            InputError: when nothing that costs time depends on a choice.
        """
        runs: dict[tuple[Literals, tuple[tuple[int, int], ...]], list[OpSpec]] = {}
        first = self.walks[self.largest]
        for index, (piece, rows) in enumerate(zip(first.pieces, self.depending, strict=True)):
            seen: dict[tuple[int, ...], OpSpec] = {}
            for assignment, walk in self.walks.items():
                options = tuple(assignment[row] for row in rows)
                seen.setdefault(options, walk.pieces[index].operator.spec)
            for options, spec in sorted(seen.items()):
                sizes = tuple(zip(rows, options, strict=True))
                runs.setdefault((piece.when, sizes), []).append(spec)
        used = dict.fromkeys(spec for specs in runs.values() for spec in specs)
        number = {spec: k for k, spec in enumerate(used)}
        parts = [
            DescribedPart(when=when, sizes=sizes, operators=tuple(number[s] for s in specs))
            for (when, sizes), specs in runs.items()
        ]
        conditional = tuple(part for part in parts if part.literals)
        if not conditional:
            raise InputError(
                "no choice changes what the model computes",
                where=", ".join(one.name for one in self.named),
            )
        shape = tuple(self.inputs[0].shape[1:])
        operators = self.operators
        return TracedOptions(
            shape=shape,
            inputs=self._named_inputs(),
            found=tuple(
                DescribedChoice(
                    name=one.name, options=one.decision.options, matters=self._matters(row)
                )
                for row, one in enumerate(self.named)
            ),
            measured=tuple(operators[spec].describe() for spec in number),
            fixed=tuple(n for part in parts if not part.literals for n in part.operators),
            conditional=conditional,
        )


def _examples(x: Tensor) -> Tensor:
    """Two samples of an example, on the CPU."""
    x = x.detach().cpu()
    return torch.cat([x[:EXAMPLES]] * EXAMPLES)[:EXAMPLES]


def _paths(model: nn.Module, named: Sequence[Named]) -> dict[int, str]:
    """How errors name each searchable module: by its choice, or by its path if it has several."""
    return {
        id(module): path if isinstance(module, Build) else named[module.rows[0]].name
        for path, module in readable_modules(model)
        if isinstance(module, Searchable)
    }
