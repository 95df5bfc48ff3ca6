"""Common subexpressions and linear programs: what costs and exact decoding need from a space.

A runtime that eliminates common subexpressions runs equal parameter-free work on the same input
only once. `Repeated` and `SharedWork` describe where a space has such work. `paid_share` and
`saved_runs` give its expected cost for a mixture, and a `DecodingProgram` its cost for exact
decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hwnas.latency_tables.table import OpSpec


@dataclass(frozen=True)
class Repeated:
    """Options of several choices that run exactly the same work on the same input.

    Attributes:
        options: (choice, option) of each, by index.
    """

    options: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SharedWork:
    """Parameter-free work on one input with which the operators of several options begin.

    Attributes:
        name: unique among the space's shared work.
        operators: the operators in a latency table that the work consists of.
        options: (choice, option) of each, by index; the options of one choice exclude each other.
    """

    name: str
    operators: Counter[OpSpec]
    options: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DecodingProgram:
    """The architectures of a space as a mixed-integer linear program.

    The first variables are binary, one for each option of each choice (row-major as in a
    `Mixture`), and 1 if the option is taken. They are followed by auxiliary variables between 0
    and 1, whose meaning is up to the space.

    Attributes:
        auxiliary: number of auxiliary variables.
        matrix: (constraints, variables).
        lower: (constraints,), lower bounds of `matrix @ variables`.
        upper: (constraints,), upper bounds.
        runs: (choices, max_parts), index of the variable that is 1 if the part runs and costs
            time; -1 where the choice has no such part.
        shared: for each shared work the variable that is 1 if it runs, and the variables of the
            operators that begin with it.
    """

    auxiliary: int
    matrix: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    runs: np.ndarray
    shared: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def run_once(
        self, repeats: Sequence[Repeated], shared: Sequence[SharedWork] = ()
    ) -> DecodingProgram:
        """The same program for a runtime that eliminates common subexpressions.

        There is an additional variable for each option of a `Repeated` but its first, whether the
        option has to be paid for, and one for each shared work, whether it runs. These variables
        have lower bounds only; since they cost time, the latency budget keeps them there.
        """
        return self._run_repeats_once(repeats)._run_shared_once(shared, self.runs)

    def _run_shared_once(self, shared: Sequence[SharedWork], runs: np.ndarray) -> DecodingProgram:
        """Shared work runs if any of its options runs: work - sum of a choice's runs >= 0."""
        variables = self.matrix.shape[1]
        rows: list[np.ndarray] = []
        variables_of: list[tuple[int, tuple[int, ...]]] = []
        for number, work in enumerate(shared):
            row_of_choice: dict[int, np.ndarray] = {}
            for choice, option in work.options:
                row = row_of_choice.setdefault(choice, np.zeros(variables + len(shared)))
                row[[variables + number, runs[choice, option]]] = 1, -1
            rows += row_of_choice.values()
            members = tuple(int(runs[option]) for option in work.options)
            variables_of.append((variables + number, members))
        return replace(self._extended(len(shared), rows), shared=tuple(variables_of))

    def _extended(self, count: int, rows: Sequence[np.ndarray]) -> DecodingProgram:
        """With `count` more auxiliary variables, and the constraints `rows @ variables >= 0`."""
        wider = np.pad(self.matrix, ((0, 0), (0, count)))
        return replace(
            self,
            auxiliary=self.auxiliary + count,
            matrix=np.vstack([wider, *rows]),
            lower=np.concatenate([self.lower, np.zeros(len(rows))]),
            upper=np.concatenate([self.upper, np.full(len(rows), np.inf)]),
        )

    def _run_repeats_once(self, repeats: Sequence[Repeated]) -> DecodingProgram:
        """An option is paid for if it runs and none before it in its group does.

        As a constraint: paid - run + sum of the earlier options' runs >= 0.
        """
        later = [(group, i) for group in repeats for i in range(1, len(group.options))]
        variables = self.matrix.shape[1]
        rows, runs = [], self.runs.copy()
        for number, (group, position) in enumerate(later):
            row = np.zeros(variables + len(later))
            row[[self.runs[earlier] for earlier in group.options[:position]]] = 1
            row[[variables + number, self.runs[group.options[position]]]] = 1, -1
            rows.append(row)
            runs[group.options[position]] = variables + number
        return replace(self._extended(len(later), rows), runs=runs)


def paid_share(runs: Tensor, repeats: Sequence[Repeated]) -> Tensor:
    """The expected share of its cost that each part pays when repeated work runs once.

    The first part of a group that runs pays for the whole group. The result is exact if the parts
    of a group run independently of each other.

    Args:
        runs: (..., choices, max_parts), the probability that each part runs.
        repeats: the groups of parts with the same work.

    Returns:
        (..., choices, max_parts).
    """
    paid = torch.ones_like(runs)
    for group in repeats:
        absent = torch.ones_like(runs[..., 0, 0])
        for choice, option in group.options:
            paid[..., choice, option] = absent
            absent = absent * (1 - runs[..., choice, option])
    return runs * paid


def saved_runs(runs: Tensor, shared: Sequence[SharedWork]) -> Tensor:
    """The expected number of runs of each shared work beyond the first, which are saved.

    The result is exact if the choices run their operators independently of each other.

    Args:
        runs: (..., choices, max_options), the probability that each operator runs.
        shared: the shared work.

    Returns:
        (..., shared work).
    """
    columns = []
    for work in shared:
        wanted: dict[int, Tensor] = {}
        for choice, option in work.options:
            wanted[choice] = wanted.get(choice, 0.0) + runs[..., choice, option]
        choices = torch.stack(list(wanted.values()), dim=-1)
        columns.append(choices.sum(dim=-1) - (1 - (1 - choices).prod(dim=-1)))
    return torch.stack(columns, dim=-1) if columns else runs.new_zeros((*runs.shape[:-2], 0))
