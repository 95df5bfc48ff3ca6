"""Which operators a network pays for: as probabilities of a mixture, and as a linear programme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

Repeats = Sequence[Sequence[tuple[int, int]]]
"""Groups of (choice, option) that are one operator without weights on one input."""


@dataclass(frozen=True)
class DecodingProgram:
    """Which 0/1 vectors are architectures: the structure of a space as linear constraints.

    The variables are first one for each option of each choice (row-major as in a Mixture, 1 where
    the option is taken), then `auxiliary` more that the space is free to use.

    Attributes:
        auxiliary: number of further 0/1 variables.
        matrix: (constraints, variables).
        lower, upper: (constraints,), bounds of `matrix @ variables`.
        runs: (choices, max_options), index of the variable that is 1 when that operator runs and
            costs time; -1 where there is no such option.
    """

    auxiliary: int
    matrix: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    runs: np.ndarray

    def run_once(self, repeats: Repeats) -> DecodingProgram:
        """The same structure, where the first operator of a group that runs stands for all.

        One more variable for each operator that is not its group's first: at least 1 when it runs
        and none before it does. Running costs time, so a budget pushes it no higher.
        """
        rows, runs = [], self.runs.copy()
        later = [(group, i) for group in repeats for i in range(1, len(group))]
        variables = self.matrix.shape[1]
        for number, (group, position) in enumerate(later):
            row = np.zeros(variables + len(later))
            row[variables + number] = 1
            row[self.runs[group[position]]] = -1
            row[[self.runs[earlier] for earlier in group[:position]]] = 1
            rows.append(row)
            runs[group[position]] = variables + number
        wider = np.pad(self.matrix, ((0, 0), (0, len(later))))
        return replace(
            self,
            auxiliary=self.auxiliary + len(later),
            matrix=np.vstack([wider, *rows]),
            lower=np.concatenate([self.lower, np.zeros(len(rows))]),
            upper=np.concatenate([self.upper, np.full(len(rows), np.inf)]),
            runs=runs,
        )


def run_once(runs: Tensor, repeats: Repeats) -> Tensor:
    """Probability that an operator runs and no earlier one of its group does.

    Exact where the members of a group run independently of each other.

    Args:
        runs: (..., choices, max_options), probability that each operator runs.
        repeats: the groups.
    """
    none_before = torch.ones_like(runs)
    for group in repeats:
        absent = torch.ones_like(runs[..., 0, 0])
        for choice, option in group:
            none_before[..., choice, option] = absent
            absent = absent * (1 - runs[..., choice, option])
    return runs * none_before
