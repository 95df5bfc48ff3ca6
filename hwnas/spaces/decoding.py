"""Which operators a network pays for: as probabilities of a mixture, and as a linear programme."""

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
    """Options that run the same work on the same input.

    Attributes:
        options: (choice, option) of each.
    """

    options: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SharedWork:
    """Work without weights on one input, in which several options' operators begin.

    Attributes:
        name: tells it from the space's other shared work.
        operators: what it is, as a table prices it.
        options: (choice, option) of each; a choice's options exclude each other.
    """

    name: str
    operators: Counter[OpSpec]
    options: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DecodingProgram:
    """Which 0/1 vectors are architectures: the structure of a space as linear constraints.

    The variables are first one for each option of each choice (row-major as in a Mixture, 0 or 1,
    1 where the option is taken), then `auxiliary` more between 0 and 1 that the space is free to
    use.

    Attributes:
        auxiliary: number of further variables.
        matrix: (constraints, variables).
        lower, upper: (constraints,), bounds of `matrix @ variables`.
        runs: (choices, max_parts), index of the variable that is 1 when that part runs and costs
            time; -1 where there is no such part.
        shared: of each shared work, the variable that is 1 when it runs, and the variables of the
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
        """The same structure, where what is repeated and what is shared runs once.

        One more variable for each option that is not its group's first: whether it still pays when
        it runs; and one for each shared work: whether any of its options runs. Running costs time,
        so a budget pushes the variables no higher than they must be.
        """
        return self._run_repeats_once(repeats)._run_shared_once(shared, self.runs)

    def _run_shared_once(self, shared: Sequence[SharedWork], runs: np.ndarray) -> DecodingProgram:
        variables = self.matrix.shape[1]
        rows: list[np.ndarray] = []
        variables_of: list[tuple[int, tuple[int, ...]]] = []
        for number, work in enumerate(shared):
            of_choice: dict[int, np.ndarray] = {}
            for choice, option in work.options:
                row = of_choice.setdefault(choice, np.zeros(variables + len(shared)))
                row[[variables + number, runs[choice, option]]] = 1, -1
            rows += of_choice.values()
            members = tuple(int(runs[option]) for option in work.options)
            variables_of.append((variables + number, members))
        return replace(self._wider(len(shared), rows), shared=tuple(variables_of))

    def _wider(self, count: int, rows: Sequence[np.ndarray]) -> DecodingProgram:
        """With so many more variables, and rows that are at least 0."""
        wider = np.pad(self.matrix, ((0, 0), (0, count)))
        return replace(
            self,
            auxiliary=self.auxiliary + count,
            matrix=np.vstack([wider, *rows]),
            lower=np.concatenate([self.lower, np.zeros(len(rows))]),
            upper=np.concatenate([self.upper, np.full(len(rows), np.inf)]),
        )

    def _run_repeats_once(self, repeats: Sequence[Repeated]) -> DecodingProgram:
        later = [(group, i) for group in repeats for i in range(1, len(group.options))]
        variables = self.matrix.shape[1]
        rows, runs = [], self.runs.copy()
        for number, (group, position) in enumerate(later):
            row = np.zeros(variables + len(later))
            row[[self.runs[earlier] for earlier in group.options[:position]]] = 1
            row[[variables + number, self.runs[group.options[position]]]] = 1, -1
            rows.append(row)
            runs[group.options[position]] = variables + number
        return replace(self._wider(len(later), rows), runs=runs)


def run_once(runs: Tensor, repeats: Sequence[Repeated]) -> Tensor:
    """What an option is expected to pay, where the first of a group that runs pays for all.

    Exact where the members of a group run independently of each other.

    Args:
        runs: (..., choices, max_parts), probability that each part runs.
        repeats: the groups.
    """
    paid = torch.ones_like(runs)
    for group in repeats:
        absent = torch.ones_like(runs[..., 0, 0])
        for choice, option in group.options:
            paid[..., choice, option] = absent
            absent = absent * (1 - runs[..., choice, option])
    return runs * paid


def saved(runs: Tensor, shared: Sequence[SharedWork]) -> Tensor:
    """How often shared work is expected to be wanted beyond its first time.

    Exact where the choices run their operators independently of each other.

    Args:
        runs: (..., choices, max_options), probability that each operator runs.
        shared: what may be shared.

    Returns:
        (..., shared).
    """
    columns = []
    for work in shared:
        wanted: dict[int, Tensor] = {}
        for choice, option in work.options:
            wanted[choice] = wanted.get(choice, 0.0) + runs[..., choice, option]
        choices = torch.stack(list(wanted.values()), dim=-1)
        columns.append(choices.sum(dim=-1) - (1 - (1 - choices).prod(dim=-1)))
    return torch.stack(columns, dim=-1) if columns else runs.new_zeros((*runs.shape[:-2], 0))
